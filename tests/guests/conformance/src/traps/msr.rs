//! Model-specific registers: which can be read, what they say, which can be written.

use super::{entry, trapped};
use crate::answer;

/// Registers of all groups that a kernel looks at.
const ASKED: [u64; 71] = [
    0,
    0x10,
    0x17,
    0x1b,
    0x3a,
    0x3b,
    0x48,
    0x49,
    0x79,
    0x8b,
    0xce,
    0xcf,
    0xfe,
    0x10a,
    0x122,
    0x140,
    0x174,
    0x175,
    0x176,
    0x179,
    0x17a,
    0x17b,
    0x186,
    0x198,
    0x199,
    0x19a,
    0x19c,
    0x1a0,
    0x1a2,
    0x1b0,
    0x1d9,
    0x200,
    0x250,
    0x277,
    0x2ff,
    0x345,
    0x38f,
    0x400,
    0x480,
    0x600,
    0x60a,
    0x6e0,
    0x800,
    0x802,
    0xc80,
    0xd90,
    0xda0,
    0x4000_0000,
    0x4000_0001,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0102,
    0xc000_0103,
    0xc000_0104,
    0xc001_0000,
    0xc001_0010,
    0xc001_0015,
    0xc001_001b,
    0xc001_001f,
    0xc001_0055,
    0xc001_0058,
    0xc001_0112,
    0xc001_0140,
    0xc001_0141,
    0xc001_102c,
    0xc001_1029,
    0xdead_beef,
];
/// What ticks, or is an address of the machine's.
const DIFFERS: [u64; 6] = [0x10, 0x1b, 0x8b, 0x17, 0xfe, 0x802];
/// The bases of fs and gs, which the program stands on, and Xen's order to fill a page with code.
const NOT_WRITTEN: [u64; 4] = [0xc000_0100, 0xc000_0101, 0xc000_0102, 0x4000_0000];

/// Every question about them.
pub fn ask() {
    for msr in ASKED {
        let (low, _, high) = run!("rdmsr" ; 0, msr, 0);
        answer(format_args!("rdmsr {msr:#x}"), entry::note(0).cast_signed());
        if trapped().is_none() && !DIFFERS.contains(&msr) {
            answer(format_args!("  says"), (high << 32 | low & 0xffff_ffff).cast_signed());
        }
        if !NOT_WRITTEN.contains(&msr) {
            run!("rdmsr", "wrmsr" ; 0, msr, 0);
            answer(format_args!("  written back"), entry::note(0).cast_signed());
            run!("wrmsr" ; 0xffff_ffff, msr, 0xffff_ffff);
            answer(format_args!("  all set"), entry::note(0).cast_signed());
        }
    }
}
