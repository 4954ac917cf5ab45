//! `doctor`

use std::ffi::OsStr;

use instar_abi::ops::{self, info::Info};
use instar_abi::record::Value;
use instar_vmm::{Isolation, Trial};

use super::Command;
use super::options::OUTPUT;
use crate::getopt::Parsed;
use crate::image_name::ImageName;
use crate::image_params::image_params;
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};

/// The command.
pub const COMMAND: Command = Command {
    name: "doctor",
    group: Group::About,
    about: "Try what isolation this machine offers, and say what is missing.",
    operands: "",
    options: &[OUTPUT],
    stock: false,
    manual: &pages::DOCTOR,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let json = super::info::wants_json(program, parsed)?;
    if !parsed.operands.is_empty() {
        return Err(program.usage("doctor takes no file name"));
    }
    let wanted = program.config.isolation().map_err(|e| program.fail(&e))?;
    let [kvm, process] = [try_out(program, Isolation::Kvm)?, try_out(program, Isolation::Process)?];
    let found = instar_vmm::probe();
    let (choice, tried) = match (wanted, &kvm) {
        (Isolation::Process, _) | (Isolation::Auto, Trial::Absent(_)) => ("process", &process),
        (Isolation::Kvm | Isolation::Auto, _) => ("kvm", &kvm),
    };
    let works = matches!(tried, Trial::Works(_));
    let text = if json {
        let mut map = Value::map();
        map.set("kvm", outcome(&kvm))
            .set("process", outcome(&process))
            .set("landlock", u64::from(found.landlock))
            .set("seccomp", found.seccomp)
            .set("namespaces", found.namespaces)
            .set("x86-64-v3", found.fast_guest)
            .set("isolation", if works { choice } else { "none" });
        instar_render::json(&map) + "\n"
    } else {
        let yes = |is: bool, no: &str| if is { "yes".to_string() } else { format!("no: {no}") };
        let landlock = match found.landlock {
            0 => "missing: the open policy stands alone; kernels have it from 5.13 on".to_string(),
            version => format!("version {version}"),
        };
        format!(
            "isolation in force:   {}\n\
             KVM:                  {}\n\
             process:              {}\n\
             Landlock:             {landlock}\n\
             seccomp:              {}\n\
             user namespaces:      {}\n\
             x86-64-v3:            {}\n",
            if works { choice.to_string() } else { format!("none: {choice} is what images are to be read in") },
            words(&kvm),
            words(&process),
            yes(found.seccomp, "the kernel is built without it, or it is denied; nothing runs"),
            yes(found.namespaces, "this user may not make any; the process sandbox is as strong without"),
            yes(found.fast_guest, "the slower build of the guest is used"),
        )
    };
    program.print(&text)?;
    Ok(u8::from(!works))
}

/// Has the guest look at an empty file.
fn try_out(program: &Program, isolation: Isolation) -> Result<Trial, Exit> {
    let image = ImageName::plain(OsStr::new("empty"), Some("raw".to_string()), program.version)
        .map_err(|e| program.fail(&e.to_string()))?;
    let image = image_params(&image, 0);
    let params = Info { image, backing_chain: false, limits: false, extra_detail: false };
    Ok(instar_vmm::attempt(isolation, ops::stream(&program.request(params))))
}

fn words(trial: &Trial) -> String {
    match trial {
        Trial::Works(time) => format!("works, a run takes {:.2} ms", time.as_secs_f64() * 1000.0),
        Trial::Absent(why) => format!("no: {why}"),
        Trial::Fails(why) => format!("fails: {why}"),
    }
}

fn outcome(trial: &Trial) -> Value {
    let mut map = Value::map();
    match trial {
        Trial::Works(time) => map.set("available", true).set("microseconds", time.as_micros() as u64),
        Trial::Absent(why) | Trial::Fails(why) => map.set("available", false).set("reason", why.as_str()),
    };
    map
}
