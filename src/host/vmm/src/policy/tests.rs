//! The open policy against real files.

use std::os::unix::fs::symlink;

use super::*;

/// A folder of the test's own: `own/` with an image, `base/` that may be allowed, `other/` that is not.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("instar-policy-{name}-{}", std::process::id()));
        for folder in ["own/sub", "base", "other"] {
            std::fs::create_dir_all(root.join(folder)).expect("a folder for the test");
        }
        let place = Self(std::fs::canonicalize(root).expect("just made"));
        for file in ["own/top", "own/sub/below", "base/base", "other/secret", "own/a:b"] {
            std::fs::write(place.0.join(file), file).expect("room on the disk");
        }
        place
    }

    fn device(&self, name: &str, mode: Mode) -> Device {
        let path = self.0.join(name);
        let write = mode != Mode::Read;
        let file = File::options().read(true).write(write).open(&path).expect("the test's own file");
        Device::new(file, path, mode)
    }

    fn top(&self) -> Vec<Arc<Slot>> {
        vec![Arc::new(Slot::new(self.device("own/top", Mode::Read), None))]
    }

    fn gate(&self, allowed: &[&str]) -> Gate {
        let allowed = allowed.iter().map(|name| self.0.join(name)).collect();
        Gate::new(Policy { allowed, ..Policy::default() }, &mut [self.device("own/top", Mode::Read)])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn status(result: Result<Device, No>) -> Status {
    result.err().map_or(Status::Ok, |no| no.status)
}

/// With nothing open already.
fn open(gate: &Gate, name: &[u8], role: Role, write: bool, chain: &[Arc<Slot>]) -> Result<Device, No> {
    match gate.open(gate.find(name, chain), role, write, chain, &|_| Holder::Nobody)? {
        Opened::New(device) => Ok(*device),
        Opened::Again(_) => Err(Status::Loop.into()),
    }
}

fn backing(gate: &Gate, name: &str, chain: &[Arc<Slot>]) -> Status {
    status(open(gate, name.as_bytes(), Role::Backing, false, chain))
}

#[test]
fn dots_fold_by_the_letters() {
    assert_eq!(fold(Path::new("/a/./b/../../../c//d")), Path::new("/c/d"));
}

#[test]
fn only_plain_paths_are_names() {
    for name in [&b"json:{}"[..], b"nbd:unix:/x", b"", b"a\0b", b"http://x/y", b"rbd:a", b"file:"] {
        assert_eq!(plain(name), None, "{name:?}");
    }
    for name in [&b"a/b:c"[..], b"./a:b", b"file:a", b"/x", b"file:./a:b"] {
        assert!(plain(name).is_some(), "{name:?}");
    }
}

#[test]
fn the_images_own_folder_and_what_is_below_it_may_be_named() {
    let place = Place::new("own");
    let (gate, top) = (place.gate(&[]), place.top());
    for name in ["sub/below", "./sub/../sub/below", "./a:b", "file:sub/below"] {
        assert_eq!(backing(&gate, name, &top), Status::Ok, "{name}");
    }
    let absolute = place.0.join("own/sub/below");
    assert_eq!(backing(&gate, &absolute.to_string_lossy(), &top), Status::Ok);
}

#[test]
fn a_refusal_is_the_same_whether_the_target_exists_or_not() {
    let place = Place::new("oracle");
    let (gate, top) = (place.gate(&[]), place.top());
    for name in ["../other/secret", "../other/absent", "/etc/passwd", "/etc/absent", "/proc/self/mem", "..", "/"] {
        let refused = open(&gate, name.as_bytes(), Role::Backing, false, &top).err();
        assert_eq!(refused, Some(No { status: Status::Refused, errno: 0 }), "{name}");
    }
}

#[test]
fn a_link_does_not_lead_out() {
    let place = Place::new("link");
    symlink("../other/secret", place.0.join("own/out")).expect("a link");
    symlink("../other/absent", place.0.join("own/nowhere")).expect("a link");
    symlink("/etc/passwd", place.0.join("own/absolute")).expect("a link");
    symlink("/proc/self/fd/0", place.0.join("own/magic")).expect("a link");
    symlink("sub/below", place.0.join("own/in")).expect("a link");
    let (gate, top) = (place.gate(&[]), place.top());
    for name in ["out", "nowhere", "absolute", "magic"] {
        assert_eq!(backing(&gate, name, &top), Status::Refused, "{name}");
    }
    assert_eq!(backing(&gate, "in", &top), Status::Ok);
}

#[test]
fn an_allowed_folder_is_for_every_image_and_nothing_else_is() {
    let place = Place::new("allowed");
    let top = place.top();
    assert_eq!(backing(&place.gate(&[]), "../base/base", &top), Status::Refused);
    assert_eq!(backing(&place.gate(&["base"]), "../base/base", &top), Status::Ok);
    assert_eq!(backing(&place.gate(&["base"]), "../other/secret", &top), Status::Refused);
    // A folder of the same beginning is another folder.
    std::fs::create_dir(place.0.join("base2")).expect("a folder");
    std::fs::write(place.0.join("base2/x"), "x").expect("room on the disk");
    assert_eq!(backing(&place.gate(&["base"]), "../base2/x", &top), Status::Refused);
    let none = Gate::new(Policy { deny_all: true, ..Policy::default() }, &mut [place.device("own/top", Mode::Read)]);
    assert_eq!(backing(&none, "sub/below", &top), Status::Refused);
}

#[test]
fn one_sources_folder_is_not_for_anothers_chain() {
    let place = Place::new("two");
    let mut devices = [place.device("own/top", Mode::Read), place.device("base/base", Mode::Read)];
    let gate = Gate::new(Policy::default(), &mut devices);
    assert_eq!(backing(&gate, "../base/base", &place.top()), Status::Refused);
}

#[test]
fn only_regular_files_and_block_devices_are_opened() {
    let place = Place::new("types");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.0.join("own/fifo"),
        rustix::fs::FileType::Fifo,
        Permissions::from_raw_mode(0o600),
        0,
    )
    .expect("a pipe");
    let (gate, top) = (place.gate(&["/proc/self", "/dev"]), place.top());
    for name in ["fifo", "sub", "/proc/self/maps", "/dev/zero"] {
        assert_eq!(backing(&gate, name, &top), Status::WrongType, "{name}");
    }
    let absent = open(&gate, b"absent", Role::Backing, false, &top).err();
    assert_eq!(absent, Some(No { status: Status::Io, errno: libc::ENOENT.cast_unsigned() }));
}

