//! The pages: what each command does beyond its options, examples that can be typed, and exit statuses.

use super::Manual;

type Statuses = &'static [(&'static str, &'static str)];

const USUAL: Statuses = &[("0", "Done."), ("1", "Not done; standard error says why.")];
const CHECKED: Statuses = &[
    ("0", "The image is sound, or all that was found was repaired."),
    ("1", "The check was not completed."),
    ("2", "The image is corrupt."),
    ("3", "Clusters are leaked, which costs room and no data; nothing is corrupt."),
    ("63", "There is no check for images of this format."),
];
const COMPARED: Statuses = &[
    ("0", "The disks are the same."),
    ("1", "They differ."),
    ("2", "An image cannot be opened, or the run was stopped by a limit."),
    ("3", "It cannot be told which areas are in use."),
    ("4", "Data cannot be read."),
];
const JUDGED: Statuses = &[
    ("0", "Every file that the image names may be opened."),
    ("1", "The image cannot be read."),
    ("2", "A file that it names is refused."),
];
const TRIED: Statuses = &[("0", "Images can be read in the isolation in force."), ("1", "They cannot.")];

pub const INFO: Manual = Manual {
    detail: &[
        "Says which format an image has, how large its disk and its file are, what it stands on, which snapshots and bitmaps \
         are in it, and what else its format knows of itself.",
        "Of an image from a stranger ask with --no-backing: then it may name no other file.",
    ],
    examples: &[
        ("instar info disk.qcow2", "what it is"),
        ("instar info --no-backing upload.qcow2", "an upload, which may name no other file"),
        ("instar info --backing-chain --output json top.qcow2", "all images of a chain, for a program"),
    ],
    statuses: USUAL,
};

pub const MAP: Manual = Manual {
    detail: &[
        "Shows for each range of the disk whether it holds data, and where in which file of the chain; JSON says of the \
         other ranges, too, whether they read as zeroes.",
    ],
    examples: &[
        ("instar map disk.qcow2", "where the data is"),
        ("instar map --output json -s 1M -l 64k disk.qcow2", "a part of the disk, for a program"),
    ],
    statuses: USUAL,
};

pub const CHECK: Manual = Manual {
    detail: &[
        "Looks through the tables of an image: whether they fit together, and whether what they count is right. With -r what \
         was found is repaired; a run that is cut off leaves an image that is no worse than before.",
    ],
    examples: &[
        ("instar check disk.qcow2", "look, and change nothing"),
        ("instar check -r all disk.qcow2", "repair what is found"),
    ],
    statuses: CHECKED,
};

pub const COMPARE: Manual = Manual {
    detail: &[
        "Compares what two images show, whatever their formats. A disk that is longer than the other is the same if what it \
         has more reads as zeroes; with -s it is not.",
    ],
    examples: &[
        ("instar compare disk.raw disk.qcow2", "whether a conversion kept everything"),
        ("instar compare -q disk.raw disk.qcow2", "only by the exit status"),
    ],
    statuses: COMPARED,
};

pub const MEASURE: Manual = Manual {
    detail: &[
        "Says how large a file is that holds a disk of that size, or the content of that image: as it is made at first \
         (required size), and when all of the disk is written (fully allocated size).",
    ],
    examples: &[
        ("instar measure -O qcow2 disk.raw", "how much room a conversion needs"),
        ("instar measure -O qcow2 -o cluster_size=2M --size 10G", "an image that is not there yet"),
    ],
    statuses: USUAL,
};

pub const POLICY: Manual = Manual {
    detail: &[
        "Goes through the chain of an image and says of each file that is named in it whether it may be opened, by which rule, \
         and what would have to be allowed. Nothing of those files is shown.",
    ],
    examples: &[
        ("instar policy top.qcow2", "what the chain names"),
        ("instar policy --no-backing --output json upload.qcow2", "what an upload names, for a program"),
    ],
    statuses: JUDGED,
};

