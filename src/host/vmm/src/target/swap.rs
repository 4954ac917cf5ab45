//! How a complete file gets a name that another one may have. At each moment one of the two is under that name, and what
//! is not the file that was looked at in the beginning is never replaced.

use std::ffi::{CStr, CString};
use std::fs::File;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::made::untaken;
use super::place::{Place, identity};

/// What is under the final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// What was there before.
    No,
    /// The new file; there was none.
    New,
    /// The new file; the earlier one has this hidden name, if it is still there.
    Over(Option<CString>),
}

/// Gives the file of that hidden name its final one, which nothing has.
pub fn name(place: &Place, hidden: &CStr) -> Result<Shown, Errno> {
    let Place { folder, name, .. } = place;
    // Some file systems (NFS, many under FUSE) rename over what is there or not at all; a link never replaces anything.
    let renamed = || rustix::fs::renameat_with(folder, hidden, folder, name, RenameFlags::NOREPLACE);
    let linked = || {
        rustix::fs::linkat(folder, hidden, folder, name, AtFlags::empty())?;
        rustix::fs::unlinkat(folder, hidden, AtFlags::empty())
    };
    let known = |errno: &Errno| [Errno::EXIST, Errno::NOSPC, Errno::DQUOT].contains(errno);
    match renamed() {
        Err(errno) if !known(&errno) => match linked() {
            // It has neither.
            Err(errno) if !known(&errno) => rustix::fs::renameat(folder, hidden, folder, name)?,
            other => other?,
        },
        other => other?,
    }
    Ok(Shown::New)
}