#[test]
fn a_chain_that_comes_back_is_a_loop_and_siblings_may_share() {
    let place = Place::new("loop");
    let (gate, top) = (place.gate(&[]), place.top());
    assert_eq!(backing(&gate, "top", &top), Status::Loop);
    std::fs::hard_link(place.0.join("own/top"), place.0.join("own/again")).expect("a link");
    assert_eq!(backing(&gate, "again", &top), Status::Loop);
    let below = open(&gate, b"sub/below", Role::Backing, false, &top).expect("it is there");
    let mut chain = vec![Arc::new(Slot::new(below, Some(0)))];
    chain.extend(top.iter().cloned());
    assert_eq!(backing(&gate, "../top", &chain), Status::Loop);
    assert_eq!(backing(&gate, "sub/below", &top), Status::Ok);
    let deep: Vec<_> = std::iter::repeat_n(top[0].clone(), CHAIN_MAX).collect();
    assert_eq!(backing(&gate, "sub/below", &deep), Status::TooMany);
}

#[test]
fn an_image_that_is_only_read_has_nothing_written() {
    let place = Place::new("write");
    let (gate, top) = (place.gate(&[]), place.top());
    assert_eq!(status(open(&gate, b"sub/below", Role::DataFile, true, &top)), Status::ReadOnly);
}

/// A written image of those parts, and the gate of a command that has it and one that it reads.
fn written(place: &Place, parts: Parts) -> (Gate, Vec<Arc<Slot>>) {
    let mode = Mode::Write { growth_limit_bytes: 1 << 20 };
    let top = || Device { parts, ..place.device("own/top", mode) };
    let gate = Gate::new(Policy::default(), &mut [top(), place.device("base/base", Mode::Read)]);
    (gate, vec![Arc::new(Slot::new(top(), None))])
}

