//! Broken tables cost what they describe, never the boot; and entries that QEMU doesn't have.

use std::vec::Vec;

use proptest::prelude::*;

use super::build::{Ram, rsdp, table, with_tables};
use crate::acpi::sleep::{self, SleepType};
use crate::acpi::{Acpi, Fadt, Hpet, Madt, Mcfg, Polarity, Root, Space, Table, Trigger};

fn parse(bytes: &[u8]) -> Option<Table> {
    let mut ram = Ram::default();
    ram.pieces.insert(0x1000, bytes.into());
    Table::read(&ram, 0x1000, None)
}

fn madt(entries: &[&[u8]]) -> Madt {
    let body = [&0xfee0_0000u32.to_le_bytes()[..], &[0; 4], &entries.concat()].concat();
    Madt::parse(&parse(&table(b"APIC", &body)).unwrap()).unwrap()
}

#[test]
fn a_table_must_be_whole() {
    let good = table(b"SSDT", &[1, 2, 3]);
    assert_eq!(parse(&good).unwrap().body(), [1, 2, 3]);
    for len in [0u32, 35, 38, 40, 1 << 20, u32::MAX] {
        let mut bytes = good.clone();
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        assert_eq!(parse(&bytes), None, "length {len}");
    }
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        assert_eq!(parse(&bytes), None, "byte {at}");
    }
    let mut ram = Ram::default();
    ram.pieces.insert(0x1000, good);
    assert_eq!(Table::read(&ram, 0x1000, Some(b"DSDT")), None);
    assert_eq!(Table::read(&ram, u64::MAX - 3, None), None);
}

#[test]
fn a_broken_xsdt_leaves_the_rsdt() {
    let mut ram = with_tables(&[table(b"HPET", &[0; 20])]);
    ram.pieces.insert(0x11_0000, table(b"RSDT", &0x20_0000u32.to_le_bytes()));
    ram.pieces.insert(0xf_0000, rsdp(0x11_0000, 0x10_0000));
    ram.pieces.get_mut(&0x10_0000).unwrap()[9] ^= 1;
    let root = Root::find(&ram, None).unwrap();
    assert!(root.table(&ram, b"HPET").is_some());
    // So does a root pointer whose second half is wrong.
    ram.pieces.get_mut(&0xf_0000).unwrap()[32] ^= 1;
    assert_eq!(Root::find(&ram, None), Some(root));
    ram.pieces.get_mut(&0xf_0000).unwrap()[8] ^= 1;
    assert_eq!(Root::find(&ram, None), None);
}

#[test]
fn the_root_pointer_may_be_in_the_extended_bios_area() {
    let mut ram = with_tables(&[]);
    let pointer = ram.pieces.remove(&0xf_0000).unwrap();
    ram.pieces.insert(0x40e, 0x9fc0u16.to_le_bytes().into());
    ram.pieces.insert(0x9_fc40, pointer);
    assert_eq!(Root::find(&ram, None).unwrap().rsdp(), 0x9_fc40);
}

#[test]
fn large_machines_list_cpus_twice() {
    let madt = madt(&[
        &[0, 8, 7, 0, 1, 0, 0, 0],
        &[0, 8, 9, 0xff, 1, 0, 0, 0],
        &[9, 16, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0],
        &[9, 16, 0, 0, 0x34, 0x12, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0],
        &[0, 8, 3, 2, 2, 0, 0, 0],
    ]);
    let cpus: Vec<_> =
        madt.cpus.iter().map(|cpu| (cpu.apic_id, cpu.uid, cpu.enabled, cpu.online_capable)).collect();
    assert_eq!(cpus, [(0, 7, true, false), (0x1234, 8, true, false), (2, 3, false, true)]);
    assert_eq!(madt.enabled_cpus().count(), 2);
}

