//! Event channels by the FIFO ABI, with the guest's own words and control blocks written over at random between calls.
//!
//! What is asked of the hypervisor is that it goes on; and that the words, once they make sense again, get an event.

use guest_kernel::memory::{Pages, m2p};
use guest_kernel::println;

use crate::random::Random;
use crate::raw::{buffer, call, fill, nr, poke, word};

const VIRT_BASE: usize = 0xffff_ffff_8000_0000;
const CLOSE: usize = 3;
const SEND: usize = 4;
const BIND_IPI: usize = 7;
const BIND_VCPU: usize = 8;
const UNMASK: usize = 9;
const INIT_CONTROL: usize = 11;
const EXPAND_ARRAY: usize = 12;
const SET_PRIORITY: usize = 13;
const PORTS: usize = 200;

fn op(operation: usize, words: [u64; 3]) -> i64 {
    fill(&words);
    call(nr::EVENT_CHANNEL_OP, [operation, buffer(0), 0, 0, 0])
}

fn bind_ipi() -> u64 {
    if op(BIND_IPI, [0, 0, 0]) == 0 { word(0) >> 32 } else { 0 }
}

/// `count` steps of the sequence `seed`.
pub fn attack(seed: u64, count: u64) {
    let Ok(pages) = Pages::new(2) else { return };
    let at = |page: usize| m2p(pages.mfn(page)).map(|pfn| VIRT_BASE + pfn * 4096);
    let (Some(array), Some(control)) = (at(0), at(1)) else { return };
    let frames = [pages.mfn(0).0, pages.mfn(1).0];
    if op(INIT_CONTROL, [frames[1], 0, 0]) != 0 || op(EXPAND_ARRAY, [frames[0], 0, 0]) != 0 {
        return println!("enemy: no FIFO event channels");
    }
    let mut ports = [0u64; PORTS];
    ports.fill_with(bind_ipi);
    let mut random = Random::new(seed);
    let (mut done, mut refused) = (0u64, 0u64);
    for _ in 0..count {
        let n = random.below(PORTS);
        let port = ports[n];
        let value = match random.below(4) {
            0 => random.word(),
            1 => random.word() & 0xf001_ffff_f001_ffff,
            2 => 1 << 29 | port | (1 << 29 | port) << 32,
            _ => 0,
        };
        let result = match random.below(12) {
            0..=3 => {
                let page = if random.below(4) == 0 {
                    control + random.below(9) * 8
                } else {
                    array + random.below(512) * 8
                };
                poke(page, value);
                0
            }
            4..=6 => op(SEND, [port, 0, 0]),
            7 => op(UNMASK, [port, 0, 0]),
            8 => op(SET_PRIORITY, [port | (random.below(18) as u64) << 32, 0, 0]),
            9 => op(BIND_VCPU, [port | (random.below(2) as u64) << 32, 0, 0]),
            10 => {
                let result = op(CLOSE, [port, 0, 0]);
                ports[n] = bind_ipi();
                result
            }
            _ if random.below(50) == 0 => op(EXPAND_ARRAY, [random.pick(&frames), 0, 0]),
            _ => op(INIT_CONTROL, [random.pick(&frames), random.word() & 0xff8, 0]),
        };
        if result < 0 {
            refused += 1;
        } else {
            done += 1;
        }
    }
    for word in 0..512 {
        poke(array + word * 8, 0);
    }
    let port = bind_ipi();
    if op(SEND, [port, 0, 0]) != 0 || port < 1024 && crate::raw::peek(array + port as usize / 2 * 8) == 0 {
        println!("enemy wins: no event comes any more");
    }
    println!("enemy fifo {count}: {done} done, {refused} refused");
}