#[test]
fn what_is_written_is_what_the_command_says_and_by_kind() {
    let place = Place::new("kinds");
    let base = Parts { bases: 1, ..Parts::NONE };
    for (parts, role) in [(Parts::DATA_FILE, Role::DataFile), (Parts::EXTENTS, Role::Extent), (base, Role::Backing)] {
        for asked in [Role::DataFile, Role::Extent, Role::Backing] {
            let (gate, top) = written(&place, parts);
            let expected = if asked == role { Status::Ok } else { Status::ReadOnly };
            assert_eq!(status(open(&gate, b"sub/below", asked, true, &top)), expected, "{role:?} {asked:?}");
            assert_eq!(status(open(&gate, b"../other/secret", asked, true, &top)), Status::Refused);
        }
    }
    for role in [Role::DataFile, Role::Extent, Role::Backing] {
        let (gate, top) = written(&place, Parts::NONE);
        assert_eq!(status(open(&gate, b"sub/below", role, true, &top)), Status::ReadOnly, "{role:?}");
        assert!(gate.directories().all(|(_, writable)| !writable), "Landlock has nothing to let through");
    }
}

#[test]
fn a_part_is_opened_for_writing_once_and_never_one_that_another_device_has() {
    let place = Place::new("once");
    let (gate, top) = written(&place, Parts::DATA_FILE);
    let other = gate.open(gate.find(b"sub/below", &top), Role::DataFile, true, &top, &|_| Holder::Other);
    assert_eq!(other.err(), Some(Status::Locked.into()));
    let first = open(&gate, b"sub/below", Role::DataFile, true, &top);
    assert!(first.is_ok());
    assert_eq!(status(open(&gate, b"a:b", Role::DataFile, true, &top)), Status::Refused, "a protocol");
    assert_eq!(status(open(&gate, b"./a:b", Role::DataFile, true, &top)), Status::TooMany);
    assert_eq!(status(open(&gate, b"./a:b", Role::DataFile, false, &top)), Status::Ok, "reading is another matter");
}

#[test]
fn an_image_that_is_read_has_no_say_in_what_is_written() {
    let place = Place::new("foreign");
    let (gate, top) = written(&place, Parts::DATA_FILE);
    gate.gives(&top[0]);
    assert_eq!(status(open(&gate, b"absent", Role::DataFile, true, &top)), Status::Io);
    gate.gives(&Slot::new(place.device("base/base", Mode::Read), None));
    assert_eq!(status(open(&gate, b"sub/below", Role::DataFile, true, &top)), Status::ReadOnly);
}

#[test]
fn a_fresh_target_vouches_for_nothing() {
    let place = Place::new("fresh");
    let mode = Mode::Write { growth_limit_bytes: 1 << 20 };
    let parts = Parts { bases: 1, ..Parts::ANY };
    let fresh = || Device { fresh: true, parts, ..place.device("own/top", mode) };
    // The folder is a root because of another image in it.
    let gate = Gate::new(Policy::default(), &mut [fresh(), place.device("own/a:b", Mode::Read)]);
    let top = [Arc::new(Slot::new(fresh(), None))];
    for role in [Role::DataFile, Role::Extent, Role::Backing] {
        assert_eq!(status(open(&gate, b"sub/below", role, true, &top)), Status::ReadOnly, "{role:?}");
    }
    assert!(gate.directories().all(|(_, writable)| !writable));
}

#[test]
fn a_block_device_is_opened_below_an_allowed_folder_only() {
    let place = Place::new("block");
    let node = place.0.join("own/node");
    // A loop device's number: nothing has to be behind it to be judged.
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        &node,
        rustix::fs::FileType::BlockDevice,
        Permissions::from_raw_mode(0o600),
        rustix::fs::makedev(7, 0),
    );
    if made.is_err() {
        println!("only root can make a device");
        return;
    }
    let top = place.top();
    assert_eq!(backing(&place.gate(&[]), "node", &top), Status::Refused);
    assert_ne!(backing(&place.gate(&["own"]), "node", &top), Status::Refused);
}

#[test]
fn an_image_that_has_a_file_open_is_given_it_again() {
    let place = Place::new("again");
    let (gate, top) = (place.gate(&[]), place.top());
    let again = gate.open(gate.find(b"sub/below", &top), Role::DataFile, false, &top, &|_| Holder::Own(7));
    assert!(matches!(again, Ok(Opened::Again(7))));
}

