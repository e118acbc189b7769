//! As the control domain: domains with vcpus and ports until there is no memory for one more, again and again.
//!
//! The story: a heap that could not grow was a panic of the hypervisor, so a toolstack that created one domain too
//! many ended the machine. Every refusal has to be ENOMEM, and what was given back is there again.

use guest_kernel::println;

use crate::raw::{buffer, call, fill, nr, word};

const DOMID_SELF: u64 = 0x7ff0;
const VERSION: u64 = 0x15;
const ENOMEM: i64 = -12;

const CREATEDOMAIN: u64 = 1;
const DESTROYDOMAIN: u64 = 2;
const MAX_VCPUS: u64 = 15;

/// More than the memory of the machine has room for.
const MOST: usize = 1 << 14;

/// `domctl(command)` of domain `id`, with the first words of the command's structure.
fn domctl(command: u64, id: u64, words: &[u64]) -> i64 {
    let mut op = [0; 18];
    op[0] = command | VERSION << 32;
    op[1] = id;
    op[2..2 + words.len()].copy_from_slice(words);
    fill(&op);
    call(nr::DOMCTL, [buffer(0), 0, 0, 0, 0])
}

/// Frames that the hypervisor may keep: lists of numbers that grew, and some heap for the next domain.
const KEPT: u64 = 1024;

/// Domains that the list of all domains has taken the place of: it grows with each number never used before.
const FEWER: usize = 16;

/// A domain that waits to be filled, or the error.
fn create() -> Result<u64, i64> {
    // ssidref, handle and flags; iommu options, vcpus; ports, grant frames; maptrack frames, grants of version 1.
    let config = [0, 0, 0, 4 << 32, 1023 | 4 << 32, 16 | 1 << 32];
    match domctl(CREATEDOMAIN, 0, &config) {
        0 => Ok(word(1) & 0xffff),
        error => Err(error),
    }
}

/// Gives a domain vcpus and more ports than it begins with.
fn furnish(id: u64) -> Result<(), i64> {
    match domctl(MAX_VCPUS, id, &[4]) {
        0 => {}
        error => return Err(error),
    }
    for _ in 0..100 {
        fill(&[id | DOMID_SELF << 16]);
        match call(nr::EVENT_CHANNEL_OP, [6, buffer(0), 0, 0, 0]) {
            0 => {}
            error => return Err(error),
        }
    }
    Ok(())
}

/// Frames that nobody has, by `XEN_SYSCTL_physinfo`'s `free_pages`.
fn free_frames() -> u64 {
    fill(&[3 | VERSION << 32]);
    call(nr::SYSCTL, [buffer(0), 0, 0, 0, 0]);
    word(7)
}

/// Four rounds, the last of which must come as far as the first but for [`FEWER`].
pub fn attack() {
    let before = free_frames();
    let mut counts = [0; 4];
    for count in &mut counts {
        let mut ids = [0u16; MOST];
        let refusal = loop {
            let id = match create() {
                Ok(id) => id,
                Err(error) => break error,
            };
            ids[*count] = id as u16;
            *count += 1;
            if let Err(error) = furnish(id) {
                break error;
            }
            if *count == MOST {
                break 0;
            }
        };
        let left = free_frames();
        // Asked again, it is refused again, and still nothing is lost.
        let again = create().err().unwrap_or(0);
        for id in &ids[..*count] {
            domctl(DESTROYDOMAIN, (*id).into(), &[]);
        }
        let after = free_frames();
        println!(
            "enemy creates {count} domains, refused by {refusal} and {again}; {before} frames were free, {left}, {after}"
        );
        if after + KEPT < before {
            println!("enemy wins: memory is lost");
        }
        if refusal != ENOMEM {
            println!("enemy wins: a refusal that is not ENOMEM");
        }
    }
    if counts[3] + FEWER < counts[0] {
        println!("enemy wins: what was given back is gone");
    }
}
