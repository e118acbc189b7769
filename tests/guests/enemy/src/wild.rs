//! Random arguments to every hypercall.

use guest_kernel::memory::{Pages, m2p};
use guest_kernel::println;
use guest_kernel::shared_abi::Mfn;

use crate::random::Random;
use crate::raw::{buffer, call, fill, nr};

/// Where a guest's frames are mapped (images/guest.ld).
const VIRT_BASE: usize = 0xffff_ffff_8000_0000;

/// The highest port that this kernel has opened, or was given.
const OWN_PORTS: u32 = 8;

/// Frames that calls may destroy.
const POOL: usize = 64;

/// Numbers that mean something somewhere: domains, sizes, flags, limits, addresses.
const TELLING: [u64; 28] = [
    0,
    1,
    2,
    3,
    5,
    7,
    8,
    31,
    63,
    64,
    512,
    4095,
    4096,
    8192,
    0x7ff0,
    0x7ff1,
    0x7ff2,
    0x7ff4,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x8000_0000_0000,
    0x7fff_ffff_ffff_fff8,
    1 << 51,
    1 << 63,
    u64::MAX,
];

/// Addresses that are not this guest's memory.
const FOREIGN: [u64; 8] = [
    0x10,
    0x7fff_ffff_f000,
    0x8000_0000_0000,
    0xffff_8000_0000_0000,
    0xffff_82d0_8020_0000,
    0xffff_8300_0000_0000,
    0xffff_87ff_ffff_fff8,
    u64::MAX,
];

/// Everything random is drawn from here.
struct Source {
    random: Random,
    /// Frames that may be lost.
    pool: Pages,
    /// Where they are mapped. (The M2P, which says it, is among what is attacked.)
    addresses: [usize; POOL],
}

impl Source {
    fn frame(&mut self) -> u64 {
        let i = self.random.below(self.pool.count());
        self.pool.mfn(i).0
    }

    /// Any word, but none that names this guest's other frames.
    fn word(&mut self) -> u64 {
        let word = match self.random.below(12) {
            0..4 => self.random.pick(&TELLING),
            4 => self.random.pick(&FOREIGN),
            5 => self.frame(),
            6 => self.frame() << 12 | self.random.below(4096) as u64,
            // Aligned: a word made of two others could name anything of this guest's.
            7 => buffer(self.random.below(1024)) as u64,
            8 => self.random.below(64) as u64,
            9 => self.random.word() & 0xffff,
            10 => self.random.word(),
            _ => self.random.pick(&TELLING) << 32 | self.random.pick(&TELLING) & 0xffff_ffff,
        };
        if self.is_ours(word) || self.is_ours(word >> 12) { self.frame() } else { word }
    }

    fn is_ours(&self, mfn: u64) -> bool {
        m2p(Mfn(mfn)).is_some() && (0..self.pool.count()).all(|i| self.pool.mfn(i).0 != mfn)
    }

    fn foreign(&mut self) -> usize {
        self.random.pick(&FOREIGN) as usize
    }

    /// One hypercall's number and arguments.
    fn call(&mut self) -> (usize, [usize; 5]) {
        let nr = if self.random.below(64) == 0 { self.word() as usize } else { self.random.below(49) };
        let mut args = [0; 5];
        for arg in &mut args {
            *arg = self.word() as usize;
        }
        // Operations are small numbers, and lists are mostly where they should be.
        if self.random.below(8) != 0 {
            args[0] = self.random.below(40);
        }
        let at = self.random.below(5);
        args[at] = buffer(0) + 8 * self.random.below(4);
        (nr, self.tame(nr, args))
    }

