//! The few functions of the C library that the codecs call, over the Rust allocator.

use core::alloc::Layout;

/// Room in front of an allocation for [`Header`], and the alignment that C expects at least.
const ALIGN: usize = 16;
/// errno(3) for "out of memory".
const ENOMEM: i32 = 12;

/// Lies right in front of the bytes that the caller gets.
struct Header {
    /// Bytes asked for.
    n: usize,
    /// Alignment, and how far behind the allocation's start the caller's bytes are.
    align: usize,
}

fn layout(n: usize, align: usize) -> Option<Layout> {
    Layout::from_size_align(n.checked_add(align)?, align).ok()
}

fn allocate(n: usize, align: usize) -> *mut u8 {
    let align = align.max(ALIGN);
    let Some(layout) = layout(n, align) else { return core::ptr::null_mut() };
    // SAFETY: the layout's size is not zero, and the header fits in front: its size is that of the least alignment.
    unsafe {
        let start = alloc::alloc::alloc(layout);
        if start.is_null() {
            return start;
        }
        let at = start.add(align);
        at.cast::<Header>().sub(1).write(Header { n, align });
        at
    }
}

/// See malloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn malloc(n: usize) -> *mut u8 {
    allocate(n, ALIGN)
}

/// See posix_memalign(3).
///
/// # Safety
/// `to` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(to: *mut *mut u8, align: usize, n: usize) -> i32 {
    let at = allocate(n, align);
    if at.is_null() {
        return ENOMEM;
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(at) };
    0
}

/// See calloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, n: usize) -> *mut u8 {
    let Some(total) = count.checked_mul(n) else { return core::ptr::null_mut() };
    let at = malloc(total);
    if !at.is_null() {
        // SAFETY: so many bytes were just allocated.
        unsafe { at.write_bytes(0, total) };
    }
    at
}

/// See free(3).
///
/// # Safety
/// `at` is null or came from a function of this module and was not freed since.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(at: *mut u8) {
    if at.is_null() {
        return;
    }
    // SAFETY: the caller's promise: the header is where `allocate` put it.
    unsafe {
        let Header { n, align } = at.cast::<Header>().sub(1).read();
        if let Some(layout) = layout(n, align) {
            alloc::alloc::dealloc(at.sub(align), layout);
        }
    }
}
