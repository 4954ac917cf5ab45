//! `doctor`

use instar_abi::record::Value;
use instar_vmm::Isolation;

use super::Command;
use super::options::OUTPUT;
use crate::getopt::Parsed;
use crate::program::{Exit, Program};

/// The command.
pub const COMMAND: Command = Command {
    name: "doctor",
    about: "Say what isolation this machine offers, and what is missing.",
    operands: "",
    options: &[OUTPUT],
    stock: false,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let json = super::info::wants_json(program, parsed)?;
    if !parsed.operands.is_empty() {
        return Err(program.usage("doctor takes no file name"));
    }
    let found = instar_vmm::probe();
    let wanted = program.config.isolation().map_err(|e| program.fail(&e))?;
    let choice = match (&found.kvm, wanted) {
        (_, Isolation::Process) | (Err(_), Isolation::Auto) => "process",
        (Ok(_), _) => "kvm",
        (Err(_), Isolation::Kvm) => "none: kvm is asked for and not there",
    };
    let text = if json {
        let mut map = Value::map();
        let mut kvm = Value::map();
        match &found.kvm {
            Ok(time) => kvm.set("available", true).set("start-microseconds", time.as_micros() as u64),
            Err(why) => kvm.set("available", false).set("reason", why.as_str()),
        };
        map.set("kvm", kvm)
            .set("landlock", u64::from(found.landlock))
            .set("seccomp", found.seccomp)
            .set("namespaces", found.namespaces)
            .set("x86-64-v3", found.fast_guest)
            .set("isolation", choice);
        instar_render::json(&map) + "\n"
    } else {
        let kvm = match &found.kvm {
            Ok(time) => format!("yes, a processor starts in {:.2} ms", time.as_secs_f64() * 1000.0),
            Err(why) => format!("no: {why}"),
        };
        let yes = |is: bool, no: &str| if is { "yes".to_string() } else { format!("no: {no}") };
        let landlock = match found.landlock {
            0 => "no: the kernel has it from 5.13 on, if it is among its security modules".to_string(),
            version => format!("version {version}"),
        };
        format!(
            "isolation in force:   {choice}\n\
             KVM:                  {kvm}\n\
             Landlock:             {landlock}\n\
             seccomp:              {}\n\
             user namespaces:      {}\n\
             x86-64-v3:            {}\n",
            yes(found.seccomp, "the kernel is built without it; the process sandbox cannot work"),
            yes(found.namespaces, "this user may not make any; the process sandbox is as strong without"),
            yes(found.fast_guest, "the slower build of the guest is used"),
        )
    };
    program.print(&text)?;
    Ok(u8::from(found.kvm.is_err() && !found.seccomp))
}