    /// Takes out what would end this guest and tell nothing.
    fn tame(&mut self, nr: usize, mut args: [usize; 5]) -> [usize; 5] {
        match nr {
            // block, shutdown, poll, remote shutdown, the code of a shutdown to come, a watchdog
            nr::SCHED_OP if (1..7).contains(&(args[0] as u32)) => args[0] = 0,
            // block, shutdown
            nr::SCHED_OP_COMPAT => args[0] = 0,
            // down; vcpu_info and NMIs are ways into this kernel that it isn't prepared for
            nr::VCPU_OP if matches!(args[0] as u32, 2 | 10 | 11) => args[0] = 3,
            // The buffer, the stack and the code are to stay mapped.
            nr::UPDATE_VA_MAPPING | nr::UPDATE_VA_MAPPING_OTHERDOMAIN => {
                args[0] = if self.random.below(2) == 0 {
                    self.random.pick(&self.addresses)
                } else {
                    self.foreign()
                };
            }
            // An event or an NMI may get through: its handler stays ours.
            nr::SET_CALLBACKS => args[0] = 1 << 63,
            nr::CALLBACK_OP | nr::NMI_OP => args[1] = 0x10,
            // No breakpoints that this kernel would have to handle.
            nr::SET_DEBUGREG => args[1] &= !0xff,
            // Each element of a list gets a status: past the buffer's end lie this program's variables.
            nr::GRANT_TABLE_OP if (args[2] as u32) < 1 << 31 => args[2] %= 64,
            // Closing and resetting are of single ports: see `words`.
            nr::EVENT_CHANNEL_OP if args[0] as u32 == 10 => args[0] = 9,
            nr::CONSOLE_IO if args[0] as u32 == 0 => args[2] = self.foreign(),
            // A frame's neighbours are not to be lost with it: lists are of single frames.
            nr::MEMORY_OP if matches!(args[0] & 63, 1 | 11) => args[1] = buffer(0),
            _ => {}
        }
        args
    }

    /// What the buffer holds for call `nr`.
    fn words(&mut self, nr: usize, args: &[usize; 5]) -> [u64; 64] {
        let mut words = [0; 64];
        for word in &mut words {
            *word = self.word();
        }
        let small = self.random.below(96) as u64;
        match nr {
            // interface versions; not ACPI's sleep
            nr::PLATFORM_OP => words[0] = (0x0300_0000 << 32) | (small % 51),
            nr::SYSCTL => words[0] = (0x15 << 32) | (small % 32),
            nr::DOMCTL => {
                words[0] = 0x15 << 32 | small;
                words[1] = self.random.pick(&[0, 1, 2, 77, 0x7ff0, 0x7ff2]);
            }
            // The ports to xenstore and the console, and the timer's, stay as they are.
            nr::EVENT_CHANNEL_OP if words[0] as u32 <= OWN_PORTS => words[0] += 1 + u64::from(OWN_PORTS),
            nr::MEMORY_OP if matches!(args[0] & 63, 1 | 11) => {
                words[1] %= 16;
                words[2] = 0;
                words[6] = 0;
            }
            nr::MMUEXT_OP => {
                for op in words.chunks_mut(3) {
                    op[0] = self.random.below(24) as u64;
                    // The root in use stays.
                    if op[0] == 5 {
                        op[0] = 15;
                    }
                }
            }
            nr::MULTICALL => {
                for entry in words.chunks_exact_mut(8) {
                    let (nr, args) = self.call();
                    let harmless = !matches!(
                        nr,
                        nr::MMUEXT_OP | nr::MEMORY_OP | nr::PLATFORM_OP | nr::DOMCTL | nr::IRET
                    );
                    entry[0] = if harmless { nr as u64 } else { 17 };
                    entry[1] = 0;
                    // What one call returns is not to become the next one.
                    for (word, arg) in entry[2..].iter_mut().zip(args) {
                        *word = if arg.abs_diff(buffer(0)) < 8192 { buffer(512) } else { arg } as u64;
                    }
                }
            }
            _ => {}
        }
        words
    }
}

/// `count` calls of the sequence `seed`.
pub fn attack(seed: u64, count: u64) {
    let Ok(pool) = Pages::new(POOL) else { return };
    let addresses = core::array::from_fn(|i| VIRT_BASE + m2p(pool.mfn(i)).unwrap_or(0) * 4096);
    let mut source = Source { random: Random::new(seed), pool, addresses };
    let mut answered = [0u64; 2];
    for n in 0..count {
        let (nr, mut args) = source.call();
        if nr == nr::IRET {
            continue;
        }
        if matches!(nr, nr::MMUEXT_OP | nr::MULTICALL | nr::PLATFORM_OP | nr::DOMCTL)
            && args[0].abs_diff(buffer(0)) < 8192
        {
            args[0] = buffer(0);
            args[1] %= 8;
        }
        let words = source.words(nr, &args);
        fill(&words);
        let result = call(nr, args);
        answered[usize::from(result < 0 && result > -4096)] += 1;
        if n % 100_000 == 0 {
            println!("enemy wild {n}: {} done, {} refused", answered[0], answered[1]);
        }
    }
    println!("enemy wild {count}: {} done, {} refused", answered[0], answered[1]);
}
