use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Mutex, MutexGuard, PoisonError};

use instar_abi::ring::Beside;

use super::*;

/// For tests with publishers: one that is forked while another test has a file open holds that, too.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("instar-target-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder for the test");
    path
}

#[test]
fn a_target_appears_when_it_is_published_and_not_before() {
    let _alone = alone();
    let folder = folder("publish");
    let path = folder.join("new");
    let (target, Written { file, fresh, .. }) = Target::create(&path, Cache::default(), 0).expect("a new file");
    file.write_all_at(b"content", 0).expect("room on the disk");
    assert!(fresh && !path.exists());
    target.publish().expect("published");
    assert_eq!(std::fs::read(&path).expect("it is there"), b"content");
    std::fs::remove_dir_all(folder).expect("made here");
}

#[test]
fn an_existing_file_stays_until_then_and_keeps_its_rights() {
    let _alone = alone();
    use std::os::unix::fs::PermissionsExt;
    let folder = folder("replace");
    let path = folder.join("old");
    std::fs::write(&path, b"old").expect("room on the disk");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("our own file");
    let (target, Written { file, .. }) = Target::create(&path, Cache::default(), 0).expect("a new file");
    file.write_all_at(b"new", 0).expect("room on the disk");
    drop((target, file));
    assert_eq!(std::fs::read(&path).expect("it is there"), b"old");
    let (target, Written { file, .. }) = Target::create(&path, Cache::default(), 0).expect("a new file");
    file.write_all_at(b"new", 0).expect("room on the disk");
    target.publish().expect("published");
    assert_eq!(std::fs::read(&path).expect("it is there"), b"new");
    assert_eq!(std::fs::metadata(&path).expect("it is there").mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&folder).expect("it is there").count(), 1);
    std::fs::remove_dir_all(folder).expect("made here");
}

#[test]
fn a_link_is_followed_whether_its_target_is_there_or_not() {
    let _alone = alone();
    let folder = folder("link");
    let link = folder.join("link");
    std::os::unix::fs::symlink("real", &link).expect("a link");
    for text in [b"one", b"two"] {
        let (target, Written { file, .. }) = Target::create(&link, Cache::default(), 0).expect("a new file");
        file.write_all_at(text, 0).expect("room on the disk");
        target.publish().expect("published");
        assert!(std::fs::symlink_metadata(&link).expect("it is there").is_symlink());
        assert_eq!(std::fs::read(folder.join("real")).expect("it is there"), text);
    }
    std::os::unix::fs::symlink("self", folder.join("self")).expect("a link");
    assert!(Target::create(&folder.join("self"), Cache::default(), 0).is_err());
    std::fs::remove_dir_all(folder).expect("made here");
}

#[test]
fn a_file_with_several_names_is_written_where_it_is_and_emptied_when_it_changes() {
    let _alone = alone();
    let folder = folder("names");

    let of_two_names = |name: &str| {
        let (one, other) = (folder.join(name), folder.join(format!("{name}-too")));
        std::fs::write(&one, b"old").expect("room on the disk");
        std::fs::hard_link(&one, &other).expect("a link");
        let (target, written) = Target::create(&one, Cache::default(), 0).expect("it is there");
        assert!(written.fresh && written.old.as_ref().is_some_and(|old| old.is_hidden()));
        (target, written, other)
    };
    let content = |path: &Path| std::fs::read(path).expect("it is there");
    let change = |Written { file, old, .. }: &Written, text: &[u8]| {
        old.as_ref().expect("it held something").begin().expect("it can be emptied");
        file.write_all_at(text, 0).expect("room on the disk");
    };

    let (target, written, other) = of_two_names("untouched");
    drop((target, written));
    assert_eq!(content(&other), b"old");

    let (target, written, other) = of_two_names("whole");
    change(&written, b"new!");
    target.publish().expect("nothing to do");
    assert_eq!(content(&other), b"new!");

    let (target, written, other) = of_two_names("half");
    change(&written, b"half");
    drop((target, written));
    assert_eq!(content(&other), b"", "what is not whole does not look so");

    let (target, _written, other) = of_two_names("empty");
    target.publish().expect("the new one is empty");
    assert_eq!(content(&other), b"");
    std::fs::remove_dir_all(folder).expect("made here");
}