pub const BENCH: Manual = Manual {
    detail: &[
        "Sends many requests of one size to the disk, one behind the other, and says how long that took. With -w it writes: \
         what was there is lost.",
    ],
    examples: &[("instar bench -c 1000 disk.qcow2", "the time that 1000 reads take")],
    statuses: USUAL,
};

pub const CONVERT: Manual = Manual {
    detail: &[
        "Copies the disk that an image shows, with all that it stands on, into a new image. Several sources are put one behind \
         the other. What reads as zeroes takes no room in the target where its format can do so.",
        "The target appears under its name when it is complete: a conversion that fails, or is stopped, leaves what was there \
         before. With -n an existing image is written into instead.",
    ],
    examples: &[
        ("instar convert -O raw disk.qcow2 new.raw", "unpack"),
        ("instar convert -O qcow2 -c -o compression_type=zstd disk.raw small.qcow2", "compress"),
        ("instar convert -p -O qcow2 -B base.qcow2 -F qcow2 top.qcow2 thin.qcow2", "keep the base"),
        ("instar convert -l before -O raw disk.qcow2 old.raw", "what a snapshot holds"),
    ],
    statuses: USUAL,
};

pub const CREATE: Manual = Manual {
    detail: &[
        "Makes an image whose disk reads as zeroes or, with -b, as that of another image, which is its backing file from then \
         on and must not be changed any more. The size may be left out then.",
        "Sizes are in bytes, or with k, M, G, T, P or E behind them, which are powers of 1024.",
    ],
    examples: &[
        ("instar create -f qcow2 new.qcow2 10G", "an empty disk"),
        ("instar create -f qcow2 -b base.qcow2 -F qcow2 clone.qcow2", "a clone of another one"),
        ("instar create -f qcow2 -o help", "which options the format has"),
    ],
    statuses: USUAL,
};

pub const DD: Manual = Manual {
    detail: &[
        "Copies what an image shows in blocks, as dd(1) does with a disk: bs is the length of a block (512 bytes if not \
         given), skip how many of them are left out at first, count how many are copied at most. The target is made anew.",
    ],
    examples: &[
        ("instar dd -O raw bs=1M count=4 if=disk.qcow2 of=head.raw", "the first 4 MiB"),
        ("instar dd -f qcow2 -O raw bs=64k skip=16 if=disk.qcow2 of=rest.raw", "what follows 1 MiB"),
    ],
    statuses: USUAL,
};

pub const AMEND: Manual = Manual {
    detail: &[
        "Changes what an image was made with: the version of its format, the width of its reference counts, its data file, \
         or the passwords of an encrypted one. The disk stays what it is.",
    ],
    examples: &[
        ("instar amend -o compat=1.1,lazy_refcounts=on disk.qcow2", "a newer version"),
        ("instar amend -f qcow2 -o help", "what can be changed"),
    ],
    statuses: USUAL,
};

pub const BITMAP: Manual = Manual {
    detail: &[
        "Works on the dirty bitmaps of a qcow2, which record what was changed, for backups. All that is asked for is done \
         in the order given, and is there at once or not at all.",
    ],
    examples: &[
        ("instar bitmap --add disk.qcow2 since-monday", "record from now on"),
        ("instar bitmap --add --granularity 1M disk.qcow2 coarse", "in pieces of 1 MiB"),
    ],
    statuses: USUAL,
};

pub const COMMIT: Manual = Manual {
    detail: &[
        "Writes what differs from the backing file into that, and empties the image. With -b it goes into an image further down \
         the chain. A run that is cut off can be begun again.",
    ],
    examples: &[
        ("instar commit top.qcow2", "into the image below"),
        ("instar commit -d -p top.qcow2", "leave the image as it is, and show how far it is"),
    ],
    statuses: USUAL,
};

pub const REBASE: Manual = Manual {
    detail: &[
        "Lets an image stand on another backing file, or on none. What the two differ by is copied into the image, so that its \
         disk stays what it is; with -u only the name is changed.",
    ],
    examples: &[
        ("instar rebase -b newbase.qcow2 -F qcow2 top.qcow2", "on another base"),
        ("instar rebase --dry-run -b '' top.qcow2", "how much a copy of all would take"),
    ],
    statuses: USUAL,
};