#[test]
fn a_file_that_is_written_to_elsewhere_is_marked_but_for_force_share() {
    let place = Place::new("locked");
    let (mut gate, top) = (place.gate(&[]), place.top());
    let writer = File::options().read(true).write(true).open(place.0.join("own/sub/below")).expect("it is there");
    locks::lock_for_write(&writer).expect("nobody else");
    let below = |gate: &Gate| open(gate, b"sub/below", Role::Backing, false, &top).map(|device| device.contended).ok();
    assert_eq!(below(&gate), Some(true));
    gate.policy.force_share = true;
    assert_eq!(below(&gate), Some(false));
}

/// What the user named: `base/base`, by a link.
fn vouching(place: &Place, parts: Parts) -> (Gate, Vec<Arc<Slot>>) {
    symlink("base", place.0.join("link")).expect("a link");
    let mode = Mode::Write { growth_limit_bytes: 1 << 20 };
    let device = || Device { parts, ..place.device("own/top", mode) };
    let policy = Policy { vouched: vec![place.0.join("link/base"), place.0.join("nowhere")], ..Policy::default() };
    (Gate::new(policy, &mut [device()]), vec![Arc::new(Slot::new(device(), None))])
}

#[test]
fn a_file_that_the_user_named_may_be_named_by_an_image_and_no_other() {
    let place = Place::new("vouched");
    std::fs::hard_link(place.0.join("base/base"), place.0.join("other/same")).expect("a link");
    std::fs::write(place.0.join("base/low"), "low").expect("room on the disk");
    symlink("../base/base", place.0.join("own/out")).expect("a link");
    let (gate, top) = vouching(&place, Parts::NONE);
    for name in ["../base/base", "../link/base", "../other/same", "out"] {
        assert_eq!(backing(&gate, name, &top), Status::Ok, "{name}");
    }
    for name in ["../base/low", "../other/secret", "../other/absent", "/etc/passwd", "../base"] {
        assert_eq!(backing(&gate, name, &top), Status::Refused, "{name}");
    }
    // The chain of that file is at home in its folder, as if the user had begun with it.
    let below = open(&gate, b"../link/base", Role::Backing, false, &top).expect("it is named");
    assert_eq!(below.path, place.0.join("base/base"));
    let chain = [Arc::new(Slot::new(below, Some(0))), top[0].clone()];
    assert_eq!(backing(&gate, "low", &chain), Status::Ok);
    assert_eq!(backing(&gate, "../other/secret", &chain), Status::Refused);
}

#[test]
fn a_file_that_the_user_named_is_written_as_the_base_of_a_commit_only() {
    let place = Place::new("vouched-write");
    let write = |gate: &Gate, role, top: &[Arc<Slot>]| status(open(gate, b"../base/base", role, true, top));
    let (gate, top) = vouching(&place, Parts::ANY);
    assert_eq!(write(&gate, Role::DataFile, &top), Status::ReadOnly);
    assert_eq!(write(&gate, Role::Backing, &top), Status::ReadOnly);
    std::fs::remove_file(place.0.join("link")).expect("made before");
    let (gate, top) = vouching(&place, Parts { bases: 1, ..Parts::ANY });
    assert_eq!(write(&gate, Role::Extent, &top), Status::ReadOnly);
    assert_eq!(write(&gate, Role::Backing, &top), Status::Ok);
}

#[test]
fn where_nothing_may_be_named_the_user_vouches_for_nothing() {
    let place = Place::new("vouched-none");
    let (mut gate, top) = vouching(&place, Parts::NONE);
    assert_eq!(backing(&gate, "../base/base", &top), Status::Ok);
    let policy = Policy { deny_all: true, ..gate.policy.clone() };
    gate = Gate::new(policy, &mut []);
    assert_eq!(backing(&gate, "../base/base", &top), Status::Refused);
}

#[test]
fn what_an_image_will_be_refused_can_be_foreseen() {
    let place = Place::new("foreseen");
    let foreseen = |name: &str, allowed: &[&str]| {
        let allowed = allowed.iter().map(|folder| place.0.join(folder)).collect();
        would_refuse(Policy { allowed, ..Policy::default() }, &place.0.join("own/new"), name.as_bytes()).is_some()
    };
    assert!(foreseen("../base/base", &[]));
    assert!(!foreseen("../base/base", &["base"]));
    assert!(!foreseen("top", &[]));
    assert!(!foreseen("absent", &[]));
    assert!(foreseen("nbd:x", &[]));
}

mod links;