#[test]
fn a_target_in_use_is_refused_and_so_is_what_is_no_file() {
    let _alone = alone();
    let folder = folder("refused");
    let path = folder.join("used");
    std::fs::write(&path, b"old").expect("room on the disk");
    let reader = File::open(&path).expect("it is there");
    locks::lock_for_read(&reader).expect("nobody else");
    assert!(matches!(Target::create(&path, Cache::default(), 0), Err(Error::Locked(_))));
    assert!(matches!(Target::existing(&path, Cache::default()), Err(Error::Locked(_))));
    assert!(matches!(Target::create(Path::new("/dev/null"), Cache::default(), 0), Err(Error::WrongType)));
    assert!(matches!(Target::create(&folder, Cache::default(), 0), Err(Error::Io(_))));
    assert!(matches!(Target::create(&folder.join("no/such"), Cache::default(), 0), Err(Error::Io(_))));
    assert_eq!(std::fs::read(&path).expect("it is there"), b"old");
    std::fs::remove_dir_all(folder).expect("made here");
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("it is there").file_name().into_string();
    let mut names: Vec<String> =
        std::fs::read_dir(folder).expect("it is there").map(|e| entry(e).expect("names are text")).collect();
    names.sort_unstable();
    names
}

/// A target `disk.x` with two files beside it, each holding its number.
fn of_three(folder: &Path) -> (Target, Vec<File>) {
    let (target, Written { file, .. }) =
        Target::create(&folder.join("disk.x"), Cache::default(), 0).expect("a new file");
    let maker = target.maker().expect("it is a file");
    let mut files = vec![file];
    for number in 1..=2 {
        let (file, path) = maker.make(Beside::SplitSparse, number).expect("a new file");
        assert_eq!(path, folder.join(format!("disk-s00{number}.x")));
        file.write_all_at(number.to_string().as_bytes(), 0).expect("room on the disk");
        files.push(file);
    }
    (target, files)
}

#[test]
fn files_beside_a_target_appear_with_it() {
    let _alone = alone();
    let folder = folder("beside");
    let (target, _files) = of_three(&folder);
    assert!(names(&folder).is_empty());
    target.publish().expect("published");
    assert_eq!(names(&folder), ["disk-s001.x", "disk-s002.x", "disk.x"]);
    assert_eq!(std::fs::read(folder.join("disk-s002.x")).expect("it is there"), b"2");
    drop(of_three(&folder));
    assert_eq!(names(&folder), ["disk-s001.x", "disk-s002.x", "disk.x"]);
    assert_eq!(std::fs::read(folder.join("disk-s002.x")).expect("it is there"), b"2");
    std::fs::remove_dir_all(folder).expect("made here");
}

#[test]
fn all_are_published_or_none() {
    let _alone = alone();
    let folder = folder("together");
    std::fs::write(folder.join("disk-s002.x"), b"old").expect("room on the disk");
    let (target, _files) = of_three(&folder);
    // Nothing can be renamed to what is a folder meanwhile.
    std::fs::create_dir(folder.join("disk-s001.x")).expect("a folder");
    target.publish().expect_err("there is a folder");
    assert_eq!(names(&folder), ["disk-s001.x", "disk-s002.x"]);
    assert_eq!(std::fs::read(folder.join("disk-s002.x")).expect("it is there"), b"old");
    std::fs::remove_dir(folder.join("disk-s001.x")).expect("it is empty");
    let (target, _files) = of_three(&folder);
    target.publish().expect("published");
    assert_eq!(names(&folder), ["disk-s001.x", "disk-s002.x", "disk.x"]);
    assert_eq!(std::fs::read(folder.join("disk-s002.x")).expect("it is there"), b"2");
    std::fs::remove_dir_all(folder).expect("made here");
}

#[test]
fn files_that_are_not_made() {
    let _alone = alone();
    let folder = folder("not-made");
    let (target, _files) = of_three(&folder);
    let maker = target.maker().expect("it is a file");
    let errno = |kind, number| match maker.make(kind, number) {
        Err(Error::Io(error)) => error.raw_os_error(),
        other => panic!("{other:?}"),
    };
    // A number that there is not, and one that was made already.
    for (kind, number) in
        [(Beside::Flat, 2), (Beside::SplitFlat, 0), (Beside::SplitFlat, 10_001), (Beside::SplitSparse, 2)]
    {
        assert_eq!(errno(kind, number), Some(libc::EINVAL));
    }
    std::fs::create_dir(folder.join("disk-flat.x")).expect("a folder");
    assert_eq!(errno(Beside::Flat, 1), Some(libc::EISDIR));
    std::fs::write(folder.join("disk-f001.x"), b"old").expect("room on the disk");
    let reader = File::open(folder.join("disk-f001.x")).expect("it is there");
    locks::lock_for_read(&reader).expect("nobody else");
    assert!(matches!(maker.make(Beside::SplitFlat, 1), Err(Error::Locked(_))));
    std::os::unix::fs::symlink("/dev/null", folder.join("disk-f002.x")).expect("a link");
    assert!(matches!(maker.make(Beside::SplitFlat, 2), Err(Error::WrongType)));
    drop(target);
    assert_eq!(names(&folder), ["disk-f001.x", "disk-f002.x", "disk-flat.x"]);
    std::fs::remove_dir_all(folder).expect("made here");
}
