//! Privileged instructions, assembled by hand where one case needs one encoding. The expected
//! results are those of Xen 4.17, tried by a PV dom0 on it.

use super::model::{CODE, Done, Model};
use crate::emul::cpu::ControlError;
use crate::emul::{Exception, Outcome, general_protection, invalid_opcode};

const GP: Outcome = Outcome::Unhandled;

fn run(cpu: &mut Model, code: &[u8]) -> Outcome {
    cpu.put(CODE, code);
    cpu.rip = CODE;
    let outcome = general_protection(cpu);
    let moved = cpu.rip - CODE;
    let retired = matches!(outcome, Outcome::Emulated | Outcome::EmulatedStep);
    assert_eq!(moved, if retired { code.len() as u64 } else { 0 });
    outcome
}

#[test]
fn control_registers() {
    let mut cpu = Model::new(&[]);
    for (code, value) in [
        (b"\x0f\x20\xc0", 0x8005_0033),
        (b"\x0f\x20\xd0", 0),
        (b"\x0f\x20\xd8", 0x1ed5_c000),
        (b"\x0f\x20\xe0", 0x660),
    ] {
        assert_eq!(run(&mut cpu, code), Outcome::Emulated);
        assert_eq!(cpu.gprs[0], value);
    }
    // CR8 is not there.
    assert_eq!(run(&mut cpu, b"\x44\x0f\x20\xc0"), GP);
    assert_eq!(run(&mut cpu, b"\x44\x0f\x22\xc0"), GP);
    // CR0: TS may change, nothing else.
    cpu.gprs[0] = 0x8005_003b;
    assert_eq!(run(&mut cpu, b"\x0f\x22\xc0"), Outcome::Emulated);
    assert!(cpu.task_switched);
    assert_eq!(run(&mut cpu, b"\x0f\x20\xc0"), Outcome::Emulated);
    assert_eq!(cpu.gprs[0], 0x8005_003b);
    assert_eq!(run(&mut cpu, b"\x0f\x06"), Outcome::Emulated);
    assert!(!cpu.task_switched);
    cpu.gprs[0] = 0x8004_0033;
    assert_eq!(run(&mut cpu, b"\x0f\x22\xc0"), GP);
    // CR4: of all ones, what the guest may choose.
    cpu.gprs[0] = u64::MAX;
    assert_eq!(run(&mut cpu, b"\x0f\x22\xe0"), Outcome::Emulated);
    assert_eq!(cpu.crs[4], 0x5066c);
    // CR3.
    cpu.gprs[0] = 0x1234_5000;
    assert_eq!(run(&mut cpu, b"\x0f\x22\xd8"), Outcome::Emulated);
    assert_eq!(cpu.crs[3], 0x1234_5000);
    cpu.cr3_answer = Err(ControlError::Busy);
    assert_eq!(run(&mut cpu, b"\x0f\x22\xd8"), Outcome::Retry);
    cpu.cr3_answer = Err(ControlError::Refused);
    assert_eq!(run(&mut cpu, b"\x0f\x22\xd8"), GP);
}

#[test]
fn debug_registers_4_and_5_are_aliases_until_de() {
    let mut cpu = Model::new(&[]);
    assert_eq!(run(&mut cpu, b"\x0f\x21\xe0"), Outcome::Emulated);
    assert_eq!(cpu.gprs[0], 0xffff_0ff0);
    cpu.gprs[0] = 0x401;
    assert_eq!(run(&mut cpu, b"\x0f\x23\xe8"), Outcome::Emulated);
    assert_eq!(cpu.drs[7], 0x401);
    // DR6 and DR7 have no upper halves.
    cpu.gprs[0] = 1 << 32;
    assert_eq!(run(&mut cpu, b"\x0f\x23\xf8"), GP);
    assert_eq!(run(&mut cpu, b"\x0f\x23\xe0"), GP);
    cpu.crs[4] |= 8;
    assert_eq!(run(&mut cpu, b"\x0f\x21\xe0"), Outcome::Inject(Exception::UD));
    assert_eq!(run(&mut cpu, b"\x0f\x23\xe8"), Outcome::Inject(Exception::UD));
    cpu.gprs[0] = 0xffff_82d0_4000_0000;
    assert_eq!(run(&mut cpu, b"\x0f\x23\xc0"), GP);
}

#[test]
fn caches_are_flushed_for_domains_with_devices() {
    let mut cpu = Model::new(&[]);
    for code in [&b"\x0f\x09"[..], b"\xf3\x0f\x09"] {
        assert_eq!(run(&mut cpu, code), Outcome::Emulated);
    }
    cpu.hardware_domain = false;
    assert_eq!(run(&mut cpu, b"\x0f\x09"), Outcome::Emulated);
    assert_eq!(cpu.done, [Done::Wbinvd; 2]);
}

