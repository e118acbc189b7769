//! Port I/O. The expected results are those of Xen 4.17, tried by a PV dom0 on it.

use super::model::{CODE, Done, Model};
use crate::emul::{Base, Exception, Outcome, general_protection};

/// A hardware domain's kernel that has I/O privilege.
fn dom0() -> Model {
    let mut cpu = Model::new(&[]);
    cpu.iopl = 1;
    cpu.permitted =
        [(0, 0x1f), (0x22, 0x3f), (0x44, 0x60), (0x62, 0x9f), (0xa2, 0xcfb), (0xd00, 0xffff)].into();
    cpu
}

fn run(cpu: &mut Model, code: &[u8]) -> Outcome {
    cpu.put(CODE, code);
    cpu.rip = CODE;
    general_protection(cpu)
}

fn input(cpu: &mut Model, port: u16, code: &[u8]) -> u64 {
    (cpu.gprs[0], cpu.gprs[2]) = (0, u64::from(port));
    assert_eq!(run(cpu, code), Outcome::Emulated);
    cpu.gprs[0]
}

fn output(cpu: &mut Model, port: u16, code: &[u8], value: u64) {
    (cpu.gprs[0], cpu.gprs[2]) = (value, u64::from(port));
    assert_eq!(run(cpu, code), Outcome::Emulated);
}

const INB: &[u8] = b"\xec";
const INW: &[u8] = b"\x66\xed";
const INL: &[u8] = b"\xed";
const OUTB: &[u8] = b"\xee";
const OUTL: &[u8] = b"\xef";

#[test]
fn without_io_privilege_a_port_is_a_fault() {
    let mut cpu = dom0();
    cpu.iopl = 0;
    assert_eq!(run(&mut cpu, b"\xe4\x80"), Outcome::Inject(Exception::GP));
    (cpu.kernel, cpu.iopl) = (false, 2);
    assert_eq!(run(&mut cpu, b"\xe4\x80"), Outcome::Inject(Exception::GP));
    cpu.iopl = 3;
    assert_eq!(run(&mut cpu, b"\xe4\x80"), Outcome::Emulated);
}

#[test]
fn the_bitmap_grants_single_ports() {
    let at = 0x7f00_0000_0ffe;
    let mut cpu = dom0();
    (cpu.kernel, cpu.iopl) = (false, 0);
    let mut bits = [0xff; 2];
    bits[1] = 0b1000_0111;
    cpu.put(at, &bits);
    cpu.bitmap = Some((at, 16));
    for (port, code, allowed) in [
        (11, INB, true),
        (10, INB, false),
        (11, INL, true),
        (12, INL, false),
        (14, INW, false),
        (15, INB, false),
        (16, INB, false),
    ] {
        cpu.gprs[2] = port;
        let expected = if allowed { Outcome::Emulated } else { Outcome::Inject(Exception::GP) };
        assert_eq!(run(&mut cpu, code), expected, "port {port}");
    }
    // A bitmap that is not there, or is the hypervisor's.
    for address in [0x1000, 0xffff_8300_0000_0000, 0x0000_8000_0000_0000, u64::MAX] {
        cpu.bitmap = Some((address, 0x1_0000));
        cpu.gprs[2] = 11;
        assert_eq!(run(&mut cpu, INB), Outcome::Inject(Exception::GP), "{address:#x}");
    }
}

#[test]
fn denied_ports_read_as_ones_and_ignore_writes() {
    let mut cpu = dom0();
    for port in [0x20, 0x21, 0x40, 0xa0] {
        assert_eq!(input(&mut cpu, port, INB), 0xff);
        output(&mut cpu, port, OUTB, 0);
    }
    assert!(cpu.done.is_empty());
    // A wide access that is denied as a whole goes on port by port.
    assert_eq!(input(&mut cpu, 0x21, INW), 0x22ff);
    assert_eq!(cpu.done, [Done::In(0x22, 1)]);
    // Nothing wraps at the end of the port space.
    cpu.done.clear();
    assert_eq!(input(&mut cpu, 0xffff, INL), 0xffff_ffff);
    assert_eq!(cpu.done, [Done::In(0xffff, 1)]);
    output(&mut cpu, 0xfffe, OUTL, 0x4433_2211);
    assert_eq!(cpu.done[1..], [Done::Out(0xfffe, 1, 0x11), Done::Out(0xffff, 1, 0x22)]);
}

#[test]
fn pci_configuration_goes_through_the_latch() {
    let mut cpu = dom0();
    assert_eq!(input(&mut cpu, 0xcfc, INL), 0xffff_ffff);
    output(&mut cpu, 0xcf8, OUTL, 0x8000_0010);
    assert_eq!(input(&mut cpu, 0xcf8, INL), 0x8000_0010);
    assert!(cpu.done.is_empty());
    assert_eq!(input(&mut cpu, 0xcfc, INL), 0x1237_8086);
    assert_eq!(input(&mut cpu, 0xcfe, INW), 0x1237);
    // Three bytes of the register, and one of the port behind it.
    assert_eq!(input(&mut cpu, 0xcfd, INL), 0x0012_3780);
    let reads = [(0, 4), (2, 2), (1, 2), (3, 1)].map(|(at, size)| Done::PciRead(0x8000_0010, at, size));
    assert_eq!(cpu.done[..4], reads);
    assert_eq!(cpu.done[4..], [Done::In(0xd00, 1)]);
    cpu.done.clear();
    output(&mut cpu, 0xcfc, b"\x66\xef", 0xdead_beef);
    assert_eq!(cpu.done, [Done::PciWrite(0x8000_0010, 0, 2, 0xbeef)]);
    // Other domains have the latch but no devices.
    let mut cpu = dom0();
    cpu.hardware_domain = false;
    output(&mut cpu, 0xcf8, OUTL, 0x8000_0000);
    assert_eq!(input(&mut cpu, 0xcfc, INL), 0xffff_ffff);
    output(&mut cpu, 0xcfc, OUTL, 0);
    assert!(cpu.done.is_empty());
}

