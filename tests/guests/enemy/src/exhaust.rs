//! Everything that a guest can take until it is refused, twice: what was given back can be taken again.

use alloc::vec::Vec;

use guest_kernel::println;

use crate::raw::{buffer, call, fill, nr, word};

const DOMID_SELF: u64 = 0x7ff0;

/// Calls `take` until it fails; how often it didn't, and the error.
fn until_refused(mut take: impl FnMut(u64) -> bool) -> u64 {
    (0..1 << 22).take_while(|n| take(*n)).count() as u64
}

/// Ports, grant frames, memory.
pub fn attack() {
    for round in 0..2 {
        // The console's own port stays: the verdict goes through it.
        let mut taken = Vec::new();
        let ports = until_refused(|_| {
            fill(&[DOMID_SELF | DOMID_SELF << 16]);
            let result = call(nr::EVENT_CHANNEL_OP, [6, buffer(0), 0, 0, 0]);
            taken.push(word(0) >> 32);
            result == 0
        });
        taken.pop();
        for port in taken {
            fill(&[port]);
            call(nr::EVENT_CHANNEL_OP, [3, buffer(0), 0, 0, 0]);
        }
        // gnttab_setup_table: dom, nr_frames, status, frame_list
        let grants = until_refused(|n| {
            fill(&[DOMID_SELF | (n + 1) << 32, 0, buffer(64) as u64]);
            n < 900 && call(nr::GRANT_TABLE_OP, [2, buffer(0), 1, 0, 0]) == 0 && word(1) as u16 == 0
        });
        // xen_memory_reservation: extent_start, nr_extents, order and flags, domid
        let one = |command: usize| {
            fill(&[buffer(64) as u64, 1, 0, DOMID_SELF]);
            call(nr::MEMORY_OP, [command, buffer(0), 0, 0, 0]) == 1
        };
        let frames = until_refused(|_| one(0));
        println!("enemy exhausts, round {round}: {ports} ports, {grants} grant frames, {frames} frames");
    }
}
