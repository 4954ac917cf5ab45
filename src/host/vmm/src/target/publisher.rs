//! The process that makes files beside a target and publishes them all.
//!
//! It is made before the lock-down, and told what to do over a socket, in words of a fixed size: make the file of that kind
//! and number, or publish. A process that serves a guest gone wild can have it do no more than that: the names are made
//! here.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use instar_abi::ring::Beside;
use rustix::fs::{Mode as Permissions, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use super::made::{self, Made};
use super::{Cache, Error};
use crate::locks::Locked;

/// What it is told and what it answers: three numbers of 32 bits. The third is the question's, which its answer has, too: an
/// answer that comes late is never taken for another question's.
type Word = [u8; 12];
/// First number of a question: publish; otherwise a kind of file, and its number is the second.
const PUBLISH: u32 = 0;
/// First number of a word that needs no answer: the target is emptied now.
const BEGUN: u32 = u32::MAX;
/// Third number of that question, which is asked once. The others count from 1.
const LAST: u32 = 0;
/// First number of an answer. The second is an errno, or the number of a lock.
const DONE: u32 = 0;
const FAILED: u32 = 1;
const WRONG_TYPE: u32 = 2;
const LOCKED: u32 = 3;

fn word(first: u32, second: u32, question: u32) -> Word {
    let mut word = Word::default();
    for (bytes, number) in word.as_chunks_mut::<4>().0.iter_mut().zip([first, second, question]) {
        *bytes = number.to_le_bytes();
    }
    word
}

fn numbers(word: &Word) -> [u32; 3] {
    let mut numbers = [0; 3];
    for (number, bytes) in numbers.iter_mut().zip(word.as_chunks::<4>().0) {
        *number = u32::from_le_bytes(*bytes);
    }
    numbers
}

/// Tells the process at the other end that the target's old content goes.
pub fn tell_begun(mut line: &UnixStream) -> io::Result<()> {
    line.write_all(&word(BEGUN, 0, LAST))
}

/// The process, as its maker sees it.
#[derive(Debug)]
pub struct Publisher {
    line: UnixStream,
    pid: libc::pid_t,
    path: PathBuf,
}

impl Publisher {
    /// Leaves the rest to a process of its own. `path`: as the user gave it.
    pub fn start(made: Made, path: &Path, cache: Cache) -> io::Result<Self> {
        crate::limits::allow_many_files();
        let (ours, theirs) = UnixStream::pair()?;
        // SAFETY: the caller has one thread still; the child goes on with a copy of everything and ends in `_exit`.
        match unsafe { libc::fork() } {
            -1 => {
                let error = io::Error::last_os_error();
                made.forget();
                let why = crate::backend::plain(&error);
                Err(io::Error::new(error.kind(), format!("no process that publishes it: {why}")))
            }
            0 => {
                drop(ours);
                let files = vec![made];
                Process { line: theirs, path, cache, files, beside: BTreeSet::new() }.run()
            }
            pid => Ok(Self { line: ours, pid, path: path.to_path_buf() }),
        }
    }

    /// For the server.
    pub fn maker(&self) -> Option<Maker> {
        let line = Mutex::new((self.line.try_clone().ok()?, LAST));
        Some(Maker { line, path: self.path.clone() })
    }

    /// Another end of the line to it.
    pub fn line(&self) -> io::Result<UnixStream> {
        self.line.try_clone()
    }

    /// Publishes all files.
    pub fn publish(mut self) -> io::Result<()> {
        self.line.write_all(&word(PUBLISH, 0, LAST)).map_err(gone)?;
        loop {
            let mut answer = Word::default();
            self.line.read_exact(&mut answer).map_err(gone)?;
            match numbers(&answer) {
                [DONE, _, LAST] => return Ok(()),
                [_, errno, LAST] => return Err(io::Error::from_raw_os_error(errno.cast_signed())),
                // To a file that nobody waited for any more.
                _ => {}
            }
        }
    }
}

fn gone(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            io::Error::other("the process that publishes is gone")
        }
        _ => error,
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // Without a word from here it removes what it made, and ends: when this program ends, all is done.
        let _ = self.line.shutdown(std::net::Shutdown::Both);
        // SAFETY: our own child, not waited for yet.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

/// Asks for files beside a target.
#[derive(Debug)]
pub struct Maker {
    /// The line, and the number of the last question.
    line: Mutex<(UnixStream, u32)>,
    path: PathBuf,
}

impl Maker {
    /// Makes one, empty: the file, and the name that it will have.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn make(&self, kind: Beside, number: u32) -> Result<(File, PathBuf), Error> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let (line, question) = &mut *line;
        *question += 1;
        line.write_all(&word(kind as u32, number, *question)).map_err(gone)?;
        let (first, second, file) = loop {
            let (answer, file) = receive(line).map_err(gone)?;
            let [first, second, answered] = numbers(&answer);
            if answered == *question {
                break (first, second, file);
            }
        };
        match (first, file) {
            (DONE, Some(file)) => Ok((file, name(&self.path, kind, number))),
            // It came, but there was no room for it in this process.
            (DONE, None) => Err(io::Error::from_raw_os_error(libc::EMFILE).into()),
            (FAILED, _) => Err(io::Error::from_raw_os_error(second.cast_signed()).into()),
            (LOCKED, _) if let Some(locked) = Locked::from_code(second) => Err(Error::Locked(locked)),
            (WRONG_TYPE, _) => Err(Error::WrongType),
            _ => Err(io::Error::from_raw_os_error(libc::EPROTO).into()),
        }
    }
}

