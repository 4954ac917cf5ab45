//! Settings for those that keep images as they do, by one word each.

use super::document::PINNED;
use super::edit::Change;
use super::settings::ALLOW;

/// What a word stands for.
pub struct Profile {
    /// The word.
    pub name: &'static str,
    /// For whom, and what it does.
    pub about: &'static str,
    /// Folders that images may refer to.
    folders: &'static [&'static str],
    /// Settings and their values.
    values: &'static [(&'static str, &'static str)],
    /// In the system's file nothing may loosen them.
    pins: bool,
}

/// All of them.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "nova",
        about: "OpenStack's instances stand on images in _base, and on nothing else",
        folders: &["/var/lib/nova/instances/_base"],
        values: &[],
        pins: false,
    },
    Profile {
        name: "libvirt",
        about: "images of any pool stand on images in the default one",
        folders: &["/var/lib/libvirt/images"],
        values: &[],
        pins: false,
    },
    Profile {
        name: "proxmox",
        about: "linked clones stand on templates, which have folders of their own",
        folders: &["/var/lib/vz/images", "/var/lib/vz/template"],
        values: &[],
        pins: false,
    },
    Profile {
        name: "incus",
        about: "images come from others, and stand on nothing",
        folders: &[],
        values: &[("backing.none", "true")],
        pins: false,
    },
    Profile {
        name: "strict",
        about: "no image refers to a file, and all are read in a virtual machine; pinned, if it is the system's file",
        folders: &[],
        values: &[("backing.none", "true"), ("isolation", "kvm")],
        pins: true,
    },
];

impl Profile {
    /// The changes to a file.
    pub fn changes(&self, system: bool) -> Vec<Change> {
        let folders = self.folders.iter().map(|folder| Change::Add(ALLOW.into(), (*folder).into()));
        let values = self.values.iter().map(|(key, value)| Change::Set((*key).into(), (*value).into()));
        let pins = self.values.iter().filter(|_| self.pins && system);
        let pins = pins.map(|(key, _)| Change::Add(PINNED.into(), (*key).into()));
        folders.chain(values).chain(pins).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::by_key;
    use super::*;

    #[test]
    fn every_profile_names_settings() {
        for profile in PROFILES {
            for (key, value) in profile.values {
                let setting = by_key(key).expect("a setting");
                assert_eq!(setting.check(value.as_ref()), Ok(()));
            }
            assert!(profile.folders.iter().all(|folder| folder.starts_with('/')));
        }
    }
}
