//! `snapshot`

use std::ffi::OsStr;
use std::time::{SystemTime, UNIX_EPOCH};

use instar_abi::ops::snapshot::{Snapshot, SnapshotAction};
use instar_render::snapshot_table;
use instar_vmm::target::Cache;

use super::Command;
use super::options::{FORCE_SHARE, FORMAT, IMAGE_OPTS, OBJECT, QUIET};
use crate::call::Call;
use crate::getopt::{Opt, Parsed};
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};
use crate::running::{Defaults, Silent};

/// The command.
pub const COMMAND: Command = Command {
    name: "snapshot",
    group: Group::Change,
    about: "List, take, apply and delete snapshots inside of an image.",
    operands: "FILE",
    options: &[
        FORMAT.since((10, 0)),
        IMAGE_OPTS,
        Opt::flag("list", "list the snapshots (the default)").letter('l'),
        Opt::value("create", "SNAPSHOT", "take a snapshot of that name").letter('c').bytes(),
        Opt::value("apply", "SNAPSHOT", "make the disk what it was in that snapshot").letter('a').bytes(),
        Opt::value("delete", "SNAPSHOT", "delete that snapshot").letter('d').bytes(),
        FORCE_SHARE,
        QUIET,
        OBJECT,
    ],
    stock: true,
    manual: &pages::SNAPSHOT,
    run,
};

/// What is to be done, and the name that it is to be done with.
fn action<'p>(program: &Program, parsed: &'p Parsed) -> Result<Option<(SnapshotAction, &'p OsStr)>, Exit> {
    let said = parsed.each().filter_map(|(key, name)| {
        let action = match key {
            "list" => SnapshotAction::List,
            "create" => SnapshotAction::Create,
            "apply" => SnapshotAction::Apply,
            "delete" => SnapshotAction::Delete,
            _ => return None,
        };
        Some((action, name))
    });
    let mut said = said.fuse();
    match (said.next(), said.next()) {
        (_, Some(_)) => Err(program.usage("Cannot mix '-l', '-a', '-c', '-d'")),
        (Some(one), None) => Ok(Some(one)),
        (None, None) if program.version.major >= 10 => Ok(Some((SnapshotAction::List, OsStr::new("")))),
        (None, None) => Ok(None),
    }
}

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let modern = program.version.major >= 10;
    if modern {
        super::info::check_objects(program)?;
    }
    let action = action(program, parsed)?;
    let [operand] = &parsed.operands[..] else { return Err(program.usage("Expecting one image file name")) };
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    if !modern {
        super::info::check_objects(program)?;
    }
    let image = super::info::named(program, operand, parsed)?;
    let lists = matches!(action, Some((SnapshotAction::List, _)));
    let share = parsed.has("force-share");
    let device = if lists {
        program.open_source(&image, Cache::default(), share)?
    } else if share {
        let shown = instar_render::escape::terminal(operand.as_encoded_bytes());
        return Err(
            program.fail(&format!("Could not open '{shown}': force-share=on can only be used with read-only images"))
        );
    } else {
        program.open_in_place(&image, Cache::default())?
    };
    let mut call = Call::of(&image, device, share);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let params = Snapshot {
        image: call.described(program)?.image(),
        action: action.map(|(action, _)| action),
        name: action.map_or_else(Vec::new, |(_, name)| name.as_encoded_bytes().to_vec()),
        date_sec: now.as_secs(),
        // To the microsecond, as the stock tool.
        date_nsec: u64::from(now.subsec_micros()) * 1000,
    };
    let workers = if lists { 1 } else { program.workers() };
    let subject = operand.to_string_lossy();
    let (status, results) = program.run(params, call, workers, &Defaults::DATA, &subject, &Silent)?;
    if status == 0 && !results.snapshots.is_empty() {
        program.show(
            &|out| {
                writeln!(out, "Snapshot list:")?;
                let lines = snapshot_table(&results.snapshots, program.version, &super::info::Local);
                lines.into_iter().try_for_each(|line| writeln!(out, "{line}"))
            },
            &subject,
        )?;
    }
    Ok(status)
}
