//! `snapshot`: internal snapshots are listed, taken, gone back to and given up. How, the format knows.

use alloc::format;

use instar_abi::ops::snapshot::{Snapshot, SnapshotAction, SnapshotResults};
use instar_image::machine::display_name;
use instar_image::quirk::has;
use instar_image::{
    Changes, ENOTSUP, Editor, Error, Kind, Machine, NewSnapshot, Purpose, Quirk, Result, SnapshotEditor, Version,
};

use crate::guessed::tell_guessed;
use crate::info::snapshot_info;
use crate::open::{ImageSpec, Opening};
use crate::told::{tell, warn};

/// Bytes of an identifier, and of a name, that are shown.
const SHOWN_MAX: (usize, usize) = (127, 255);
/// Bytes of a new snapshot's name.
const NAME_MAX: usize = 255;

/// Does what is asked for; exit status 0.
pub fn run(machine: &dyn Machine, params: &Snapshot, version: Version) -> Result<u8> {
    let image = ImageSpec::of(&params.image);
    let lists = params.action == Some(SnapshotAction::List);
    let top = if lists { Purpose::Read } else { Purpose::Write(machine) };
    let purpose = |depth, _: &[u8]| if depth == 0 { top } else { Purpose::Read };
    let chain = Opening { machine, version }.chain(&image, &purpose);
    let mut chain = chain.map_err(|e| image.could_not_open(e))?;
    let top = chain.layers.first_mut().ok_or_else(|| Error::corrupt("a chain without an image"))?;
    let format = top.format;
    warn(machine, top.image.warnings())?;
    if lists {
        machine.seal()?;
        let found = top.image.describe()?.snapshots;
        let snapshots = found.iter().map(|snapshot| {
            let mut info = snapshot_info(snapshot);
            info.id.truncate(SHOWN_MAX.0);
            info.name.truncate(SHOWN_MAX.1);
            info
        });
        tell(machine, SnapshotResults { snapshots: snapshots.collect() })?;
        return Ok(0);
    }
    tell_guessed(machine, &image, format)?;
    let Some(action) = params.action else { return Ok(0) };
    if has(format, Quirk::HoldsSnapshots) {
        let begun = top.image.begin(&Changes { content: true, ..Changes::default() });
        begun.transpose().map_err(|e| image.could_not_open(e))?;
    }
    machine.seal()?;
    let snapshots = top.image.editor().and_then(Editor::snapshots);
    let name = display_name(&params.name);
    match action {
        SnapshotAction::List => Ok(()),
        SnapshotAction::Create => create(params, snapshots).map_err(|error| {
            let error = match error.kind {
                // Before, the number stood there too.
                Kind::Io(number) if version < Version::V10_0 => {
                    Error { message: format!("-{number} ({})", error.message), ..error }
                }
                _ => error,
            };
            error.context(format!("Could not create snapshot '{name}'"))
        }),
        SnapshotAction::Apply => {
            let applied = match snapshots {
                Some(snapshots) => snapshots.apply(&params.name),
                None => {
                    // The stock tool opens it once more.
                    tell_guessed(machine, &image, format)?;
                    Err(Error::unsupported("Block driver does not support snapshots"))
                }
            };
            applied.map_err(|e| e.context(format!("Could not apply snapshot '{name}'")))
        }
        SnapshotAction::Delete => {
            let deleted = match snapshots.map_or(Ok(false), |snapshots| snapshots.delete(&params.name)) {
                Ok(true) => Ok(()),
                Ok(false) => Err(Error::usage("snapshot not found")),
                Err(error) => Err(error),
            };
            deleted.map_err(|e| e.context(format!("Could not delete snapshot '{name}'")))
        }
    }?;
    Ok(0)
}

fn create(params: &Snapshot, snapshots: Option<&dyn SnapshotEditor>) -> Result<()> {
    let snapshots = snapshots.ok_or_else(|| Error::new(Kind::Io(ENOTSUP), "Operation not supported"))?;
    let name = params.name.get(..NAME_MAX).unwrap_or(&params.name);
    let date_sec = u32::try_from(params.date_sec).unwrap_or(u32::MAX);
    snapshots.create(&NewSnapshot { name, date_sec, date_nsec: u32::try_from(params.date_nsec).unwrap_or(0) })
}
