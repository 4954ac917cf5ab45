//! `formats`

use instar_abi::drivers::{FORMATS, Format, Reach};
use instar_abi::record::Value;

use super::Command;
use super::options::OUTPUT;
use crate::getopt::Parsed;
use crate::layout::table;
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};

/// The command.
pub const COMMAND: Command = Command {
    name: "formats",
    group: Group::About,
    about: "List the formats, and what can be done with each.",
    operands: "",
    options: &[OUTPUT],
    stock: false,
    manual: &pages::FORMATS,
    run,
};

/// What can be done with images of a format. Whatever is known is read.
fn reaches(format: &Format) -> [(&'static str, Reach); 4] {
    [("read", Reach::Whole), ("written", format.written), ("in-place", format.in_place), ("resized", format.resized)]
}

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let json = super::info::wants_json(program, parsed)?;
    if !parsed.operands.is_empty() {
        return Err(program.usage("formats takes no file name"));
    }
    let text =
        if json { instar_render::json(&Value::List(FORMATS.iter().map(as_json).collect())) + "\n" } else { as_table() };
    program.print(&text)?;
    Ok(0)
}

fn as_json(format: &Format) -> Value {
    let (mut map, mut notes) = (Value::map(), Value::map());
    map.set("name", format.name);
    for (key, reach) in reaches(format) {
        map.set(key, !matches!(reach, Reach::None));
        if let Reach::Part(which) = reach {
            notes.set(key, which);
        }
    }
    map.set("only", notes);
    let also: Vec<Value> = format.also.iter().map(|name| Value::from(*name)).collect();
    map.set("aliases", also);
    map
}

fn as_table() -> String {
    let head = ["FORMAT", "READ", "WRITTEN", "IN PLACE", "RESIZED", "ALSO CALLED"].map(ToString::to_string);
    let mut rows = vec![head.to_vec()];
    let mut notes = Vec::new();
    for format in FORMATS {
        let mut row = vec![format.name.to_string()];
        for (key, reach) in reaches(format) {
            row.push(match reach {
                Reach::Whole => "yes".to_string(),
                Reach::None => "no".to_string(),
                Reach::Part(which) => {
                    notes.push((format.name, key, which));
                    format!("some ({})", notes.len())
                }
            });
        }
        row.push(if format.also.is_empty() { "-".to_string() } else { format.also.join(", ") });
        rows.push(row);
    }
    let notes = notes.iter().enumerate().map(|(at, (name, key, which))| {
        let key = key.replace('-', " ");
        format!("({}) {name}, {key}: {which}\n", at + 1)
    });
    table(&rows) + "\n" + &notes.collect::<String>()
}
