//! Giving up capabilities.

/// `struct __user_cap_header_struct` of capset(2).
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`, twice for 64 bits.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;
const CHOWN: u32 = 0;
const DAC_OVERRIDE: u32 = 1;
const DAC_READ_SEARCH: u32 = 2;
const FOWNER: u32 = 3;
const FSETID: u32 = 4;

/// What root needs to give a new file the owner and the rights of the one that it replaces, in anybody's folder.
pub const PUBLISHING: u32 = 1 << CHOWN | 1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH | 1 << FOWNER | 1 << FSETID;

/// Drops every capability of this thread. `keep_reading`: but for those that let root read other users' files,
/// while images may still name some. `false`: it still has others.
#[must_use]
pub fn drop_all(keep_reading: bool) -> bool {
    keep(if keep_reading { 1 << DAC_READ_SEARCH | 1 << DAC_OVERRIDE } else { 0 })
}

/// Drops every capability of this thread that is not in `wanted`, a mask. `false`: it still has others.
#[must_use]
pub fn keep(wanted: u32) -> bool {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut have = [Data::default(); 2];
    // SAFETY: a header and two data structures, as this version of the call wants them; of capabilities that the
    // thread has a subset is kept, so that it can only lose some.
    unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        let known = libc::syscall(libc::SYS_capget, &raw const header, have.as_mut_ptr()) == 0;
        let kept = Data { effective: 0, permitted: have[0].permitted & wanted, inheritable: 0 };
        let data = [Data { effective: kept.permitted, ..kept }, Data::default()];
        let lost = libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) == 0;
        // Where it may not be asked for, it is well if there is none.
        lost || known && have[0].permitted & !wanted == 0 && have[1].permitted == 0
    }
}
