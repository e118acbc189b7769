//! The policy against what Xen 4.17 told a PV dom0 on the same (emulated) hardware.

use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;
use std::{format, fs};

use super::model::{HOST_CR4, Model, leaf};
use crate::emul::cpuid::{Kind, Leaf, Origin, Policy, TimeInfo, View, with_waiting_lfence};
use crate::emul::privop::{CR4_OSXSAVE, valid_xcr0};
use crate::emul::{Cpu, Gpr};
use shared_abi::errno::Errno;

/// One recorded machine.
pub struct Golden {
    native: BTreeMap<(u32, u32), Leaf>,
    xen: BTreeMap<(u32, u32), Leaf>,
}

/// The record of QEMU's CPU model `max` or `skylake-client`.
pub fn golden(model: &str) -> Golden {
    let text = match model {
        "max" => include_str!("cpuid-max.txt"),
        _ => include_str!("cpuid-skylake-client.txt"),
    };
    let mut golden = Golden { native: BTreeMap::new(), xen: BTreeMap::new() };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<u32> =
            line.split_whitespace().filter_map(|word| u32::from_str_radix(word, 16).ok()).collect();
        let [index, sub, a, b, c, d, xa, xb, xc, xd] = words[..] else { panic!("{line}") };
        golden.native.insert((index, sub), leaf(a, b, c, d));
        golden.xen.insert((index, sub), leaf(xa, xb, xc, xd));
    }
    golden
}

impl Golden {
    /// The hardware's CPUID.
    pub fn native(self) -> impl Fn(u32, u32) -> Leaf {
        move |leaf, subleaf| {
            let key = (leaf, subleaf);
            self.native.get(&key).or_else(|| self.native.get(&(leaf, 0))).copied().unwrap_or_default()
        }
    }
}

fn view() -> View {
    View {
        vcpu: 0,
        cr4: HOST_CR4 & 0x660,
        xcr0: 3,
        host_osxsave: true,
        time: TimeInfo { host_khz: 0x27_9d33, ..TimeInfo::default() },
        machine_address_width: 29,
    }
}

/// Every recorded leaf that `policy` answers differently, but for the ones `same` excuses.
fn differences(golden: &Golden, policy: &Policy, same: impl Fn(u32, u32, Leaf, Leaf) -> bool) -> Vec<String> {
    let mut out = Vec::new();
    for (&(index, subleaf), &expected) in &golden.xen {
        let got = policy.query(index, subleaf, &view(), Origin::Forced, true);
        if got != expected && !same(index, subleaf, got, expected) {
            out.push(format!("{index:#x}:{subleaf}: {got:x?}, Xen {expected:x?}"));
        }
    }
    out
}

#[test]
fn on_max_as_xen() {
    let record = golden("max");
    let policy = Policy::new(golden("max").native(), 0, Kind::HardwareDomain);
    assert_eq!(differences(&record, &policy, |_, _, _, _| false), Vec::<String>::new());
}

/// On this Intel model Xen does two things for the processor's flaws: it takes AVX away (no
/// microcode against gather data sampling), and it shows dom0 the MSR ARCH_CAPABILITIES with a bit of
/// its own making. The TSC's frequency of that run is excused.
#[test]
fn on_skylake_as_xen() {
    let record = golden("skylake-client");
    let policy = Policy::new(golden("skylake-client").native(), 0, Kind::HardwareDomain);
    let excused = |index, subleaf, _, xen: Leaf| (index, subleaf) == (0x4000_0003, 2) && xen.eax == 0x27_9d2f;
    assert_eq!(differences(&record, &policy, excused), Vec::<String>::new());
    assert_eq!(policy.arch_capabilities(), Some(1 << 2));
}

/// With the microcode that prevents gather data sampling, or on a processor that never had it, AVX stays;
/// other domains than the first are told nothing.
#[test]
fn a_processor_that_is_sound_keeps_its_vectors() {
    for caps in [1 << 25, 1 << 26] {
        let policy = Policy::new(golden("skylake-client").native(), caps, Kind::Guest);
        assert!(policy.features().avx);
        assert_eq!(policy.xcr0_mask(), 7);
        assert_eq!(policy.arch_capabilities(), None);
    }
    assert!(!Policy::new(golden("skylake-client").native(), 0, Kind::Guest).features().avx);
    assert!(Policy::new(golden("max").native(), 0, Kind::Guest).features().avx);
}

