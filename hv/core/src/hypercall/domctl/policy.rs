//! CPUID and MSR policies, as lists of leaves and registers: a domain's own, and those that the system knows.

use crate::domain::{Domain, dom0};
use crate::emul::cpuid::{Kind, Leaf, Policy};
use crate::emul::msr::{ARCH_CAPABILITIES, PLATFORM_INFO};
use crate::error::Stop;
use hv_machine::guest_mem;
use hv_machine::heap::try_arc;
use shared_abi::GuestAddr;
use shared_abi::arch_x86::{CpuidLeaf, MsrEntry};
use shared_abi::domctl::Domctl;
use shared_abi::errno::Errno;
use shared_abi::sysctl::*;

/// Room for the leaves of any policy: what Xen says, so that a toolstack has room enough for both.
const LEAVES: u32 = 120;
/// Room for the registers.
const MSRS: u32 = 2;
/// Most CPUID leaves that a toolstack passes.
const MAX_LEAVES: u32 = 512;

/// Writes `policy` into a toolstack's arrays. Without an array the number is how many there may be.
fn write(
    policy: &Policy,
    (leaves, nr_leaves): (GuestAddr, &mut u32),
    (msrs, nr_msrs): (GuestAddr, &mut u32),
) -> Result<(), Stop> {
    if leaves.0 == 0 {
        *nr_leaves = LEAVES;
    } else {
        let all = policy.leaves();
        let all =
            all.map(|(leaf, subleaf, l)| CpuidLeaf { leaf, subleaf, a: l.eax, b: l.ebx, c: l.ecx, d: l.edx });
        *nr_leaves = write_list(leaves, *nr_leaves, all)?;
    }
    if msrs.0 == 0 {
        *nr_msrs = MSRS;
    } else {
        let all = [(PLATFORM_INFO, 0), (ARCH_CAPABILITIES, policy.arch_capabilities().unwrap_or(0))];
        let all = all.into_iter().map(|(idx, val)| MsrEntry { idx, val, ..Default::default() });
        *nr_msrs = write_list(msrs, *nr_msrs, all)?;
    }
    Ok(())
}

fn write_list<T: zerocopy::IntoBytes + zerocopy::Immutable>(
    at: GuestAddr,
    room: u32,
    items: impl Iterator<Item = T>,
) -> Result<u32, Stop> {
    let mut n = 0;
    for item in items {
        if n >= room {
            return Err(Errno::ENOBUFS.into());
        }
        guest_mem::write_at(at, n.into(), &item)?;
        n += 1;
    }
    Ok(n)
}

/// `XEN_DOMCTL_get_cpu_policy`.
pub(super) fn get(d: &Domain, op: &mut Domctl) -> Result<(), Stop> {
    let mut p = op.cpu_policy();
    let policy = d.policy.lock().clone();
    write(&policy, (p.leaves, &mut p.nr_leaves), (p.msrs, &mut p.nr_msrs))?;
    op.set_cpu_policy(p);
    Ok(())
}

/// `XEN_SYSCTL_get_cpu_policy`.
pub(in crate::hypercall) fn get_system(p: &mut SysctlCpuPolicy) -> Result<(), Stop> {
    if p._rsvd != 0 {
        return Err(Errno::EINVAL.into());
    }
    let policy = match p.index {
        XEN_SYSCTL_CPU_POLICY_RAW | XEN_SYSCTL_CPU_POLICY_HOST => dom0::hardware(),
        XEN_SYSCTL_CPU_POLICY_PV_MAX => dom0::policy(Kind::HardwareDomain),
        XEN_SYSCTL_CPU_POLICY_PV_DEFAULT => dom0::policy(Kind::Guest),
        XEN_SYSCTL_CPU_POLICY_HVM_MAX | XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT => {
            return Err(Errno::EOPNOTSUPP.into());
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    write(&policy, (p.leaves, &mut p.nr_leaves), (p.msrs, &mut p.nr_msrs))
}

/// `XEN_SYSCTL_get_cpu_featureset`: the error comes with as many words as there is room for, written before.
pub(in crate::hypercall) fn featureset(f: &mut SysctlCpuFeatureset) -> Result<Result<(), Errno>, Stop> {
    let policy = match f.index {
        _ if f.features.0 == 0 => {
            f.nr_features = crate::emul::cpuid::FEATURE_WORDS as u32;
            return Ok(Ok(()));
        }
        XEN_SYSCTL_CPU_FEATURESET_RAW | XEN_SYSCTL_CPU_FEATURESET_HOST => dom0::hardware(),
        XEN_SYSCTL_CPU_FEATURESET_PV => dom0::policy(Kind::Guest),
        XEN_SYSCTL_CPU_FEATURESET_PV_MAX => dom0::policy(Kind::HardwareDomain),
        XEN_SYSCTL_CPU_FEATURESET_HVM | XEN_SYSCTL_CPU_FEATURESET_HVM_MAX => {
            return Err(Errno::EOPNOTSUPP.into());
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let words = policy.featureset();
    let n = words.len().min(f.nr_features as usize);
    for (i, word) in words[..n].iter().enumerate() {
        guest_mem::write_at(f.features, i as u64, word)?;
    }
    f.nr_features = n as u32;
    Ok(if n < words.len() { Err(Errno::ENOBUFS) } else { Ok(()) })
}

/// `XEN_DOMCTL_set_cpu_policy`: all of it or nothing. The operation goes back with what is wrong.
pub(super) fn set(d: &Domain, op: &mut Domctl) -> Result<Result<(), Errno>, Stop> {
    let mut p = op.cpu_policy();
    if p.nr_leaves > MAX_LEAVES || p.nr_msrs > MSRS {
        return Err(Errno::E2BIG.into());
    }
    let mut leaves = alloc::vec::Vec::new();
    leaves.try_reserve_exact(p.nr_leaves as usize).map_err(|_| Errno::ENOMEM)?;
    for i in 0..p.nr_leaves {
        let l: CpuidLeaf = guest_mem::read_at(p.leaves, i.into())?;
        leaves.push((l.leaf, l.subleaf, Leaf { eax: l.a, ebx: l.b, ecx: l.c, edx: l.d }));
    }
    (p.err_leaf, p.err_subleaf, p.err_msr) = (u32::MAX, u32::MAX, u32::MAX);
    let (now, max) = (d.policy.lock().clone(), dom0::policy(Kind::HardwareDomain));
    let mut wrong = Ok(());
    match now.updated(&max, leaves) {
        Ok(mut new) => {
            for i in 0..p.nr_msrs {
                let m: MsrEntry = guest_mem::read_at(p.msrs, i.into())?;
                let set =
                    if m.flags != 0 { Err(Errno::EINVAL) } else { new.set_register(&max, m.idx, m.val) };
                if set.is_err() {
                    (p.err_msr, wrong) = (m.idx, set);
                    break;
                }
            }
            if wrong.is_ok() {
                let new = try_arc(new)?;
                *d.policy.lock() = new;
            }
        }
        Err(bad) => {
            (p.err_leaf, p.err_subleaf) = (bad.leaf, bad.subleaf);
            wrong = Err(Errno::EINVAL);
        }
    }
    op.set_cpu_policy(p);
    Ok(wrong)
}
