//! Links on the way: what counts is the file that they come to.

use super::*;

impl Place {
    fn link(&self, to: &str, name: &str) {
        symlink(to, self.0.join(name)).expect("a link");
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    fn leads_to(&self, gate: &Gate, name: &str) -> PathBuf {
        gate.find(name.as_bytes(), &self.top()).leads_to.expect("a plain path")
    }
}

#[test]
fn a_link_may_lead_from_one_allowed_folder_into_another() {
    let place = Place::new("across");
    place.link(&place.at("base/base"), "own/absolute");
    place.link("../base", "own/folder");
    place.link("../own/folder/base", "base/around");
    place.link(&place.at("own/sub/below"), "own/inside");
    let (gate, top) = (place.gate(&["base"]), place.top());
    for name in ["absolute", "folder/base", "../base/around", "folder/../base/base", "folder/around", "inside"] {
        assert_eq!(backing(&gate, name, &top), Status::Ok, "{name}");
    }
    let base = place.0.join("base/base");
    assert_eq!(place.leads_to(&gate, "folder/around"), base);
    let narrow = place.gate(&[]);
    for name in ["absolute", "folder/base", "folder/../base/base"] {
        assert_eq!(backing(&narrow, name, &top), Status::Refused, "{name}");
        let folder = place.leads_to(&narrow, name);
        assert_eq!(folder.parent(), base.parent(), "{name}: what would have to be allowed");
    }
    assert_eq!(backing(&narrow, "inside", &top), Status::Ok);
}

#[test]
fn names_in_a_file_are_relative_to_the_name_by_which_it_is_known() {
    let place = Place::new("relative");
    place.link("../base/base", "own/link");
    place.link("../base", "own/folder");
    let (gate, top) = (place.gate(&["base"]), place.top());
    let known = |name: &str| open(&gate, name.as_bytes(), Role::Backing, false, &top).expect("it is there").path;
    assert_eq!(known("link"), place.0.join("own/link"));
    assert_eq!(known("folder/base"), place.0.join("base/base"));
}

#[test]
fn links_without_end_are_an_error_of_the_files_own() {
    let place = Place::new("endless");
    place.link("loop", "own/loop");
    for number in 0..45 {
        place.link(&if number == 0 { "top".into() } else { format!("l{}", number - 1) }, &format!("own/l{number}"));
    }
    let (gate, top) = (place.gate(&[]), place.top());
    let errno = |name: &[u8]| open(&gate, name, Role::DataFile, false, &top).err();
    let endless = Some(No { status: Status::Io, errno: libc::ELOOP.cast_unsigned() });
    assert_eq!((errno(b"loop"), errno(b"l44"), errno(b"l39")), (endless, endless, None));
}

#[test]
fn what_is_neither_file_nor_device_is_not_opened_over_a_link_either() {
    let place = Place::new("link-types");
    place.link("/dev/zero", "own/zero");
    place.link("/proc/self/maps", "own/maps");
    place.link("../base", "own/folder");
    let (gate, top) = (place.gate(&["/dev", "/proc", "base"]), place.top());
    assert_eq!(backing(&gate, "zero", &top), Status::WrongType);
    assert_eq!(backing(&gate, "folder", &top), Status::Refused, "an allowed folder is no file");
    // The kernel's own links lead nobody.
    assert_eq!(backing(&gate, "maps", &top), Status::Refused);
    assert_eq!(backing(&gate, &format!("/proc/self/root{}", place.at("own/sub/below")), &top), Status::Refused);
}

#[test]
fn a_link_that_somebody_planted_is_not_followed_wherever_it_stands() {
    let place = Place::new("planted");
    let sticky = place.0.join("base/sticky");
    std::fs::create_dir(&sticky).expect("a folder");
    std::fs::set_permissions(&sticky, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).expect("it is ours");
    for (to, name, owner) in [("..", "theirs", 65534), ("..", "ours", 0), ("../base", "file", 65534)] {
        place.link(to, &format!("base/sticky/{name}"));
        if std::os::unix::fs::lchown(sticky.join(name), Some(owner), None).is_err() {
            println!("only root can give a link away");
            return;
        }
    }
    place.link("../base/sticky/theirs/base", "own/over");
    let (gate, top) = (place.gate(&["base"]), place.top());
    assert_eq!(backing(&gate, "../base/sticky/ours/base", &top), Status::Ok);
    for name in ["../base/sticky/theirs/base", "../base/sticky/file", "over"] {
        let no = open(&gate, name.as_bytes(), Role::Backing, false, &top).err();
        assert_eq!(no, Some(No { status: Status::Io, errno: libc::EACCES.cast_unsigned() }), "{name}");
    }
}

#[test]
fn a_link_that_leads_out_tells_nothing_of_what_is_there() {
    let place = Place::new("link-oracle");
    place.link("../base", "other/there");
    for name in ["secret", "absent", "secret/x", "there/base", "sub/../../base/base", "absent/../../base/base"] {
        place.link(&place.at(&format!("other/{name}")), "own/link");
        let (gate, top) = (place.gate(&["base"]), place.top());
        let no = open(&gate, b"link", Role::Backing, false, &top).err();
        assert_eq!(no, Some(No { status: Status::Refused, errno: 0 }), "{name}");
        std::fs::remove_file(place.0.join("own/link")).expect("made above");
    }
}

#[test]
fn a_part_is_written_over_a_link_by_the_same_rules() {
    let place = Place::new("link-write");
    place.link(&place.at("own/sub/below"), "own/inside");
    place.link(&place.at("other/secret"), "own/outside");
    let (gate, top) = written(&place, Parts::DATA_FILE);
    let write = |name: &[u8], role| status(open(&gate, name, role, true, &top));
    assert_eq!(write(b"outside", Role::DataFile), Status::Refused);
    assert_eq!(write(b"inside", Role::Backing), Status::ReadOnly);
    assert_eq!(write(b"inside", Role::DataFile), Status::Ok);
    assert_eq!(write(b"./a:b", Role::DataFile), Status::TooMany);
}

#[test]
fn a_folder_that_is_exchanged_for_a_link_meanwhile_leads_nowhere_else() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new("exchanged");
    for folder in ["own/way", "own/way/deep", "other/deep"] {
        std::fs::create_dir_all(place.0.join(folder)).expect("a folder");
    }
    std::fs::write(place.0.join("own/way/deep/secret"), "own").expect("room on the disk");
    std::fs::write(place.0.join("other/deep/secret"), "other").expect("room on the disk");
    place.link("../other", "own/out");
    place.link("way/deep", "own/link");
    let inode = std::fs::metadata(place.0.join("own/way/deep/secret")).expect("made above").ino();
    let (gate, top, end) = (place.gate(&[]), place.top(), AtomicBool::new(false));
    let ok = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (way, out) = (place.0.join("own/way"), place.0.join("own/out"));
            while !end.load(Ordering::Relaxed) {
                let cwd = rustix::fs::CWD;
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(cwd, &way, cwd, &out, exchange).expect("both are there");
            }
        });
        let opened = (0..20_000).filter_map(|_| open(&gate, b"link/secret", Role::DataFile, false, &top).ok());
        let ok = opened.inspect(|device| {
            assert_eq!(device.file.metadata().expect("it is open").ino(), inode);
        });
        let ok = ok.count();
        end.store(true, Ordering::Relaxed);
        ok
    });
    println!("{ok} of 20000 were opened");
}