fn name(path: &Path, kind: Beside, number: u32) -> PathBuf {
    let name = kind.name(path.as_os_str().as_bytes(), u64::from(number));
    std::ffi::OsString::from_vec(name).into()
}

/// An answer, and the file that comes with it.
fn receive(line: &UnixStream) -> io::Result<(Word, Option<File>)> {
    let mut answer = Word::default();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut answer)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let got = loop {
        match rustix::net::recvmsg(line, &mut parts, &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?.bytes,
        }
    };
    let mut file = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            file = fds.map(File::from).next();
        }
    }
    if got == answer.len() { Ok((answer, file)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The process, from inside.
struct Process<'p> {
    line: UnixStream,
    path: &'p Path,
    cache: Cache,
    /// All that it makes, the target first.
    files: Vec<Made>,
    /// What has been made beside the target.
    beside: BTreeSet<(u32, u32)>,
}

impl Process<'_> {
    fn run(mut self) -> ! {
        // What the terminal sends is for the one that works; this one ends when that one does.
        const IGNORED: [libc::c_int; 9] = [
            libc::SIGINT,
            libc::SIGTERM,
            libc::SIGHUP,
            libc::SIGQUIT,
            libc::SIGPIPE,
            libc::SIGALRM,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGIO,
        ];
        for signal in IGNORED {
            // SAFETY: ignoring a signal needs no handler.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        // Where it cannot be locked down it does nothing at all, and its maker finds it gone.
        let ready = crate::lockdown::publisher(&self.folders()).is_ok();
        let mut published = false;
        let mut told = Word::default();
        while ready && !published && self.line.read_exact(&mut told).is_ok() {
            let answered = match numbers(&told) {
                [PUBLISH, _, question] => {
                    let result = made::publish(&mut self.files);
                    published = result.is_ok();
                    let errno = result.map_or_else(|errno| errno.raw_os_error().cast_unsigned(), |()| 0);
                    self.answer(word(if published { DONE } else { FAILED }, errno, question), None)
                }
                [BEGUN, ..] => {
                    self.files.first_mut().map(Made::begin);
                    Ok(())
                }
                [kind, number, question] => self.make(kind, number, question),
            };
            if answered.is_err() {
                break;
            }
        }
        if !published {
            self.files.iter().for_each(Made::forget);
        }
        // SAFETY: ends this process at once; nothing of it is shared that would want an orderly end.
        unsafe { libc::_exit(0) }
    }

    /// Where it makes files: the target's folder, as the user named it and where links led; where the target is written in
    /// place, perhaps because nothing can be made there, that for temporary files, too.
    fn folders(&self) -> Vec<OwnedFd> {
        let named = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let named = rustix::fs::open(named, flags, Permissions::empty()).ok();
        let real = self.files.iter().filter_map(Made::folder).filter_map(|folder| folder.try_clone_to_owned().ok());
        let real: Vec<OwnedFd> = real.collect();
        let temporary = || rustix::fs::open(std::env::temp_dir(), flags, Permissions::empty()).ok();
        let elsewhere = if real.is_empty() { temporary() } else { None };
        named.into_iter().chain(real).chain(elsewhere).collect()
    }

    fn make(&mut self, kind: u32, number: u32, question: u32) -> io::Result<()> {
        let new = Beside::from_wire(kind).filter(|k| k.has(u64::from(number)) && self.beside.insert((kind, number)));
        let Some(kind) = new else {
            return self.answer(word(FAILED, libc::EINVAL.cast_unsigned(), question), None);
        };
        match Made::beside(&name(self.path, kind, number), self.cache) {
            Err(Error::WrongType | Error::ReadOnlyDevice) => self.answer(word(WRONG_TYPE, 0, question), None),
            Ok(made) => {
                // What the user was told of the target need not be told again.
                let _ = self.cache.hints.apply(made.file());
                self.files.push(made);
                let file = self.files.last().map(|made| made.file().as_fd());
                self.answer(word(DONE, 0, question), file)
            }
            Err(Error::Locked(locked)) => self.answer(word(LOCKED, locked.code(), question), None),
            Err(Error::Io(error)) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO).cast_unsigned();
                self.answer(word(FAILED, errno, question), None)
            }
        }
    }

    fn answer(&self, answer: Word, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = file.into_iter().collect();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let sent = rustix::net::sendmsg(&self.line, &[IoSlice::new(&answer)], &mut control, SendFlags::empty())?;
        if sent == answer.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;

    /// The race of a worker that asks for a file while another seals: the answer comes, and nobody takes it.
    #[test]
    fn a_late_answer_is_not_taken_for_another_questions() {
        let _alone = crate::target::tests::alone();
        let folder = std::env::temp_dir().join(format!("instar-publisher-late-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        let (target, ..) = Target::create(&folder.join("new"), Cache::default(), 0).expect("a new file");
        let maker = target.maker().expect("it is a file");
        let ask = |kind: Beside, number: u32, question: u32| {
            let mut line = maker.line.lock().expect("nobody panicked");
            line.0.write_all(&word(kind as u32, number, question)).expect("the process is there");
            line.1 = question;
            // Until the answer is there, and leaves it there.
            rustix::net::recv(&line.0, &mut [0u8; 1], RecvFlags::PEEK).expect("the process answers");
        };
        ask(Beside::Flat, 1, 1);
        // Refused, because it is there already; the answer to the first question would have been another.
        assert!(maker.make(Beside::Flat, 1).is_err());
        ask(Beside::SplitFlat, 1, 3);
        // Nothing can be published in a folder that is gone.
        std::fs::remove_dir_all(&folder).expect("made here");
        assert!(target.publish().is_err());
    }
}