/// What a toolstack sets of a domain's registers is kept, as far as it is true of the processor.
#[test]
fn registers_are_set_within_the_machines() {
    let (info, capabilities) = (0xce, 0x10a);
    let max = Policy::new(golden("skylake-client").native(), 1 << 26 | 1 << 5, Kind::HardwareDomain);
    let plain = Policy::new(golden("skylake-client").native(), 1 << 26 | 1 << 5, Kind::Guest);
    let mut policy = plain.clone();
    assert_eq!(policy.set_register(&max, info, 0), Ok(()));
    assert_eq!(policy.set_register(&max, info, 1 << 31), Err(Errno::EINVAL));
    assert_eq!(policy.set_register(&max, info, 1 << 32), Err(Errno::EOVERFLOW));
    assert_eq!(policy.set_register(&max, 0x1b, 0), Err(Errno::EINVAL));
    assert_eq!(policy.set_register(&max, capabilities, 1), Err(Errno::EINVAL), "Meltdown is not absent");
    assert_eq!(policy, plain, "nothing of that is kept");
    assert_eq!(policy.set_register(&max, capabilities, 1 << 26), Ok(()));
    assert_eq!(policy.arch_capabilities(), None, "the domain has no such register yet");
    let mut leaf7 = policy.stored(7, 0);
    leaf7.edx |= 1 << 29;
    let told = policy.updated(&max, [(7, 0, leaf7)]).unwrap();
    assert_eq!(told.arch_capabilities(), Some(1 << 26));
}

/// Xen 4.17.7 on QEMU 7.2's `max`, which is of AMD's family 0xf: leaf 0x80000021 is there, with one bit, though the
/// processor's leaves end at 0x8000000a.
#[test]
fn a_guest_is_told_of_an_lfence_that_waits() {
    let plain = Policy::new(golden("max").native(), 0, Kind::Guest);
    let told = Policy::new(with_waiting_lfence(golden("max").native()), 0, Kind::Guest);
    let ask = |policy: &Policy, leaf| policy.query(leaf, 0, &view(), Origin::Forced, true);
    assert_eq!(ask(&told, 0x8000_0000), Leaf { eax: 0x8000_0021, ..ask(&plain, 0x8000_0000) });
    for leaf in 0x8000_0001..=0x8000_0020 {
        assert_eq!(ask(&told, leaf), ask(&plain, leaf), "{leaf:#x}");
    }
    assert_eq!(ask(&told, 0x8000_0021), leaf(4, 0, 0, 0));
    assert_eq!(ask(&plain, 0x8000_0021), Leaf::default());
}

#[test]
fn a_guest_sees_no_mtrr_and_no_monitor() {
    let policy = Policy::new(golden("max").native(), 0, Kind::Guest);
    for origin in [Origin::Forced, Origin::Faulted] {
        let out = policy.query(1, 0, &view(), origin, true);
        assert_eq!((out.edx >> 12 & 1, out.ecx >> 3 & 1), (0, 0));
        assert_eq!(policy.query(5, 0, &view(), origin, true), Leaf::default());
    }
}

/// Linux's ACPI code in dom0 asks with a native CPUID whether there is MONITOR.
#[test]
fn a_hardware_domain_sees_monitor_natively() {
    let policy = Policy::new(golden("max").native(), 0, Kind::HardwareDomain);
    let bit = |origin, kernel| policy.query(1, 0, &view(), origin, kernel).ecx >> 3 & 1;
    assert_eq!(
        [bit(Origin::Faulted, true), bit(Origin::Faulted, false), bit(Origin::Forced, true)],
        [1, 0, 0]
    );
    assert_eq!(policy.query(5, 0, &view(), Origin::Faulted, true).ecx, 3);
}

#[test]
fn osxsave_leaks_to_enlightened_kernels_only() {
    let policy = Policy::new(golden("max").native(), 0, Kind::Guest);
    let osxsave =
        |origin, kernel, cr4| policy.query(1, 0, &View { cr4, ..view() }, origin, kernel).ecx >> 27 & 1 != 0;
    assert!(osxsave(Origin::Forced, true, 0));
    assert!(!osxsave(Origin::Forced, false, 0));
    assert!(!osxsave(Origin::Faulted, true, 0));
    assert!(osxsave(Origin::Faulted, false, CR4_OSXSAVE));
}

/// The hypervisor allocates by what the guest may enable, so the leaf must say the same.
#[test]
fn the_xsave_leaf_follows_xcr0() {
    let policy = Policy::new(golden("max").native(), 0, Kind::Guest);
    assert_eq!(policy.xcr0_mask(), 7);
    let size = |xcr0| policy.query(0xd, 0, &View { xcr0, ..view() }, Origin::Forced, true).ebx;
    assert_eq!([size(1), size(3), size(7), size(u64::MAX)], [576, 576, 832, 832]);
}

#[test]
fn xcr0_needs_whole_groups() {
    let all = 0x6_00ff;
    let valid: Vec<u64> = (0..0x100).filter(|value| valid_xcr0(*value, all)).collect();
    // x87; with SSE; with AVX; each of them with MPX; AVX-512 on top of AVX.
    assert_eq!(valid, [1, 3, 7, 0x19, 0x1b, 0x1f, 0xe7, 0xff]);
    assert!(!valid_xcr0(0x2_0003, all) && valid_xcr0(0x6_0003, all));
    assert!(!valid_xcr0(7, 3));
}

