//! A page that cannot be unmapped: the guest must not run beside it. The page stays for as long as the process does, so
//! this test has a process of its own.

use instar_vmm::{Failure, Isolation, Job, Limits, Observer, Outcome, Policy};

struct Silent;

impl Observer for Silent {
    fn progress(&self, _done: u64, _total: u64) {}
    fn log(&self, _level: u32, _text: &[u8]) -> u64 {
        0
    }
}

fn run() -> Result<Outcome, Failure> {
    instar_vmm::run(Job {
        guest: None,
        isolation: Isolation::Process,
        workers: 1,
        devices: Vec::new(),
        params: Vec::new(),
        policy: Policy::default(),
        limits: Limits {
            cpu: None,
            wall: Some(std::time::Duration::from_secs(60)),
            guest_memory_bytes: 16 << 20,
            requests: None,
            result_bytes: 1 << 20,
            shown_bytes: 0,
            message_bytes: 0,
        },
        observer: &Silent,
        lock_down: false,
        last_words: None,
    })
}

/// mseal(2); `false`: the kernel does not have it (before 6.10).
fn seal_a_page() -> bool {
    const MSEAL: libc::c_long = 462;
    // SAFETY: a new page at an address of the kernel's choice, never used.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        libc::syscall(MSEAL, page, 4096, 0) == 0
    }
}

#[test]
fn no_guest_runs_where_memory_of_the_host_would_stay() {
    // Without an operation the guest runs and says so.
    let ran = run();
    assert!(!matches!(ran, Err(Failure::Host(_))), "{ran:?}");
    if !seal_a_page() {
        println!("nothing tried: this kernel does not seal");
        return;
    }
    let Err(Failure::Host(text)) = run() else { panic!("the guest ran") };
    assert_eq!(text, "no sandbox process: memory of this program cannot be unmapped in it");
}
