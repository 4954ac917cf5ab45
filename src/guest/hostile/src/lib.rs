//! A guest that attacks its sandbox: for tests only, never shipped.
//!
//! Each case is what code inside the guest could do once an image has taken it over. Those in `processor` end in
//! a fault, those in `exhaust` in a limit, those in `tell` in one or in little text, those in `wire` and `parts` in a
//! reply that refuses (which the case emits as `status`) or in the end of the run. Those in `image` are run by instar's
//! own commands, on an image that names them, and so are those in `tell`.
#![no_std]

extern crate alloc;

mod exhaust;
mod image;
mod parts;
mod processor;
mod tell;
mod wire;

pub use image::{case_of, first_line};

use core::sync::atomic::{AtomicUsize, Ordering};

use instar_abi::boot::BootInfo;
use instar_entry::RingMachine;
use instar_image::machine::Workers;

/// What a case is: its exit status, where it comes to an end of its own.
pub type Case = fn(&RingMachine, &BootInfo) -> u8;

/// Runs `body(worker)` on all workers, none before all are there.
fn together(machine: &RingMachine, body: &(dyn Fn(usize) + Sync)) {
    let there = AtomicUsize::new(0);
    machine.broadcast(&|worker| {
        there.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0;
        while there.load(Ordering::Acquire) < machine.workers() {
            machine.relax(&mut spins);
        }
        body(worker);
    });
}

/// Every case by name.
pub const CASES: &[(&str, Case)] = &[
    ("well-behaved", wire::well_behaved),
    ("read-outside", processor::read_outside),
    ("read-page-tables", processor::read_page_tables),
    ("read-host", processor::read_host),
    ("write-text", processor::write_text),
    ("write-rodata", processor::write_rodata),
    ("write-boot", processor::write_boot),
    ("run-data", processor::run_data),
    ("run-stack", processor::run_stack),
    ("syscall", processor::syscall),
    ("syscall-open", processor::syscall_open),
    ("syscall-long-write", processor::syscall_long_write),
    ("int80", processor::int80),
    ("breakpoint", processor::breakpoint),
    ("hlt", processor::hlt),
    ("ud2", processor::ud2),
    ("other-port", processor::other_port),
    ("read-doorbell", processor::read_doorbell),
    ("load-cr3", processor::load_cr3),
    ("divide", processor::divide),
    ("stack-overflow", processor::stack_overflow),
    ("panic", exhaust::panic),
    ("loop", exhaust::endless),
    ("sleep", exhaust::sleep),
    ("allocate", exhaust::allocate),
    ("requests", exhaust::requests),
    ("results", exhaust::results),
    ("long-compare", exhaust::long_compare),
    ("flood", exhaust::flood),
    ("worker-loop", exhaust::worker_loop),
    ("worker-fault", exhaust::worker_fault),
    ("tell-nothing", tell::nothing),
    ("tell-images", tell::images),
    ("tell-elements", tell::elements),
    ("tell-warnings", tell::warnings),
    ("tell-long-warning", tell::long_warning),
    ("tell-paths", tell::paths),
    ("tell-escapes", tell::escapes),
    ("tell-lines", tell::lines),
    ("tell-no-lines", tell::no_lines),
    ("tell-map-names", tell::map_names),
    ("tell-progress", tell::progress),
    ("reads", tell::reads),
    ("bad-op", wire::bad_op),
    ("reserved", wire::reserved),
    ("bad-flags", wire::bad_flags),
    ("bad-device", wire::bad_device),
    ("overflow", wire::overflow),
    ("buffer-outside", wire::buffer_outside),
    ("buffer-overlap-end", wire::buffer_overlaps_end),
    ("buffer-ring", wire::buffer_ring),
    ("write-read-only", wire::write_read_only),
    ("copy-read-only", wire::copy_read_only),
    ("growth", wire::growth),
    ("growth-length", wire::growth_length),
    ("open-outside", wire::open_outside),
    ("open-absent", wire::open_absent),
    ("open-proc", wire::open_proc),
    ("open-sealed", wire::open_sealed),
    ("beside-made", wire::beside_made),
    ("beside-kind", wire::beside_kind),
    ("beside-number", wire::beside_number),
    ("beside-name", wire::beside_name),
    ("beside-twice", wire::beside_twice),
    ("beside-source", wire::beside_source),
    ("beside-existing", wire::beside_existing),
    ("beside-beside", wire::beside_beside),
    ("beside-sealed", wire::beside_sealed),
    ("beside-many", wire::beside_many),
    ("batch-empty", wire::batch_empty),
    ("batch-huge", wire::batch_huge),
    ("race", wire::race),
    ("part-fresh", parts::fresh),
    ("part-read-only", parts::read_only),
    ("part-extent", parts::extent),
    ("part-backing", parts::backing),
    ("part-outside", parts::outside),
    ("part-proc", parts::proc),
    ("part-folder", parts::folder),
    ("part-device", parts::device),
    ("part-foreign", parts::foreign),
    ("part-foreign-copy", parts::foreign_copy),
    ("part-foreign-compare", parts::foreign_compare),
    ("part-others", parts::others),
    ("part-itself", parts::itself),
    ("part-second", parts::second),
    ("part-of-part", parts::of_part),
    ("part-again", parts::again),
    ("part-sealed", parts::sealed),
    ("part-race", parts::race),
    ("growth-together", parts::growth_together),
    ("growth-beside", parts::growth_beside),
    ("growth-race", parts::growth_race),
    ("image-write", image::write),
    ("image-write-race", image::write_race),
    ("image-read", image::read),
    ("image-grow", image::grow),
    ("image-make", image::make),
    ("image-publish", image::publish),
    ("image-print", image::print),
];
