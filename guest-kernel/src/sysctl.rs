//! What a control domain asks the hypervisor about the machine: `sysctl` and `xen_version`.

use alloc::vec;
use alloc::vec::Vec;
use guest_machine::control;
use shared_abi::domctl::DomctlGetdomaininfo;
use shared_abi::sysctl::*;
use shared_abi::{DomId, Errno};

pub use guest_machine::control::{VersionText, build_info, debug_keys, version, version_text};

/// What a hypercall answers.
pub type Result<T> = core::result::Result<T, Errno>;

/// Most of the log that is read at once; more than any hypervisor keeps by default.
const LOG_MAX: usize = 256 << 10;

/// The machine.
pub fn physinfo() -> Result<SysctlPhysinfo> {
    let mut sysctl = Sysctl::new(XEN_SYSCTL_PHYSINFO);
    control::sysctl(&mut sysctl)?;
    Ok(sysctl.physinfo())
}

/// The scheduler, one of `XEN_SCHEDULER_*`.
pub fn scheduler() -> Result<u32> {
    let mut sysctl = Sysctl::new(XEN_SYSCTL_SCHED_ID);
    control::sysctl(&mut sysctl)?;
    Ok(sysctl.sched_id().sched_id)
}

/// The credit2 scheduler's rate limit in microseconds.
pub fn credit2_ratelimit() -> Result<u32> {
    let mut sysctl = Sysctl::new(XEN_SYSCTL_SCHEDULER_OP);
    sysctl.set_scheduler_op(SysctlSchedulerOp {
        sched_id: shared_abi::domctl::XEN_SCHEDULER_CREDIT2,
        cmd: XEN_SYSCTL_SCHEDOP_GETINFO,
        ..Default::default()
    });
    control::sysctl(&mut sysctl)?;
    Ok(sysctl.scheduler_op().sched_credit2().ratelimit_us)
}

/// Where each CPU is.
pub fn cpu_topology() -> Result<Vec<SysctlCputopo>> {
    let mut cpus =
        vec![SysctlCputopo::default(); physinfo()?.max_cpu_id.saturating_add(1).min(4096) as usize];
    let count = control::cpu_topology(&mut cpus)?;
    cpus.truncate(count);
    Ok(cpus)
}

/// The memory of each NUMA node, and how far it is from each.
pub fn numa_nodes() -> Result<Vec<(SysctlMeminfo, Vec<u32>)>> {
    let mut nodes = vec![SysctlMeminfo::default(); physinfo()?.nr_nodes.clamp(1, 64) as usize];
    let (count, distances) = control::numa_nodes(&mut nodes)?;
    let rows = distances.chunks(count.max(1)).map(<[u32]>::to_vec);
    Ok(nodes.iter().copied().zip(rows).take(count).collect())
}

/// All domains, in the order of their numbers.
pub fn domains() -> Result<Vec<DomctlGetdomaininfo>> {
    let mut all = Vec::new();
    let mut buffer = vec![DomctlGetdomaininfo::default(); 64];
    let mut first = DomId(0);
    loop {
        let count = control::domain_list(first, &mut buffer)?;
        all.extend_from_slice(&buffer[..count]);
        match buffer[..count].last() {
            Some(last) if count == buffer.len() => first = DomId(last.domain.0 + 1),
            _ => return Ok(all),
        }
    }
}

/// The hypervisor's log, as much as it still has; emptied if `clear`.
pub fn log(clear: bool) -> Result<Vec<u8>> {
    let mut log = Vec::new();
    let mut buffer = vec![0; 16384];
    let mut index = 0;
    while log.len() < LOG_MAX {
        let (count, next) = control::read_console(&mut buffer, index, false)?;
        if count == 0 {
            break;
        }
        log.extend_from_slice(&buffer[..count]);
        index = next;
    }
    if clear {
        control::read_console(&mut buffer, index, true)?;
    }
    Ok(log)
}