#[test]
fn rarer_entries() {
    let madt = madt(&[
        &[5, 12, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        &[2, 10, 0, 9, 20, 0, 0, 0, 0x0f, 0],
        &[2, 10, 0, 9, 21, 0, 0, 0, 0, 0],
        &[2, 10, 1, 3, 22, 0, 0, 0, 0, 0],
        &[10, 12, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0],
        &[4, 6, 0, 0, 0, 9],
        &[0x42, 3, 1],
    ]);
    assert_eq!(madt.local_apic, 0x1_0000_0000);
    let route = madt.isa_route(9);
    assert_eq!((route.gsi, route.polarity, route.trigger), (20, Polarity::Low, Trigger::Level));
    assert_eq!(madt.isa_route(3).gsi, 3);
    assert_eq!((madt.local_nmis.len(), madt.local_nmis[0].uid), (1, Some(1)));
}

#[test]
fn a_malformed_entry_ends_or_skips() {
    // A length of zero would loop; one that is too long would read beyond the table.
    for bad in [&[0u8, 0][..], &[0, 1], &[0, 200, 1, 1], &[1]] {
        assert_eq!(madt(&[&[0, 8, 0, 5, 1, 0, 0, 0], bad]).cpus.len(), 1, "{bad:?}");
    }
    assert_eq!(madt(&[&[0, 4, 0, 6], &[0, 8, 0, 5, 1, 0, 0, 0]]).cpus.len(), 1);
}

#[test]
fn extended_addresses_win_unless_they_are_empty() {
    let mut body = [0; 244 - 36];
    let mut put = |offset: usize, bytes: &[u8]| body[offset - 36..][..bytes.len()].copy_from_slice(bytes);
    put(40, &0x1000u32.to_le_bytes());
    put(140, &0x1_0000_2000u64.to_le_bytes());
    put(64, &0x404u32.to_le_bytes());
    put(89, &[2]);
    put(68, &0x504u32.to_le_bytes());
    put(172, &[0, 16, 0, 2]);
    put(176, &0xfe00_0000u64.to_le_bytes());
    put(184, &[9, 16, 0, 2]);
    put(112, &(1u32 << 10 | 1 << 20).to_le_bytes());
    put(116, &[2, 8, 0, 1]);
    put(120, &0x1f_0000u64.to_le_bytes());
    put(128, &[6]);
    let fadt = Fadt::parse(&parse(&table(b"FACP", &body)).unwrap()).unwrap();
    assert_eq!(fadt.dsdt, 0x1_0000_2000);
    let control = fadt.pm1a_control.unwrap();
    assert_eq!((control.space, control.address, control.port()), (Space::Memory, 0xfe00_0000, None));
    // An address space that we can't reach: the old field.
    assert_eq!(fadt.pm1b_control.and_then(|register| register.port()), Some(0x504));
    let (reset, value) = fadt.reset.unwrap();
    assert_eq!((reset.space, value), (Space::PciConfig, 6));
    assert!(fadt.hardware_reduced && fadt.pm_timer.is_none());
}

#[test]
fn configuration_space_entries() {
    let entry = |base: u64, first: u8, last: u8| {
        [&base.to_le_bytes()[..], &1u16.to_le_bytes(), &[first, last, 0, 0, 0, 0]].concat()
    };
    let body =
        [&[0; 8][..], &entry(0xe000_0000, 0x10, 0x1f), &entry(0, 0, 9), &entry(1 << 32, 9, 8), &[1; 15]]
            .concat();
    let mcfg = Mcfg::parse(&parse(&table(b"MCFG", &body)).unwrap());
    let [segment] = mcfg.segments[..] else { panic!("{mcfg:?}") };
    assert_eq!(segment.range(), 0xe100_0000..0xe200_0000);
    let short = parse(&table(b"MCFG", &[0; 4])).unwrap();
    assert_eq!(Mcfg::parse(&short), Mcfg::default());
    assert_eq!(Hpet::parse(&short), None);
}

#[test]
fn sleep_types_in_their_encodings() {
    let s5 = |bytes: &[u8]| sleep::find(bytes, b"_S5_").map(|kind| (kind.a, kind.b));
    assert_eq!(s5(b"xx\x08_S5_\x12\x08\x04\x0a\x05\x0a\x06\0\0"), Some((5, 6)));
    assert_eq!(s5(b"\x08\\_S5_\x12\x06\x04\0\x01\0\0"), Some((0, 1)));
    assert_eq!(s5(b"\x08_S5_\x12\x40\x01\x02\x0b\x07\x01\x0c\x0d\0\0\0"), Some((7, 5)));
    // One element for both registers; none for nobody.
    assert_eq!(s5(b"\x08_S5_\x12\x04\x01\x0a\x03"), Some((3, 3)));
    assert_eq!(s5(b"\x08_S5_\x12\x02\x00\x0a\x03"), None);
    // A reference to the name, a method, an element that is no constant: look on.
    assert_eq!(s5(b"\x70_S5_\x12\x04\x01\x01"), None);
    assert_eq!(s5(b"\x14\x08_S5_\0\x08_S5_\x12\x06\x04\x0a\x02\x0a\x02"), Some((2, 2)));
    assert_eq!(s5(b"\x08_S5_\x12\x06\x02\x60\x61"), None);
    for len in 0..11 {
        assert_eq!(s5(&b"\x08_S5_\x12\x08\x02\x0a\x05\x0a\x06"[..len]), None);
    }
}

#[test]
fn entering_a_state_keeps_the_other_bits() {
    assert_eq!(SleepType { a: 5, b: 1 }.control(0x1c01, 0x0200), (0x3401, 0x2600));
}

proptest! {
    /// Any bytes for any table: no panic, and lists stay bounded.
    #[test]
    fn garbage_is_survived(body in prop::collection::vec(any::<u8>(), 0..300)) {
        for signature in [b"APIC", b"FACP", b"HPET", b"MCFG", b"SSDT"] {
            let ram = with_tables(&[table(signature, &body)]);
            let acpi = Acpi::read(&ram, None).unwrap();
            prop_assert!(acpi.madt.is_none_or(|madt| madt.cpus.len() <= body.len() / 8));
        }
        sleep::find(&body, b"_S5_");
    }

    /// Any bytes as memory, with a valid pointer into them.
    #[test]
    fn wild_pointers_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0u64..0x1000, xsdt: u64) {
        let mut ram = Ram::default();
        ram.pieces.insert(at, bytes);
        ram.pieces.insert(0xf_0000, rsdp(at as u32, xsdt));
        prop_assert!(Acpi::read(&ram, Some(0xf_0000)).is_none());
    }
}
