//! `domctl`: what a toolstack does to domains. Only the control domain may.
//!
//! | file | operations |
//! | --- | --- |
//! | `domain` | a domain as a whole: create, destroy, pause, look at |
//! | `vcpu` | registers, affinity, scheduling |
//! | `policy` | what it sees of the processor |
//! | `resources` | memory limits, frames, hardware |

mod domain;
pub(super) mod policy;
mod resources;
mod vcpu;

pub use domain::info as domain_info;
pub(super) use vcpu::write_map;

use crate::access;
use crate::domain::{Current, Domain, find, next_from};
use crate::error::{HcResult, Stop};
use alloc::sync::Arc;
use hv_machine::guest_mem;
use hv_machine::lock::{Mutex, rank};
use shared_abi::domctl::*;
use shared_abi::errno::Errno;
use shared_abi::{DomId, GuestAddr};

/// One of these at a time, as in Xen: creating, filling and destroying domains needs no thought of another
/// vcpu of the control domain's doing the same to the same domain. Whoever finds it taken asks again; nobody waits
/// for it, so it may be taken with the caller's context held.
static ONE: Mutex<()> = Mutex::new(rank::DOMCTL, ());

/// `domctl(op)`.
pub fn domctl(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    access::control_only(cur.dom)?;
    let at = GuestAddr(a[0]);
    let mut op: Domctl = guest_mem::read(at)?;
    if op.interface_version != XEN_DOMCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    let _one = ONE.try_lock().ok_or(Stop::Retry)?;
    if op.cmd == XEN_DOMCTL_CREATEDOMAIN {
        let new = domain::create(&mut op)?;
        return match guest_mem::write(at, &op) {
            Ok(()) => Ok(0),
            Err(f) => {
                // Nobody knows its number: it must not stay.
                domain::abandon(&new);
                Err(f.into())
            }
        };
    }
    let target = match op.domain {
        DomId::SELF => Some(cur.dom.clone()),
        id => find(id),
    };
    let target = match (target, op.cmd) {
        (Some(t), _) => t,
        // Asking for a domain that isn't there finds the next one.
        (None, XEN_DOMCTL_GETDOMAININFO) if op.domain < DomId::FIRST_RESERVED => {
            next_from(op.domain).ok_or(Errno::ESRCH)?
        }
        (None, _) => return Err(Errno::ESRCH.into()),
    };
    let reply = run(cur, &target, &mut op)?;
    if reply != Reply::None {
        guest_mem::write(at, &op)?;
    }
    match reply {
        Reply::Refuse(why) => Err(why.into()),
        _ => Ok(0),
    }
}

/// Whether the operation's structure goes back to the caller.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reply {
    None,
    Write,
    /// It does, with what is wrong.
    Refuse(Errno),
}

fn run(cur: &mut Current<'_>, d: &Arc<Domain>, op: &mut Domctl) -> Result<Reply, Stop> {
    use Reply::{None, Write};
    match op.cmd {
        XEN_DOMCTL_DESTROYDOMAIN => domain::destroy(cur, d).map(|()| None),
        XEN_DOMCTL_PAUSEDOMAIN => domain::pause(cur, d).map(|()| None),
        XEN_DOMCTL_UNPAUSEDOMAIN => domain::unpause(cur, d).map(|()| None),
        XEN_DOMCTL_RESUMEDOMAIN => domain::resume(cur, d).map(|()| None),
        XEN_DOMCTL_GETDOMAININFO => {
            op.domain = d.id;
            op.set_getdomaininfo(domain::info(d));
            Ok(Write)
        }
        XEN_DOMCTL_SETDOMAINHANDLE => {
            *d.handle.lock() = op.setdomainhandle().handle;
            Ok(None)
        }
        XEN_DOMCTL_HYPERCALL_INIT => domain::hypercall_page(d, op.hypercall_init().gmfn).map(|()| None),
        XEN_DOMCTL_SETTIMEOFFSET => {
            domain::set_time_offset(d, op.settimeoffset().time_offset_seconds);
            Ok(None)
        }
        XEN_DOMCTL_SET_ADDRESS_SIZE => match op.address_size().size {
            64 => Ok(None),
            _ => Err(Errno::EINVAL.into()),
        },
        XEN_DOMCTL_GET_ADDRESS_SIZE => {
            op.set_address_size(DomctlAddressSize { size: 64 });
            Ok(Write)
        }
        XEN_DOMCTL_SENDTRIGGER => domain::send_trigger(d, op.sendtrigger()).map(|()| None),
        XEN_DOMCTL_GETTSCINFO => {
            op.set_tsc_info(domain::tsc_info());
            Ok(Write)
        }
        // The TSC is shown as it is, in every mode.
        XEN_DOMCTL_SETTSCINFO | XEN_DOMCTL_SETDEBUGGING => Ok(None),
        XEN_DOMCTL_SET_VIRQ_HANDLER => {
            crate::run::VIRQ_HANDLERS.set(op.set_virq_handler().virq, d.id)?;
            Ok(None)
        }
        XEN_DOMCTL_GET_CPU_POLICY => policy::get(d, op).map(|()| Write),
        XEN_DOMCTL_SET_CPU_POLICY => Ok(policy::set(d, op)?.map_or_else(Reply::Refuse, |()| Write)),

        XEN_DOMCTL_MAX_VCPUS => vcpu::make(cur, d, op.max_vcpus().max).map(|()| None),
        XEN_DOMCTL_SETVCPUCONTEXT => vcpu::set_context(cur, d, op.vcpucontext()).map(|()| None),
        XEN_DOMCTL_GETVCPUCONTEXT => vcpu::get_context(cur, d, op.vcpucontext()).map(|()| None),
        XEN_DOMCTL_GETVCPUINFO => vcpu::info(d, op).map(|()| Write),
        XEN_DOMCTL_SETVCPUAFFINITY | XEN_DOMCTL_GETVCPUAFFINITY => vcpu::affinity(d, op).map(|()| Write),
        XEN_DOMCTL_SCHEDULER_OP => vcpu::scheduler(d, op).map(|()| Write),
        XEN_DOMCTL_SET_EXT_VCPUCONTEXT | XEN_DOMCTL_GET_EXT_VCPUCONTEXT => {
            vcpu::ext_context(cur, d, op).map(|()| Write)
        }

        XEN_DOMCTL_MAX_MEM => resources::max_mem(d, op.max_mem().max_memkb).map(|()| None),
        XEN_DOMCTL_GETPAGEFRAMEINFO3 => resources::frame_info(d, op).map(|()| None),
        XEN_DOMCTL_IRQ_PERMISSION | XEN_DOMCTL_IOMEM_PERMISSION | XEN_DOMCTL_IOPORT_PERMISSION => {
            resources::permission(cur, d, op).map(|()| None)
        }
        XEN_DOMCTL_SETNODEAFFINITY => Ok(None),
        XEN_DOMCTL_GETNODEAFFINITY => resources::node_affinity(op).map(|()| Write),
        _ => Err(Errno::ENOSYS.into()),
    }
}
