//! `mca`: machine checks.
//!
//! An uncorrectable error ends the machine, with what the processor says of it on the console, and corrected ones
//! are not collected. So there is never anything to fetch, and `VIRQ_MCA`, which the control domain may bind, is not
//! raised; the processors are described as they are.

use crate::access;
use crate::domain::Current;
use crate::error::HcResult;
use crate::topology::{self, Topology};
use hv_machine::guest_mem;
use hv_machine::x86_64::{cpu, percpu, tlb};
use shared_abi::GuestAddr;
use shared_abi::arch_x86::xen_mca::*;
use shared_abi::errno::Errno;

const IA32_MCG_CAP: u32 = 0x179;

/// `mca(op)`.
pub fn mca(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    access::control_only(cur.dom)?;
    let at = GuestAddr(a[0]);
    let mut op: Mc = guest_mem::read(at)?;
    if op.interface_version != XEN_MCA_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    let cpus = tlb::online().count_ones();
    match op.cmd {
        XEN_MC_FETCH => {
            let mut f = op.mc_fetch();
            match f.flags & (XEN_MC_NONURGENT | XEN_MC_URGENT | XEN_MC_ACK) {
                XEN_MC_NONURGENT | XEN_MC_URGENT if f.data.0 != 0 => {
                    (f.flags, f.fetch_id) = (XEN_MC_OK | XEN_MC_NODATA, 0);
                    op.set_mc_fetch(f);
                    guest_mem::write(at, &op)?;
                }
                // What was fetched needs no keeping.
                flags if flags == XEN_MC_NONURGENT | XEN_MC_ACK || flags == XEN_MC_URGENT | XEN_MC_ACK => {}
                _ => return Err(Errno::EINVAL.into()),
            }
        }
        XEN_MC_PHYSCPUINFO => {
            let mut p = op.mc_physcpuinfo();
            let mut told = Ok(());
            if p.info.0 != 0 {
                // Signed there.
                let wanted = match p.ncpus as i32 {
                    0 => return Err(Errno::EINVAL.into()),
                    n => u32::try_from(n).map_err(|_| Errno::ENOMEM)?.min(cpus),
                };
                told =
                    (0..wanted).try_for_each(|n| guest_mem::write_at(p.info, n.into(), &processor(n, cpus)));
                p.ncpus = wanted;
            } else {
                p.ncpus = cpus;
            }
            op.set_mc_physcpuinfo(p);
            guest_mem::write(at, &op)?;
            told?;
        }
        // Faults are not made here for a test: of what Xen may be asked to inject, only nothing is done.
        XEN_MC_MSRINJECT if op.mc_msrinject().mcinj_cpunr < cpus && op.mc_msrinject().mcinj_count == 0 => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// What processor `n` is. All are alike but for their places: so this one's answers serve.
fn processor(n: u32, cpus: u32) -> McinfoLogicalCpu {
    let cpuid = |leaf, subleaf| {
        let r = cpu::cpuid(leaf, subleaf);
        [r.eax, r.ebx, r.ecx, r.edx]
    };
    let [level, b, c, d] = cpuid(0, 0);
    let [signature, clflush, l1c, l1d] = cpuid(1, 0);
    let [_, l7b, l7c, _] = cpuid(7, 0);
    let [_, _, e1c, e1d] = cpuid(0x8000_0001, 0);
    let topology = Topology::read(cpuid);
    let apic_id = percpu::apic_id(n as usize);
    let family = signature >> 8 & 15;
    let mut vendorid = [0; 16];
    for (to, from) in vendorid.chunks_exact_mut(4).zip([b, d, c]) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    let mut msrs = [McinfoMsr { reg: 0, value: 0 }; 8];
    msrs[0] = McinfoMsr { reg: IA32_MCG_CAP.into(), value: cpu::try_rdmsr(IA32_MCG_CAP).unwrap_or(0) };
    McinfoLogicalCpu {
        mc_cpunr: n,
        mc_chipid: topology.package(apic_id),
        mc_coreid: topology.core(apic_id) as u16,
        mc_threadid: topology.thread(apic_id) as u16,
        mc_apicid: apic_id,
        mc_clusterid: apic_id & 0xff,
        mc_ncores: topology.cores,
        mc_ncores_active: (0..cpus)
            .map(|other| percpu::apic_id(other as usize))
            .filter(|id| topology.package(*id) == topology.package(apic_id) && topology.thread(*id) == 0)
            .count() as u32,
        mc_nthreads: topology.threads,
        mc_cpuid_level: level as i32,
        mc_family: family + if family == 15 { signature >> 20 & 255 } else { 0 },
        mc_vendor: vendor(&vendorid),
        mc_model: (signature >> 4 & 15) | (signature >> 12 & 0xf0),
        mc_step: signature & 15,
        mc_vendorid: vendorid,
        mc_brandid: brand(cpuid),
        mc_cpu_caps: [l1d, l1c, e1d, e1c, cpuid(0xd, 1)[0], l7b, l7c],
        mc_cache_size: topology::cache_kib(cpuid),
        mc_cache_alignment: (clflush >> 8 & 0xff) * 8,
        mc_nmsrvals: 1,
        _pad: 0,
        mc_msrvalues: msrs,
    }
}

/// The number that Xen has for a vendor.
fn vendor(id: &[u8; 16]) -> u32 {
    match &id[..12] {
        b"GenuineIntel" => 1,
        b"AuthenticAMD" => 2,
        b"CentaurHauls" => 4,
        b"  Shanghai  " => 8,
        b"HygonGenuine" => 16,
        _ => 0,
    }
}

/// The processor's name, without the blanks that some have before it.
fn brand(cpuid: impl Fn(u32, u32) -> [u32; 4]) -> [u8; 64] {
    let mut name = [0; 64];
    if cpuid(0x8000_0000, 0)[0] >= 0x8000_0004 {
        for (to, from) in name.chunks_exact_mut(4).zip((0x8000_0002..=0x8000_0004).flat_map(|l| cpuid(l, 0)))
        {
            to.copy_from_slice(&from.to_le_bytes());
        }
        let blanks = name.iter().take_while(|c| **c == b' ').count();
        name.rotate_left(blanks);
        name[64 - blanks..].fill(0);
    }
    name
}
