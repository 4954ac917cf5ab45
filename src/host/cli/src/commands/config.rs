//! `config`

use instar_abi::record::Value;

use super::Command;
use super::options::OUTPUT;
use crate::getopt::Parsed;
use crate::program::{Exit, Program};

/// The command.
pub const COMMAND: Command = Command {
    name: "config",
    about: "Show every setting in force, and where it comes from.",
    operands: "",
    options: &[OUTPUT],
    stock: false,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let json = super::info::wants_json(program, parsed)?;
    if !parsed.operands.is_empty() {
        return Err(program.usage("config takes no file name"));
    }
    if let Some(text) = &program.misconfigured {
        return Err(program.fail(text));
    }
    let rows = program.config.rows();
    let text = if json {
        let mut map = Value::map();
        for (key, values, origin) in rows {
            let mut entry = Value::map();
            let values: Vec<Value> = values.iter().map(|v| Value::from(v.as_str())).collect();
            entry.set("value", values).set("from", origin);
            map.set(key, entry);
        }
        instar_render::json(&map) + "\n"
    } else {
        rows.iter()
            .map(|(key, values, origin)| {
                let value = if values.is_empty() { "-".to_string() } else { values.join(":") };
                format!("{key:<24} {value:<24} {origin}\n")
            })
            .collect()
    };
    program.print(&text)?;
    Ok(0)
}
