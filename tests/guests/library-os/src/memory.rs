//! Memory: heap, shared pages, frames for devices, the balloon, mappings.

use crate::{Verdict, check_eq};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use guest_kernel::memory::{
    Mapping, Pages, deflate_domain, free_frames, inflate_domain, reservation_of_self,
};
use guest_kernel::shared_abi::{DomId, Errno, Gfn, Mfn};

pub fn heap() -> Verdict {
    // The first round may leave the executor's and the allocator's own pages behind.
    let round = || {
        let blocks: Vec<Vec<u8>> = (1..200).map(|n| vec![n as u8; n * 37]).collect();
        blocks.iter().enumerate().all(|(n, block)| block.iter().all(|byte| *byte == (n + 1) as u8))
    };
    check_eq!(round(), true);
    let before = free_frames();
    check_eq!(round(), true);
    check_eq!(free_frames(), before);
    Ok(())
}

pub fn pages() -> Verdict {
    let before = free_frames();
    let pages = Pages::new(3).map_err(|e| format!("no pages: {e}"))?;
    check_eq!(pages.read_value::<[u64; 1536]>(0), [0; 1536]);
    pages.write_bytes(4094, b"over the edge");
    check_eq!(pages.read_value::<[u8; 13]>(4094), *b"over the edge");
    drop(pages);
    check_eq!(free_frames(), before);
    Ok(())
}

pub fn contiguous() -> Verdict {
    for (count, bits) in [(1, 32), (3, 30), (16, 29), (33, 64)] {
        let pages = Pages::contiguous(count, bits).map_err(|e| format!("{count} below 2^{bits}: {e}"))?;
        let first = pages.mfn(0).0;
        for index in 0..count {
            check_eq!(pages.mfn(index).0, first + index as u64);
        }
        check_eq!(bits == 64 || first + count as u64 <= 1 << (bits - 12), true);
        pages.write_bytes(0, &vec![0x5a; count * 4096]);
        let mut back = vec![0; count * 4096];
        pages.read_bytes(0, &mut back);
        check_eq!(back.iter().all(|byte| *byte == 0x5a), true);
    }
    Ok(())
}

pub fn balloon() -> Verdict {
    let held = || reservation_of_self().map(|(now, _)| now).map_err(|e| format!("reservation: {e}"));
    let (frames, before) = (free_frames(), held()?);
    check_eq!(deflate_domain(300), 300);
    check_eq!((free_frames(), held()?), (frames - 300, before - 300));
    check_eq!(inflate_domain(300), 300);
    check_eq!((free_frames(), held()?), (frames, before));
    // What came back is memory like any other.
    let all: Vec<Pages> = (0..300).map_while(|_| Pages::new(1).ok()).collect();
    check_eq!(all.len(), 300);
    Ok(())
}

/// All memory can be used, to the last frame, and comes back.
pub fn exhaustion() -> Verdict {
    let mut held = Vec::with_capacity(free_frames() / 16 + 1024);
    let before = free_frames();
    let mut frames = 0;
    for size in [16, 1] {
        while let Ok(pages) = Pages::new(size) {
            pages.store_u32(size * 4096 - 4, frames as u32);
            frames += size;
            held.push(pages);
            if held.len() == held.capacity() {
                break;
            }
        }
    }
    check_eq!(free_frames(), 0);
    // What was not mapped before needed a page table for each 512 frames.
    check_eq!(frames <= before && before - frames <= before / 512 + 1, true);
    drop(held);
    check_eq!(free_frames() >= frames, true);
    Ok(())
}

pub fn refusals() -> Verdict {
    let own = Pages::new(1).map_err(|e| format!("no page: {e}"))?;
    check_eq!(Mapping::device(own.mfn(0), 1).map(drop), Err(Errno::EBUSY));
    check_eq!(Mapping::foreign(DomId(0), &[Gfn(own.mfn(0).0)]).map(drop), Err(Errno::ESRCH));
    check_eq!(Mapping::foreign(DomId(1234), &[Gfn(own.mfn(0).0)]).map(drop), Err(Errno::ESRCH));
    check_eq!(Mapping::foreign(DomId::SELF, &[Gfn(own.mfn(0).0)]).map(drop), Err(Errno::EINVAL));
    // The hypervisor keeps the local APIC to itself.
    check_eq!(Mapping::device(Mfn(0xfee00), 1).map(drop), Err(Errno::EPERM));
    Ok(())
}

pub fn firmware() -> Verdict {
    let rom = Mapping::firmware(Mfn(0xf0), 16).map_err(|e| format!("mapping: {e}"))?;
    // The first instruction of a PC: a far jump.
    check_eq!(rom.load_u8(0xfff0), 0xea);
    Ok(())
}

/// Ends the domain by a page fault.
pub fn write_to_read_only_page() {
    if let Ok(rom) = Mapping::firmware(Mfn(0xf0), 1) {
        rom.store_u32(0, 1);
    }
}