#[test]
fn a_toolstack_takes_features_away_but_adds_none() {
    let max = Policy::new(golden("max").native(), 0, Kind::Guest);
    let one = max.stored(1, 0);
    let all = Leaf { ecx: u32::MAX, edx: u32::MAX, ..one };
    assert_eq!(max.updated(&max, [(1, u32::MAX, all)]).as_ref(), Ok(&max));

    let less = Leaf { ecx: one.ecx & !(1 << 26), ..one };
    let without_xsave = max.updated(&max, [(1, u32::MAX, less)]).unwrap();
    assert_eq!(without_xsave.xcr0_mask(), 0);
    // AVX, FMA and F16C are gone with the state they need.
    assert_eq!(without_xsave.stored(1, 0).ecx, less.ecx & !(1 << 28 | 1 << 12 | 1 << 29));
    assert_eq!(without_xsave.stored(7, 0).ebx & (1 << 5), 0);
    assert_eq!(without_xsave.stored(0xd, 0), Leaf::default());
}

#[test]
fn a_policy_survives_being_listed_and_read_back() {
    for model in ["max", "skylake-client"] {
        let policy = Policy::new(golden(model).native(), 0, Kind::Guest);
        let listed: Vec<_> = policy.leaves().collect();
        assert!(listed.is_sorted_by_key(|(leaf, subleaf, _)| (*leaf, subleaf.wrapping_add(1))));
        assert_eq!(policy.updated(&policy, listed), Ok(policy));
    }
}

#[test]
fn unknown_leaves_are_refused() {
    let policy = Policy::new(golden("max").native(), 0, Kind::Guest);
    for (leaf, subleaf) in [(0xe, u32::MAX), (4, 6), (7, 3), (0xd, 64), (0x8000_0022, u32::MAX), (1, 0)] {
        let error = policy.updated(&policy, [(leaf, subleaf, Leaf::default())]).unwrap_err();
        assert_eq!((error.leaf, error.subleaf), (leaf, subleaf));
    }
    let more = Leaf { eax: 0xd + 1, ..policy.stored(0, 0) };
    assert_eq!(policy.updated(&policy, [(0, u32::MAX, more)]).unwrap_err().leaf, 0);
}

#[test]
fn forced_cpuid_clears_the_upper_halves() {
    let mut cpu = Model::new(b"\x0f\x0bxen\x0f\xa2");
    cpu.gprs = [u64::MAX << 32; 16];
    cpu.gprs[0] |= 0x4000_0000;
    assert_eq!(crate::emul::invalid_opcode(&mut cpu), crate::emul::Outcome::Emulated);
    assert_eq!(cpu.rip, super::model::CODE + 7);
    assert_eq!(
        [Gpr::RAX, Gpr::RBX, Gpr::RCX, Gpr::RDX].map(|reg| cpu.gpr(reg)),
        [0x4000_0005, 0x566e_6558, 0x6558_4d4d, 0x4d4d_566e]
    );
}

/// The feature words are the header's bits for all guests, less the ones that need MSRs which a
/// guest of ours doesn't have.
#[test]
fn features_are_the_headers() {
    const WITHOUT: [&str; 15] = [
        "IBRSB",
        "STIBP",
        "SSBD",
        "IBPB",
        "IBPB_RET",
        "SBPB",
        "IBPB_BRTYPE",
        "ARCH_CAPS",
        "INTEL_PSFD",
        "L1D_FLUSH",
        "AMD_SSBD",
        "IBRS",
        "AMD_STIBP",
        "PSFD",
        "DBEXT",
    ];
    let Ok(header) = fs::read_to_string("/usr/include/xen/arch-x86/cpufeatureset.h") else {
        std::eprintln!("no Xen headers on this machine: not compared");
        return;
    };
    let mut words = [0u32; 16];
    for line in header.lines() {
        let Some(rest) = line.strip_prefix("XEN_CPUFEATURE(") else { continue };
        let (name, rest) = rest.split_once(',').unwrap();
        let (position, comment) = rest.split_once(')').unwrap();
        let Some((word, bit)) = position.split_once("*32+") else { continue };
        let class = comment.trim().trim_start_matches("/*").split(' ').next().unwrap();
        let word: usize = word.trim().parse().unwrap();
        if class.contains('A') && !WITHOUT.contains(&name) && word < words.len() {
            words[word] |= 1 << bit.trim().parse::<u32>().unwrap();
        }
    }
    assert_eq!(crate::emul::cpuid::feature_words(), words[..14]);
}
