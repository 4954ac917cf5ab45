//! A panic becomes one request that says where, and ends the guest.

use core::fmt::Write;

use instar_abi::ring::{Op, Request};

const TEXT_MAX: usize = 512;

/// Text of bounded length, without an allocation: the allocator may be what panicked.
struct Text {
    bytes: [u8; TEXT_MAX],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let room = &mut self.bytes[self.len..];
        let n = s.len().min(room.len());
        room[..n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut text = Text { bytes: [0; TEXT_MAX], len: 0 };
    let message = info.message();
    let _ = match info.location() {
        Some(at) => write!(text, "{message} ({}:{})", at.file(), at.line()),
        None => write!(text, "{message}"),
    };
    // The words of the allocation crate, which has no other way of telling.
    let out_of_memory = text.bytes.starts_with(b"memory allocation of ");
    if let Some(boot) = super::boot() {
        // The buffer of a request lies in the heap, and whatever was there is of no use any more.
        let len = text.len.min(boot.heap_len as usize);
        // SAFETY: the heap is mapped and writable; nothing of this guest will run again but this function.
        unsafe { core::ptr::copy_nonoverlapping(text.bytes.as_ptr(), boot.heap as *mut u8, len) };
        let request = Request {
            op: Op::Panic as u16,
            flags: 0,
            dev: 0,
            offset: 0,
            len: 0,
            buf: boot.heap,
            buf_len: len as u64,
            dev2: 0,
            arg: u32::from(out_of_memory),
            offset2: 0,
            reserved: 0,
        };
        super::machine().raw_call(request);
    }
    loop {
        // SAFETY: an undefined instruction ends the guest; there is nothing else left to do.
        unsafe { core::arch::asm!("ud2") };
    }
}

/// Named by the precompiled standard crates, which were built to unwind; this guest never does.
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_Resume() -> ! {
    panic!("something tried to unwind");
}
