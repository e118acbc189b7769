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

/// Does it.
pub fn flush(dom: &Domain, whom: Whom, what: What) {
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
    let local = whom == Whom::Local || whom == Whom::All || matches!(whom, Whom::Some(_));
    if cpus != 0 {
        tlb::flush(cpus);
    }
    match what {
        What::Page(va) if local => cpu::invlpg(va),
        What::All if local => tlb::flush_local(),
        _ => {}
    }
}