#[test]
fn what_xen_refuses_is_refused() {
    let mut cpu = Model::new(&[]);
    cpu.iopl = 1;
    for code in [
        &b"\xf4"[..],            // hlt
        b"\x0f\x08",             // invd
        b"\x0f\x01\xf0",         // lmsw
        b"\x0f\x01\x3d\0\0\0\0", // invlpg
        b"\x0f\x33",             // rdpmc
        b"\x0f\x01\x15\0\0\0\0", // lgdt
        b"\x0f\x00\xd8",         // ltr
        b"\x0f\x01\xf8",         // swapgs
        b"\x48\x0f\x07",         // sysret
    ] {
        assert_eq!(run(&mut cpu, code), GP, "{code:x?}");
    }
}

#[test]
fn interrupt_flag_instructions_need_virtual_iopl() {
    for (code, name) in [(b"\xfa", "cli"), (b"\xfb", "sti")] {
        let mut cpu = Model::new(&[]);
        assert_eq!(run(&mut cpu, code), GP, "{name}");
        cpu.iopl = 1;
        assert_eq!(run(&mut cpu, code), Outcome::Emulated, "{name}");
        assert_eq!(cpu.rflags, 0x202);
        cpu.kernel = false;
        assert_eq!(run(&mut cpu, code), GP, "{name}");
        cpu.iopl = 3;
        assert_eq!(run(&mut cpu, code), Outcome::Emulated, "{name}");
        (cpu.kernel, cpu.iopl, cpu.architectural_iopl) = (true, 0, true);
        assert_eq!(run(&mut cpu, code), Outcome::Emulated, "{name}");
    }
}

#[test]
fn xsetbv() {
    let mut cpu = Model::new(&[]);
    let code = b"\x0f\x01\xd1";
    cpu.gprs[0] = 7;
    assert_eq!(run(&mut cpu, code), Outcome::Inject(Exception::UD));
    cpu.crs[4] |= 1 << 18;
    assert_eq!(run(&mut cpu, code), Outcome::Emulated);
    assert_eq!(cpu.done, [Done::Xcr0(7)]);
    for (index, value) in [(0, 0u64), (0, 5), (0, 0x207), (0, 0x1f), (0, 0xe7), (1, 3)] {
        (cpu.gprs[0], cpu.gprs[1]) = (value, index);
        assert_eq!(run(&mut cpu, code), Outcome::Inject(Exception::GP), "{value:#x}");
    }
    assert_eq!(cpu.xcr0, 7);
}

#[test]
fn time_stamps() {
    let mut cpu = Model::new(&[]);
    cpu.tsc_aux = 9;
    cpu.gprs = [u64::MAX; 16];
    assert_eq!(run(&mut cpu, b"\x0f\x01\xf9"), Outcome::Emulated);
    assert_eq!([cpu.gprs[0], cpu.gprs[1], cpu.gprs[2]], [0x5678_9abc, 9, 0x1234]);
    // The guest's kernel took RDTSC from its user mode.
    cpu.crs[4] |= 4;
    assert_eq!(run(&mut cpu, b"\x0f\x31"), Outcome::Emulated);
    cpu.kernel = false;
    assert_eq!(run(&mut cpu, b"\x0f\x31"), GP);
}

#[test]
fn user_mode_has_no_privilege() {
    for code in [
        &b"\x0f\x20\xc0"[..],
        b"\x0f\x22\xd8",
        b"\x0f\x21\xc0",
        b"\x0f\x23\xc0",
        b"\x0f\x06",
        b"\x0f\x09",
        b"\x0f\x01\xd1",
        b"\x0f\x32",
        b"\x0f\x30",
        b"\xfa",
        b"\xfb",
    ] {
        let mut cpu = Model::new(&[]);
        cpu.kernel = false;
        cpu.gprs[1] = 0xc000_0080;
        assert_eq!(run(&mut cpu, code), GP, "{code:x?}");
        assert!(cpu.done.is_empty());
    }
}

#[test]
fn single_stepping_traps_behind_the_instruction() {
    let mut cpu = Model::new(&[]);
    cpu.rflags |= 1 << 8 | 1 << 16;
    assert_eq!(run(&mut cpu, b"\x0f\x06"), Outcome::EmulatedStep);
    assert_eq!(cpu.rflags, 0x302);
}

#[test]
fn only_the_exact_prefix_forces_emulation() {
    for code in [&b"\x0f\x0bxen"[..], b"\x0f\x0bxen\x0f\x31", b"\x0f\x0bxeN\x0f\xa2", b"\x0f\x0b", b""] {
        let mut cpu = Model::new(code);
        assert_eq!(invalid_opcode(&mut cpu), Outcome::Unhandled, "{code:x?}");
    }
}

/// An instruction that ends where canonical addresses end would leave `rip` non-canonical, which
/// makes SYSRET fault in the hypervisor (CVE-2012-0217).
#[test]
fn rip_never_becomes_non_canonical() {
    let mut cpu = Model::new(&[]);
    cpu.rip = 0x7fff_ffff_fffe;
    cpu.put(cpu.rip, b"\x0f\x06");
    assert_eq!(general_protection(&mut cpu), GP);
    cpu.rip = 0x7fff_ffff_fff9;
    cpu.put(cpu.rip, b"\x0f\x0bxen\x0f\xa2");
    assert_eq!(invalid_opcode(&mut cpu), GP);
}
