//! What the processor is said to be: every leaf, by the prefix that asks the hypervisor.

use super::entry;
use crate::answer;

/// Ticks and the like, which differ from run to run.
const TIME: u64 = 0x4000_0003;

/// Every question about it.
pub fn ask() {
    let leaves = (0..0x16)
        .chain(0x4000_0000..0x4000_0007)
        .chain([0x4000_0100, 0x4000_0200])
        .chain(0x8000_0000..0x8000_0009)
        .chain([
            0x8000_000a,
            0x8000_001a,
            0x8000_001b,
            0x8000_001d,
            0x8000_001e,
            0x8000_001f,
            0x8000_0021,
            0x9000_0000,
        ]);
    for leaf in leaves {
        for subleaf in 0..3 {
            let (eax, ecx, edx) = run!(".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2" ; leaf, subleaf, 0);
            let (ebx, _, _) =
                run!(".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2", "mov eax, ebx" ; leaf, subleaf, 0);
            answer(format_args!("cpuid {leaf:#x} {subleaf}"), entry::note(0).cast_signed());
            if leaf == TIME {
                continue;
            }
            for (name, value) in [("eax", eax), ("ebx", ebx), ("ecx", ecx), ("edx", edx)] {
                answer(format_args!("  {name}"), (value & 0xffff_ffff).cast_signed());
            }
        }
    }
}
