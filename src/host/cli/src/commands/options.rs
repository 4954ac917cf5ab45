//! Options that several commands have.

use crate::getopt::Opt;

/// Locks do not matter.
pub const FORCE_SHARE: Opt = Opt::flag("force-share", "also while another program writes to it").letter('U');
/// Which format the image has.
pub const FORMAT: Opt = Opt::value("format", "FMT", "the image's format; found out if not given").letter('f');
/// The operand is a list of options.
pub const IMAGE_OPTS: Opt = Opt::flag("image-opts", "FILE is a list of options: driver=..,file.filename=..");
/// Keys.
pub const OBJECT: Opt = Opt::value("object", "OBJECT", "a secret: secret,id=NAME,file=FILE").bytes();
/// Text or JSON.
pub const OUTPUT: Opt = Opt::value("output", "human|json", "how it is shown");
/// Progress.
pub const PROGRESS: Opt = Opt::flag("progress", "show how far it is").letter('p');
/// No words.
pub const QUIET: Opt = Opt::flag("quiet", "print nothing").letter('q');

/// The release that gave options new letters: its help tells what they were "in <= 10.0".
pub const NEW_STYLE: (u32, u32) = (10, 1);
