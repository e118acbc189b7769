//! No bytes, registers or modes make the emulator panic, leave the guest's address range (the
//! model asserts it), or change anything while it says that it did nothing.

use std::vec::Vec;

use proptest::prelude::*;

use super::model::{CODE, Model};
use crate::emul::{Outcome, general_protection, invalid_opcode, page_table_write};

/// Addresses around every edge of the guest's range.
fn address() -> impl Strategy<Value = u64> {
    let edges = [0, CODE, 0x0000_8000_0000_0000, 0xffff_8000_0000_0000, 0xffff_8800_0000_0000];
    prop_oneof![
        any::<u64>(),
        (prop::sample::select(Vec::from(edges)), -20i64..20).prop_map(|(at, by)| at.wrapping_add_signed(by)),
    ]
}

fn opcode() -> impl Strategy<Value = Vec<u8>> {
    let one = [
        0x01, 0x0f, 0x29, 0x6c, 0x6d, 0x6e, 0x6f, 0x81, 0x83, 0x87, 0x89, 0xa3, 0xa5, 0xab, 0xc7, 0xe5, 0xe7,
        0xed, 0xef, 0xf7, 0xfa, 0xff,
    ];
    let two = [
        0x01, 0x06, 0x09, 0x20, 0x21, 0x22, 0x23, 0x30, 0x31, 0x32, 0xa2, 0xab, 0xb1, 0xb3, 0xba, 0xc1, 0xc3,
    ];
    let prefix = prop::sample::select(Vec::from([0x48u8, 0x66, 0x67, 0xf0, 0xf3, 0x64, 0x65, 0x4f]));
    let opcode = prop_oneof![
        prop::sample::select(Vec::from(one)).prop_map(|b| Vec::from([b])),
        prop::sample::select(Vec::from(two)).prop_map(|b| Vec::from([0x0f, b])),
        Just(Vec::from(*b"\x0f\x0bxen\x0f\xa2")),
        any::<u8>().prop_map(|b| Vec::from([b])),
    ];
    let tail = prop::collection::vec(any::<u8>(), 0..12);
    (prop::collection::vec(prefix, 0..4), opcode, tail).prop_map(|(a, b, c)| [a, b, c].concat())
}

prop_compose! {
    fn machine()(
        code in opcode(),
        rip in prop_oneof![Just(CODE), address()],
        gprs in prop::array::uniform16(address()),
        bases in prop::array::uniform3(address()),
        rflags: u64,
        flags in any::<[bool; 5]>(),
        iopl in 0u8..4,
        latch: u32,
        bitmap in prop::option::of((address(), any::<u32>())),
        msr in prop::option::of(prop_oneof![0u32..0x500, 0x4000_0000u32..0x4000_0002, 0xc000_0080u32..0xc000_0104]),
        filled in address(),
    ) -> Model {
        let mut cpu = Model::new(&[]);
        for (i, byte) in code.iter().enumerate() {
            cpu.memory.insert(rip.wrapping_add(i as u64), *byte);
        }
        for i in 0..64 {
            cpu.memory.entry(filled.wrapping_add(i)).or_insert(i as u8);
        }
        (cpu.rip, cpu.gprs, cpu.bases, cpu.rflags) = (rip, gprs, bases, rflags);
        [cpu.kernel, cpu.long_mode, cpu.architectural_iopl, cpu.hardware_domain, cpu.task_switched] = flags;
        (cpu.iopl, cpu.pci_latch, cpu.bitmap) = (iopl, latch, bitmap);
        cpu.permitted = [(0x100, 0x8fff)].into();
        cpu.host_msrs.insert(0xc000_0080, 0xd01);
        if let Some(msr) = msr {
            cpu.gprs[1] = u64::from(msr);
        }
        cpu
    }
}

fn snapshot(cpu: &Model) -> impl PartialEq + core::fmt::Debug + use<> {
    (
        (cpu.gprs, cpu.rip, cpu.rflags, cpu.bases, cpu.crs, cpu.drs),
        (
            cpu.memory.clone(),
            cpu.task_switched,
            cpu.tsc_aux,
            cpu.xcr0,
            cpu.pci_latch,
            cpu.cmos_index,
            cpu.done.len(),
        ),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn no_input_breaks_it(mut cpu in machine(), which in 0..3, fault in address()) {
        let before = snapshot(&cpu);
        let count = cpu.gprs[1];
        let fault = if which == 2 && fault & 1 == 0 { cpu.gprs[7] } else { fault };
        let at = cpu.rip;
        let string = cpu.memory.contains_key(&at);
        let outcome = match which {
            0 => general_protection(&mut cpu),
            1 => invalid_opcode(&mut cpu),
            _ => page_table_write(&mut cpu, fault),
        };
        let moved = cpu.rip.wrapping_sub(at);
        match outcome {
            Outcome::Emulated | Outcome::EmulatedStep => prop_assert!(string && moved <= 15),
            Outcome::Retry => prop_assert_eq!(moved, 0),
            Outcome::Unhandled => prop_assert_eq!(snapshot(&cpu), before),
            // A repeated port instruction may have completed iterations before its fault: they are counted in
            // rcx. (A read of a port that is nobody's leaves nothing else: it is all ones.)
            Outcome::Inject(exception) if exception.vector != 14 => {
                prop_assert_eq!(moved, 0);
                if cpu.done.is_empty() && cpu.gprs[1] == count {
                    prop_assert_eq!(snapshot(&cpu), before);
                }
            }
            Outcome::Inject(_) => prop_assert_eq!(moved, 0),
        }
        prop_assert!(cpu.done.len() <= 64 * 4);
    }
}
