//! Local time, for people.

/// Reads the time zone; before the lock-down, because its file cannot be opened later.
pub fn prepare() {
    unsafe extern "C" {
        fn tzset();
    }
    // SAFETY: called while this process has one thread.
    unsafe { tzset() };
}

/// `YYYY-MM-DD hh:mm:ss` of this place, `seconds` after the beginning of 1970.
#[must_use]
pub fn local(seconds: u64) -> String {
    let time = seconds.cast_signed();
    // SAFETY: zero is a value of every field; both pointers are valid for the call.
    let (broken, ok) = unsafe {
        let mut broken: libc::tm = std::mem::zeroed();
        let got = libc::localtime_r(&raw const time, &raw mut broken);
        (broken, !got.is_null())
    };
    if !ok {
        return seconds.to_string();
    }
    let libc::tm { tm_year, tm_mon, tm_mday, tm_hour, tm_min, tm_sec, .. } = broken;
    format!("{:04}-{:02}-{tm_mday:02} {tm_hour:02}:{tm_min:02}:{tm_sec:02}", i64::from(tm_year) + 1900, tm_mon + 1)
}
