//! What can be done where /dev/kvm cannot be opened: it depends on the place, and on who asks.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cpuid;

/// For whom reading and writing is, of a file's mode.
const GROUPS: u32 = 0o060;

/// The device as it is.
struct Found {
    group: u32,
    mode: u32,
}

/// What is known of the place. Each is read in the file system or of the processor, and none is needed.
#[derive(Clone, Copy)]
struct Place {
    /// The kernel has KVM, and a driver for this processor.
    loaded: bool,
    /// The module that such a processor wants; `None`: it shows no virtualisation.
    module: Option<&'static str>,
    /// This machine is itself virtual.
    nested: bool,
    /// A container.
    container: bool,
    /// A service of systemd's.
    service: bool,
    root: bool,
}

impl Place {
    fn here() -> Self {
        let any = |paths: &[&str]| paths.iter().any(|path| Path::new(path).exists());
        let init = std::fs::read("/run/systemd/container").is_ok_and(|name| !name.is_empty());
        Self {
            loaded: any(&["/sys/module/kvm_intel", "/sys/module/kvm_amd", "/sys/module/kvm_pvm"]),
            module: cpuid::kvm_module(),
            nested: cpuid::is_virtual(),
            container: any(&["/.dockerenv", "/run/.containerenv"]) || init || std::env::var_os("container").is_some(),
            service: std::env::var_os("INVOCATION_ID").is_some(),
            root: rustix::process::geteuid().is_root(),
        }
    }
}

/// The advice for this user at this place, after that error.
pub fn advice(errno: i32) -> String {
    let found = std::fs::metadata("/dev/kvm").ok().map(|meta| Found { group: meta.gid(), mode: meta.mode() });
    let groups = || std::fs::read_to_string("/etc/group").unwrap_or_default();
    let own = rustix::process::getgroups().unwrap_or_default();
    let is_member = |group: u32| own.iter().chain([&rustix::process::getegid()]).any(|member| member.as_raw() == group);
    let of_group = |found: &Found| of_group(found, is_member(found.group), &groups());
    words(errno, found.as_ref(), Place::here(), of_group)
}

const NO_GROUP: &str = "the device has no group whose members may use it: an administrator can make one, named kvm, with a \
                        udev rule (KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\"), or give it to this user \
                        (setfacl -m u:USER:rw /dev/kvm)";
const CONTAINER: &str = "this is a container: start it with --device /dev/kvm";
const SERVICE: &str = "this is a service: its unit needs DeviceAllow=/dev/kvm rw, and PrivateDevices=no";
const NO_DEVICE: &str = "the kernel has KVM, and this place has other devices: give it this one (bwrap --dev-bind /dev/kvm \
                         /dev/kvm, or what makes the place has)";
const NESTED: &str = "this machine is virtual, and its host lends it no virtualisation: there, load kvm_intel or kvm_amd with \
                      nested=1, and give this machine the processor as it is (-cpu host)";
const FIRMWARE: &str = "enable virtualisation in the firmware (VT-x, AMD-V or SVM): the processor shows none";

fn words(errno: i32, found: Option<&Found>, place: Place, of_group: impl Fn(&Found) -> String) -> String {
    let denied = matches!(errno, libc::EACCES | libc::EPERM);
    match (found, place) {
        // It is there, and its mode keeps this user out.
        (Some(found), Place { root: false, .. }) if errno == libc::EACCES => of_group(found),
        (_, Place { container: true, loaded: true, .. }) => CONTAINER.to_string(),
        (_, Place { service: true, loaded: true, .. }) => SERVICE.to_string(),
        _ if denied => {
            "something else than its mode denies it: look at the rules of the container or the service (devices), \
                        at a mount without devices (nodev), and at SELinux or AppArmor"
                .to_string()
        }
        (None, Place { loaded: true, .. }) => NO_DEVICE.to_string(),
        (_, Place { module: Some(module), loaded: false, container, .. }) => {
            let and = if container { "; then start this container with --device /dev/kvm" } else { "" };
            format!("load the module {module} (modprobe {module}){and}")
        }
        (_, Place { loaded: false, nested, .. }) => if nested { NESTED } else { FIRMWARE }.to_string(),
        _ => "see the kernel log".to_string(),
    }
}

fn of_group(found: &Found, is_member: bool, groups: &str) -> String {
    let number = found.group.to_string();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then_some(name)
    });
    if found.mode & GROUPS != GROUPS || found.group == 0 {
        return NO_GROUP.to_string();
    }
    match name {
        _ if is_member => {
            "its mode lets this user in, something else does not: look at the rules of the container or the \
                           service (devices), and of SELinux or AppArmor"
                .to_string()
        }
        Some(name) => format!("add the user to the group {name}"),
        None => format!("the device is for group {number}, which has no name here: run with it as a further group"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: Place =
        Place { loaded: true, module: Some("kvm_intel"), nested: false, container: false, service: false, root: true };

    fn said(errno: i32, found: Option<&Found>, place: Place) -> String {
        words(errno, found, place, |_| "a group".to_string())
    }

    #[test]
    fn advice_is_for_the_place() {
        let device = Found { group: 36, mode: 0o20660 };
        let at = |place| said(libc::ENOENT, None, place);
        assert_eq!(at(Place { container: true, ..BARE }), CONTAINER);
        assert_eq!(at(Place { service: true, ..BARE }), SERVICE);
        assert_eq!(at(BARE), NO_DEVICE);
        assert_eq!(at(Place { loaded: false, ..BARE }), "load the module kvm_intel (modprobe kvm_intel)");
        let amd = Place { loaded: false, module: Some("kvm_amd"), container: true, ..BARE };
        assert!(at(amd).starts_with("load the module kvm_amd") && at(amd).ends_with("--device /dev/kvm"));
        assert_eq!(at(Place { loaded: false, module: None, nested: true, ..BARE }), NESTED);
        assert_eq!(at(Place { loaded: false, module: None, ..BARE }), FIRMWARE);
        // The file is there, and no driver behind it.
        assert!(said(libc::ENODEV, Some(&device), Place { loaded: false, ..BARE }).starts_with("load the module"));
    }

    #[test]
    fn root_is_told_of_no_group() {
        let device = Found { group: 36, mode: 0o20660 };
        let user = Place { root: false, ..BARE };
        assert_eq!(said(libc::EACCES, Some(&device), user), "a group");
        for errno in [libc::EACCES, libc::EPERM] {
            assert!(said(errno, Some(&device), BARE).starts_with("something else than its mode"));
            assert_eq!(said(errno, Some(&device), Place { container: true, ..BARE }), CONTAINER);
            assert_eq!(said(errno, Some(&device), Place { service: true, ..BARE }), SERVICE);
        }
        assert_eq!(said(libc::EPERM, Some(&device), Place { container: true, ..user }), CONTAINER);
    }

    #[test]
    fn a_group_is_advised_only_where_there_is_one() {
        let groups = "root:x:0:\nvirt:x:36:a,b\n";
        let words = |group, mode, is_member| of_group(&Found { group, mode }, is_member, groups);
        assert_eq!(words(36, 0o20660, false), "add the user to the group virt");
        assert!(words(36, 0o20660, true).starts_with("its mode lets this user in"));
        assert!(words(37, 0o20660, false).starts_with("the device is for group 37, which has no name"));
        for (group, mode) in [(0, 0o20660), (36, 0o20600), (36, 0o20640)] {
            assert_eq!(words(group, mode, false), NO_GROUP);
        }
    }
}