/// Gives the file of that hidden name its final one instead of `earlier`. `undone`: it may have to be undone.
pub fn replace(place: &Place, hidden: &CStr, earlier: &File, undone: bool) -> Result<Shown, Errno> {
    let Place { folder, name, .. } = place;
    let earlier = identity(&rustix::fs::fstat(earlier)?);
    let is_earlier = |name: &CStr| {
        rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| identity(&stat) == earlier)
    };
    let new = rustix::fs::statat(folder, hidden, AtFlags::SYMLINK_NOFOLLOW).map(|stat| identity(&stat))?;
    let is_new = |name: &CStr| {
        rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| identity(&stat) == new)
    };
    let exchange = || rustix::fs::renameat_with(folder, hidden, folder, name, RenameFlags::EXCHANGE);
    match exchange() {
        Ok(()) if is_earlier(hidden) => return Ok(Shown::Over(Some(hidden.to_owned()))),
        Ok(()) => {
            // What came there since it was looked at goes back; unless something still newer has come there meanwhile.
            exchange()?;
            if is_new(hidden) {
                return Err(Errno::STALE);
            }
            return exchange().and(Err(Errno::STALE));
        }
        // The earlier one has gone: nothing is replaced then.
        Err(Errno::NOENT) => return self::name(place, hidden),
        Err(_) => {}
    }
    // A file system that cannot exchange names: the earlier file gets a second one first.
    let remove = |name: &CStr| rustix::fs::unlinkat(folder, name, AtFlags::empty());
    let second = untaken(name, |second| rustix::fs::linkat(folder, name, folder, second, AtFlags::empty()));
    if second == Err(Errno::NOENT) {
        return self::name(place, hidden);
    }
    if let Ok(((), second)) = second {
        if !is_earlier(&second) {
            remove(&second)?;
            return Err(Errno::STALE);
        }
        // Renaming a name over another one of the same file would do nothing; these are two files.
        return match rustix::fs::renameat(folder, hidden, folder, name) {
            Ok(()) => Ok(Shown::Over(Some(second))),
            Err(errno) => remove(&second).and(Err(errno)),
        };
    }
    if !undone {
        return rustix::fs::renameat(folder, hidden, folder, name).map(|()| Shown::Over(None));
    }
    // Nor can it have two: it makes room for a moment.
    let ((), second) = untaken(name, |second| match rustix::fs::statat(folder, second, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::renameat(folder, name, folder, second),
        other => other.and(Err(Errno::EXIST)),
    })?;
    let back = |errno| rustix::fs::renameat(folder, &second, folder, name).and(Err(errno));
    if !is_earlier(&second) {
        return back(Errno::STALE);
    }
    match rustix::fs::renameat(folder, hidden, folder, name) {
        Ok(()) => Ok(Shown::Over(Some(second))),
        Err(errno) => back(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

    use super::*;

    /// A folder on a file system that answers so to what it does not have.
    fn on(calls: &'static [i64], test: fn(&mut Files)) {
        let run = move || {
            let rule = |call: i64| {
                // A renameat2 that asks for nothing special is every file system's.
                let special =
                    SeccompCondition::new(4, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0).expect("a condition");
                let rules = if call == libc::SYS_renameat2 {
                    vec![SeccompRule::new(vec![special]).expect("a rule")]
                } else {
                    Vec::new()
                };
                (call, rules)
            };
            let rules: BTreeMap<_, _> = calls.iter().copied().map(rule).collect();
            let (allow, refuse) = (SeccompAction::Allow, SeccompAction::Errno(libc::EINVAL.cast_unsigned()));
            let machine = std::env::consts::ARCH.try_into().expect("a known machine");
            if !rules.is_empty() {
                let filter = SeccompFilter::new(rules, allow, refuse, machine).expect("a filter");
                // For this thread alone.
                let program: seccompiler::BpfProgram = filter.try_into().expect("a program");
                seccompiler::apply_filter(&program).expect("the kernel takes it");
            }
            let mut files = Files::new();
            test(&mut files);
            std::fs::remove_dir_all(files.folder).expect("made here");
        };
        std::thread::spawn(run).join().expect("the test passes");
    }

    const ALL: &[i64] = &[];
    const NO_EXCHANGE: &[i64] = &[libc::SYS_renameat2];
    const NOTHING: &[i64] = &[libc::SYS_renameat2, libc::SYS_linkat];
    const EACH: [&[i64]; 3] = [ALL, NO_EXCHANGE, NOTHING];

    struct Files {
        folder: PathBuf,
        place: Place,
    }

    impl Files {
        fn new() -> Self {
            let mut random = [0; 8];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).expect("random bytes");
            let folder = std::env::temp_dir().join(format!("instar-swap-{}", u64::from_le_bytes(random)));
            std::fs::create_dir_all(&folder).expect("a folder for the test");
            std::fs::write(folder.join("hidden"), b"new").expect("room on the disk");
            Self { place: Place::find(&folder.join("name")).expect("the folder is there"), folder }
        }

        fn put(&self, text: &[u8]) -> File {
            std::fs::write(self.folder.join("other"), text).expect("room on the disk");
            std::fs::rename(self.folder.join("other"), self.folder.join("name")).expect("in the same folder");
            File::open(self.folder.join("name")).expect("it is there")
        }

        /// Name to content, without the random names.
        fn content(&self) -> Vec<(String, Vec<u8>)> {
            let entries =
                std::fs::read_dir(&self.folder).expect("it is there").map(|entry| entry.expect("it is there").path());
            let name =
                |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().replace(char::is_numeric, "");
            let mut all: Vec<_> =
                entries.map(|path| (name(&path), std::fs::read(&path).expect("it is there"))).collect();
            all.sort_by_key(|(name, _)| name.len());
            all.into_iter()
                .map(|(name, text)| (if name.contains(".instar-") { "kept".into() } else { name }, text))
                .collect()
        }
    }

    fn has(files: &Files, expected: &[(&str, &[u8])]) {
        let expected: Vec<_> = expected.iter().map(|(name, text)| ((*name).to_string(), text.to_vec())).collect();
        assert_eq!(files.content(), expected);
    }

    #[test]
    fn a_name_that_nothing_has() {
        for calls in EACH {
            on(calls, |files| {
                assert_eq!(name(&files.place, c"hidden"), Ok(Shown::New));
                has(files, &[("name", b"new")]);
            });
        }
        // What came there meanwhile stays, wherever a file system can say so.
        for calls in [ALL, NO_EXCHANGE] {
            on(calls, |files| {
                files.put(b"another");
                assert_eq!(name(&files.place, c"hidden"), Err(Errno::EXIST));
                has(files, &[("name", b"another"), ("hidden", b"new")]);
            });
        }
    }

    #[test]
    fn what_is_replaced_can_come_back() {
        for calls in EACH {
            on(calls, |files| {
                let earlier = files.put(b"old");
                let Ok(Shown::Over(Some(kept))) = replace(&files.place, c"hidden", &earlier, true) else {
                    panic!("it is replaced, and kept");
                };
                assert_eq!(std::fs::read(files.folder.join("name")).expect("it is there"), b"new");
                let Place { folder, name, .. } = &files.place;
                rustix::fs::renameat(folder, &kept, folder, name).expect("it comes back");
                has(files, &[("name", b"old")]);
            });
        }
    }

    #[test]
    fn what_has_gone_is_not_replaced() {
        for calls in [ALL, NO_EXCHANGE] {
            on(calls, |files| {
                let earlier = files.put(b"old");
                std::fs::remove_file(files.folder.join("name")).expect("it is there");
                let shown = replace(&files.place, c"hidden", &earlier, false);
                assert_eq!(shown, Ok(Shown::New));
                has(files, &[("name", b"new")]);
            });
        }
    }

    #[test]
    fn what_came_meanwhile_is_not_replaced() {
        for (calls, undone) in [(ALL, true), (ALL, false), (NO_EXCHANGE, true), (NO_EXCHANGE, false), (NOTHING, true)] {
            let test =
                if undone { |files: &mut Files| stale(files, true) } else { |files: &mut Files| stale(files, false) };
            on(calls, test);
        }
    }

    fn stale(files: &mut Files, undone: bool) {
        let earlier = files.put(b"old");
        files.put(b"another");
        assert_eq!(replace(&files.place, c"hidden", &earlier, undone), Err(Errno::STALE));
        has(files, &[("name", b"another"), ("hidden", b"new")]);
    }

    #[test]
    fn the_last_one_needs_no_way_back() {
        on(NOTHING, |files| {
            let earlier = files.put(b"old");
            assert_eq!(replace(&files.place, c"hidden", &earlier, false), Ok(Shown::Over(None)));
            has(files, &[("name", b"new")]);
        });
    }
}
