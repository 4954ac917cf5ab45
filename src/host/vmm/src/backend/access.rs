//! What a user can do who may not open /dev/kvm.

use std::os::unix::fs::MetadataExt;

/// For whom reading and writing is, of a file's mode.
const GROUPS: u32 = 0o060;

/// The advice for this user, as the device is.
pub fn advice() -> String {
    let Ok(device) = std::fs::metadata("/dev/kvm") else { return NO_GROUP.to_string() };
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let own = rustix::process::getgroups().unwrap_or_default();
    let is_member = own.iter().chain([&rustix::process::getegid()]).any(|group| group.as_raw() == device.gid());
    words(device.gid(), device.mode(), is_member, &groups)
}

const NO_GROUP: &str = "the device has no group whose members may use it: an administrator can make one, named kvm, with a \
                        udev rule (KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\"), or give it to this user \
                        (setfacl -m u:USER:rw /dev/kvm)";

fn words(group: u32, mode: u32, is_member: bool, groups: &str) -> String {
    let number = group.to_string();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then_some(name)
    });
    if mode & GROUPS != GROUPS || group == 0 {
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

    #[test]
    fn a_group_is_advised_only_where_there_is_one() {
        let groups = "root:x:0:\nvirt:x:36:a,b\n";
        assert_eq!(words(36, 0o20660, false, groups), "add the user to the group virt");
        assert!(words(36, 0o20660, true, groups).starts_with("its mode lets this user in"));
        assert!(words(37, 0o20660, false, groups).starts_with("the device is for group 37, which has no name"));
        for (group, mode) in [(0, 0o20660), (36, 0o20600), (36, 0o20640)] {
            assert_eq!(words(group, mode, false, groups), NO_GROUP);
        }
    }
}
