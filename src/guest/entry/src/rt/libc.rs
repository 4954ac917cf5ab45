//! The few functions of the C library that the codecs' C code calls, over the Rust allocator.

use core::alloc::Layout;

/// Room for the allocation's size in front of it; keeps the alignment that C expects.
const HEADER: usize = 16;

fn layout(n: usize) -> Option<Layout> {
    Layout::from_size_align(n.checked_add(HEADER)?, HEADER).ok()
}

/// See malloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn malloc(n: usize) -> *mut u8 {
    let Some(layout) = layout(n) else { return core::ptr::null_mut() };
    // SAFETY: the layout's size is not zero; the header fits.
    unsafe {
        let at = alloc::alloc::alloc(layout);
        if at.is_null() {
            return at;
        }
        at.cast::<usize>().write(n);
        at.add(HEADER)
    }
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
/// `at` is null or came from [`malloc`] or [`calloc`] and was not freed since.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(at: *mut u8) {
    if at.is_null() {
        return;
    }
    // SAFETY: the caller's promise: the header is where `malloc` put it.
    unsafe {
        let start = at.sub(HEADER);
        if let Some(layout) = layout(start.cast::<usize>().read()) {
            alloc::alloc::dealloc(start, layout);
        }
    }
}