pub const RESIZE: Manual = Manual {
    detail: &[
        "Makes the disk of an image longer, or with --shrink shorter. + and - in front of the size are relative to what it \
         is. The partitions and file systems on it do not change.",
    ],
    examples: &[
        ("instar resize disk.qcow2 +1G", "longer"),
        ("instar resize --shrink disk.qcow2 512M", "shorter: what lies behind is lost"),
    ],
    statuses: USUAL,
};

pub const SNAPSHOT: Manual = Manual {
    detail: &[
        "Works on the snapshots inside of a qcow2. Going back to one loses what was written since; take another one before.",
    ],
    examples: &[
        ("instar snapshot -c before disk.qcow2", "take one"),
        ("instar snapshot -l disk.qcow2", "list them"),
        ("instar snapshot -a before disk.qcow2", "go back to one"),
    ],
    statuses: USUAL,
};

pub const CONFIG: Manual = Manual {
    detail: &[
        "Without words it shows every setting with its value in force and where that comes from, and which files were looked \
         for. explain says by which rule. set, add and unset change your own file, or with --system the system's; add \
         is for lists. profile makes the changes that suit those who keep images as that service does.",
        "instar.toml(5) lists the settings.",
    ],
    examples: &[
        ("instar config", "what is in force"),
        ("instar config set isolation kvm", "read images in a virtual machine or not at all"),
        ("instar config add backing.allow /usr/share", "let images name files there"),
    ],
    statuses: USUAL,
};

pub const DOCTOR: Manual = Manual {
    detail: &[
        "Runs the sandbox once in a virtual machine and once in a process, and says what works, how fast, and what is \
               missing.",
    ],
    examples: &[("instar doctor", "whether images can be read here, and where")],
    statuses: TRIED,
};

pub const FORMATS: Manual = Manual {
    detail: &[
        "A line for each format: whether its images are read, made, changed in place (commit, rebase, convert -n) and resized; \
         and what others call it. JSON has true, too, for what some images can, and says in only which.",
    ],
    examples: &[("instar formats", "all of them"), ("instar formats --output json", "for a program")],
    statuses: USUAL,
};

pub const GENERATE: Manual = Manual {
    detail: &[
        "config: a configuration file with every setting in it, none of them in force; instar.toml(5).",
        "man: a page of the manual, instar(1) if none is named. With --all DIR all pages are written below DIR.",
        "bash, zsh, fish: completions for that shell; with --qemu-img for a link of that name.",
        "words: what may be typed at the end of a command line, of which all words follow, with -- in front of them. \
         The completions ask for it.",
    ],
    examples: &[
        ("instar generate config", "a sample configuration"),
        ("instar generate man instar-convert", "a page of the manual"),
        ("instar generate bash", "completions: 'source <(instar generate bash)'"),
        ("instar generate words -- instar convert -O q", "what -O can be"),
    ],
    statuses: USUAL,
};

pub const HELP: Manual = Manual {
    detail: &["The same as COMMAND --help, or without a command as --help."],
    examples: &[("instar help convert", "the options of a command")],
    statuses: USUAL,
};

pub const VERSION: Manual = Manual {
    detail: &[
        "Says which instar this is, and which release of qemu-img it imitates. With --verbose also from which commit it \
         was built, by which compiler, what the programs in the sandbox hash to, and what it was built with: unknown is what \
         the build was not told.",
    ],
    examples: &[("instar version --verbose", "everything to be said in a report")],
    statuses: USUAL,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_in_order() {
        for statuses in [USUAL, CHECKED, COMPARED, JUDGED, TRIED] {
            let numbers: Vec<u8> = statuses.iter().map(|(status, _)| status.parse().expect("a number")).collect();
            assert!(numbers.is_sorted());
        }
    }
}
