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
const DAC_READ_SEARCH: u32 = 2;
const DAC_OVERRIDE: u32 = 1;

/// Drops every capability of this thread. `keep_reading`: but for those that let root read other users' files,
/// while images may still name some. A thread that has none is left as it is.
pub fn drop_all(keep_reading: bool) {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut have = [Data::default(); 2];
    // SAFETY: a header and two data structures, as this version of the call wants them; of capabilities that the
    // thread has a subset is kept, so that it can only lose some.
    unsafe {
        libc::syscall(libc::SYS_capget, &raw const header, have.as_mut_ptr());
        let kept = if keep_reading { have[0].permitted & (1 << DAC_READ_SEARCH | 1 << DAC_OVERRIDE) } else { 0 };
        let data = [Data { effective: kept, permitted: kept, inheritable: 0 }, Data::default()];
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr());
    }
}