#[test]
fn cmos_is_index_and_data_in_one_step() {
    let mut cpu = dom0();
    output(&mut cpu, 0x70, OUTB, 0x8a);
    assert_eq!(input(&mut cpu, 0x70, INB), 0x8a);
    assert_eq!(input(&mut cpu, 0x71, INB), 0xf5);
    output(&mut cpu, 0x71, OUTB, 0x55);
    assert_eq!(cpu.done, [Done::CmosRead(0x0a), Done::CmosWrite(0x0a, 0x55)]);
    // A word at 0x70 is both.
    assert_eq!(input(&mut cpu, 0x70, INW), 0xf58a);
    // Without permission: the latch, and nothing behind it.
    let mut cpu = dom0();
    cpu.permitted.clear();
    output(&mut cpu, 0x70, OUTB, 3);
    assert_eq!(input(&mut cpu, 0x70, INB), 3);
    assert_eq!(input(&mut cpu, 0x71, INB), 0xff);
    output(&mut cpu, 0x71, OUTB, 0);
    assert!(cpu.done.is_empty());
}

#[test]
fn the_speaker_is_the_hardware_domains_without_the_other_bits() {
    let mut cpu = dom0();
    output(&mut cpu, 0x61, OUTB, 0xff);
    assert_eq!(cpu.done, [Done::In(0x61, 1), Done::Out(0x61, 1, 0x63)]);
    cpu.done.clear();
    output(&mut cpu, 0x43, OUTB, 0xb6);
    output(&mut cpu, 0x43, OUTB, 0x36);
    output(&mut cpu, 0x43, OUTB, 0xce);
    assert_eq!(cpu.done, [Done::Out(0x43, 1, 0xb6), Done::Out(0x43, 1, 0xc8)]);
}

#[test]
fn string_instructions() {
    let buffer = 0x7f00_0000_0000;
    let mut cpu = dom0();
    cpu.bases[Base::Fs as usize] = buffer;
    cpu.put(buffer, &[1, 2, 3, 4]);
    (cpu.gprs[1], cpu.gprs[2], cpu.gprs[6]) = (2, 0x300, 2);
    assert_eq!(
        run(&mut cpu, b"\xf3\x64\x66\x6f"),
        Outcome::Inject(Exception { vector: 14, error_code: Some(4), cr2: Some(buffer + 4) })
    );
    // One element went out before the fault, and only that one.
    assert_eq!((cpu.gprs[1], cpu.gprs[6]), (1, 4));
    assert_eq!(cpu.done, [Done::Out(0x300, 2, 0x403)]);

    let mut cpu = dom0();
    cpu.rflags |= 1 << 10;
    (cpu.gprs[1], cpu.gprs[2], cpu.gprs[7]) = (3, 0x304, buffer + 2);
    assert_eq!(run(&mut cpu, b"\xf3\x6c"), Outcome::Emulated);
    assert_eq!((cpu.gprs[1], cpu.gprs[7]), (0, buffer - 1));
    assert_eq!(cpu.memory.get(&buffer), Some(&4));
}

#[test]
fn a_long_repeat_gives_way() {
    let mut cpu = dom0();
    (cpu.gprs[1], cpu.gprs[2], cpu.gprs[7]) = (u64::MAX, 0x300, 0x7f00_0000_0000);
    assert_eq!(run(&mut cpu, b"\xf3\x6d"), Outcome::Retry);
    assert_eq!((cpu.rip, cpu.done.len()), (CODE, 64));
    assert_eq!((cpu.gprs[1], cpu.gprs[7]), (u64::MAX - 64, 0x7f00_0000_0100));
    // Single-stepped: one element, then #DB with rip still on the instruction.
    cpu.rflags |= 1 << 8;
    assert_eq!(run(&mut cpu, b"\xf3\x6d"), Outcome::EmulatedStep);
    assert_eq!((cpu.rip, cpu.done.len()), (CODE, 65));
}

#[test]
fn string_input_stays_out_of_the_hypervisor() {
    for address in [0xffff_8300_0000_0000, 0xffff_7fff_ffff_ffff, 0x7fff_ffff_fffd, 0xffff_87ff_ffff_fffe] {
        let mut cpu = dom0();
        (cpu.gprs[2], cpu.gprs[7]) = (0x300, address);
        assert_eq!(run(&mut cpu, b"\x6d"), Outcome::Inject(Exception::GP), "{address:#x}");
        assert!(cpu.done.is_empty());
    }
}
