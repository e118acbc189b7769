//! MSRs against what Xen 4.17 told a PV dom0 on the same (emulated) hardware.

use std::format;
use std::string::String;
use std::vec::Vec;

use super::cpuid::golden;
use super::model::{Done, Model};
use crate::emul::cpu::Base;
use crate::emul::cpuid::{Kind, Policy};
use crate::emul::{Stop, msr};

/// Where Xen's answer is not ours: a register of the speculation controls, which are not offered,
/// and NB_CFG, which Xen passes through because QEMU has it whatever the vendor.
const EXCUSED: [u32; 2] = [0x10a, 0xc001_001f];

fn check(model: &str, text: &str, host: &[(u32, u64)]) {
    let mut wrong: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let index = u32::from_str_radix(words[0], 16).unwrap();
        if EXCUSED.contains(&index) {
            continue;
        }
        let mut cpu = Model::new(&[]);
        cpu.policy = Policy::new(golden(model).native(), 0, Kind::HardwareDomain);
        cpu.host_msrs.extend(host.iter().copied());
        let read = msr::read(&mut cpu, index);
        let value = read.unwrap_or(0);
        let expected = u64::from_str_radix(words[1], 16).map_err(|_| Stop::Unhandled);
        let clock = index == 0x10 && read.is_ok() && expected.is_ok();
        if read != expected && !clock {
            wrong.push(format!("read {index:#x}: {read:x?}, Xen {expected:x?}"));
        }
        for (what, value, xen) in [("same", value, words[2]), ("other", value ^ 1, words[3])] {
            let wrote = msr::write(&mut cpu, index, value).is_ok();
            if wrote != (xen == "ok") {
                wrong.push(format!("write {index:#x} {what}: {wrote}, Xen {xen}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn on_max_as_xen() {
    let host = [(0x8b, 0x100_0065), (0x1a0, 1), (0x277, 0x501_0007_0406), (0xc000_0080, 0x1d01)];
    check("max", include_str!("msr-max.txt"), &host);
}

#[test]
fn on_skylake_as_xen() {
    let host = [(0x17, 0), (0x8b, 0x1_0000_0000), (0x1a0, 1), (0x277, 0x501_0007_0406), (0xc000_0080, 0xd01)];
    check("skylake-client", include_str!("msr-skylake-client.txt"), &host);
}

#[test]
fn bases_take_canonical_addresses_only() {
    for (index, base) in [(0xc000_0100, Base::Fs), (0xc000_0101, Base::Gs), (0xc000_0102, Base::ShadowGs)] {
        let mut cpu = Model::new(&[]);
        assert_eq!(msr::write(&mut cpu, index, 0xffff_8880_0000_1000), Ok(()));
        assert_eq!(cpu.bases[base as usize], 0xffff_8880_0000_1000);
        assert_eq!(msr::write(&mut cpu, index, 0x0000_8000_0000_0000), Err(Stop::Unhandled));
        assert_eq!(msr::read(&mut cpu, index), Ok(0xffff_8880_0000_1000));
    }
}

#[test]
fn the_hypercall_page_is_the_one_at_index_zero() {
    let mut cpu = Model::new(&[]);
    assert_eq!(msr::write(&mut cpu, 0x4000_0000, 0x1234_5000), Ok(()));
    assert_eq!(msr::write(&mut cpu, 0x4000_0000, 0x1234_5001), Err(Stop::Unhandled));
    assert_eq!(cpu.done, [Done::HypercallPage(0x1_2345)]);
    assert_eq!(msr::read(&mut cpu, 0x4000_0000), Ok(0));
}

#[test]
fn only_the_first_vcpu_is_the_boot_processor() {
    let mut cpu = Model::new(&[]);
    assert_eq!(msr::read(&mut cpu, 0x1b), Ok(0xfee0_0900));
    cpu.vcpu = 3;
    assert_eq!(msr::read(&mut cpu, 0x1b), Ok(0xfee0_0800));
}
