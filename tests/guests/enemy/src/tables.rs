//! Page tables at random: frames are pinned at any level, unpinned, mapped writable and not, and entries of
//! every kind are forged into them, with `mmu_update` and by plain writes.
//!
//! What the hypervisor answers is compared with the one rule that all else hangs on: a frame that is mapped
//! writable is no page table, and the other way round. A breach is reported as `enemy wins`.

use guest_kernel::memory::{Pages, m2p};
use guest_kernel::println;

use crate::random::Random;
use crate::raw::{buffer, call, fill, nr};

const VIRT_BASE: usize = 0xffff_ffff_8000_0000;
const DOMID_SELF: usize = 0x7ff0;
const UNPIN: u64 = 4;
const POOL: usize = 24;

/// What is known of a frame of the pool.
#[derive(Clone, Copy, Default)]
struct Known {
    writable: bool,
    pinned: bool,
}

fn extended(command: u64, mfn: u64) -> i64 {
    fill(&[command, mfn, 0]);
    call(nr::MMUEXT_OP, [buffer(0), 1, 0, DOMID_SELF, 0])
}

/// Has the first of `pages`, which is empty, been a page table until now, and asks nothing more of page tables: whether
/// that was done.
pub fn was_table(pages: &Pages) -> bool {
    let mfn = pages.mfn(0);
    let Some(pfn) = m2p(mfn) else { return false };
    let read_only = (mfn.0 << 12 | 5) as usize;
    call(nr::UPDATE_VA_MAPPING, [VIRT_BASE + pfn * 4096, read_only, 2, 0, 0]) == 0
        && extended(0, mfn.0) == 0
        && extended(UNPIN, mfn.0) == 0
}

/// `count` steps of the sequence `seed`.
pub fn attack(seed: u64, count: u64) {
    let Ok(pool) = Pages::new(POOL) else { return };
    let mut random = Random::new(seed);
    let mut known = [Known { writable: true, pinned: false }; POOL];
    let (mut done, mut refused) = (0u64, 0u64);
    for n in 0..count {
        let i = random.below(POOL);
        let mfn = pool.mfn(i).0;
        let Some(pfn) = m2p(pool.mfn(i)) else { continue };
        let result = match random.below(8) {
            0 | 1 => {
                let result = extended(random.below(4) as u64, mfn);
                if result == 0 {
                    if known[i].writable {
                        println!("enemy wins: step {n}, a writable frame was pinned");
                    }
                    known[i].pinned = true;
                }
                result
            }
            2 => {
                let result = extended(UNPIN, mfn);
                known[i].pinned &= result != 0;
                result
            }
            3 => {
                let write = random.below(2) as u64;
                let entry = mfn << 12 | 5 | write << 1;
                let result = call(nr::UPDATE_VA_MAPPING, [VIRT_BASE + pfn * 4096, entry as usize, 2, 0, 0]);
                if result == 0 {
                    if write == 1 && known[i].pinned {
                        println!("enemy wins: step {n}, a pinned frame was mapped writable");
                    }
                    known[i].writable = write == 1;
                }
                result
            }
            _ => {
                let target = match random.below(6) {
                    0 => random.below(256) as u64,
                    1 => random.word() >> 24,
                    _ => pool.mfn(random.below(POOL)).0,
                };
                let flags = random.pick(&[0, 1, 3, 5, 7, 7, 7, 0x67, 0x87, 0x107, 0x1f, 0xfff]);
                let entry = target << 12 | flags | (random.word() & 1) << 63;
                fill(&[(mfn << 12) | (random.below(512) as u64 * 8) | random.pick(&[0, 0, 0, 2, 3]), entry]);
                call(nr::MMU_UPDATE, [buffer(0), 1, 0, DOMID_SELF, 0])
            }
        };
        if result == 0 {
            done += 1
        } else {
            refused += 1
        }
        if n % 100_000 == 0 {
            println!("enemy tables {n}: {done} done, {refused} refused");
        }
    }
    println!("enemy tables {count}: {done} done, {refused} refused");
    // Pinned or not, the frames go back to nobody: this guest ends with them as they are.
    core::mem::forget(pool);
}
