//! TLB flushes that a guest asks for.
//!
//! A vcpu's translations live on the CPU it runs on and nowhere else: switching it in loads its root,
//! which drops what was there. So a flush for other vcpus concerns the CPUs that run them at this moment.

use crate::domain::Domain;
use core::sync::atomic::Ordering::SeqCst;
use hv_machine::x86_64::{cpu, percpu, tlb};

/// Which vcpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The caller.
    Local,
    /// Those in the mask, by vcpu number.
    Some(u64),
    /// All of the domain's.
    All,
}

/// What is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// One address.
    Page(u64),
    /// Everything.
    All,
}

/// Does it. The caller's own CPU is always among those that flush.
#[inline]
pub fn flush(dom: &Domain, whom: Whom, what: What) {
    if whom != Whom::Local {
        flush_others(dom, whom);
    }
    match what {
        What::Page(va) => cpu::invlpg(va),
        What::All => tlb::flush_local(),
    }
}

fn flush_others(dom: &Domain, whom: Whom) {
    let me = percpu::cpu_id();
    let mut cpus = 0u64;
    for v in dom.vcpus() {
        let wanted = match whom {
            Whom::Local => false,
            Whom::Some(mask) => v.id < 64 && mask & 1 << v.id != 0,
            Whom::All => true,
        };
        let on = v.running_on.load(SeqCst);
        if wanted && on != u32::MAX && on as usize != me {
            cpus |= 1 << on;
        }
    }
    if cpus != 0 {
        tlb::flush(cpus);
    }
}
