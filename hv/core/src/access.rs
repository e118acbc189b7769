//! Who may do what to whom: the one place that decides.
//!
//! Today's rule is short. The control domain may do everything to everyone; any domain may do to itself
//! what the ABI lets a guest do. As with Xen, whether a domain exists is no secret: that is answered first.

use crate::domain::{Domain, find};
use alloc::sync::Arc;
use shared_abi::DomId;
use shared_abi::errno::Errno;

/// The target of an operation that a domain may do to itself, and the control domain to others.
///
/// # Errors
/// `ESRCH`: no such domain; `EPERM`: another's.
pub fn target(caller: &Arc<Domain>, id: DomId) -> Result<Arc<Domain>, Errno> {
    if id == DomId::SELF || id == caller.id {
        return Ok(caller.clone());
    }
    let d = find(id).ok_or(Errno::ESRCH)?;
    if caller.control { Ok(d) } else { Err(Errno::EPERM) }
}

/// The target of an operation that only the control domain may do, and not to itself.
pub fn other(caller: &Arc<Domain>, id: DomId) -> Result<Arc<Domain>, Errno> {
    if !caller.control {
        return Err(Errno::EPERM);
    }
    if id == caller.id || id == DomId::SELF {
        return Err(Errno::EINVAL);
    }
    find(id).ok_or(Errno::ESRCH)
}

/// The target of an operation that only the control domain may do.
pub fn control(caller: &Arc<Domain>, id: DomId) -> Result<Arc<Domain>, Errno> {
    if !caller.control {
        return Err(Errno::EPERM);
    }
    target(caller, id)
}

/// Only the control domain may do this.
pub fn control_only(caller: &Domain) -> Result<(), Errno> {
    if caller.control { Ok(()) } else { Err(Errno::EPERM) }
}

/// Whether a global virtual interrupt is this domain's to bind.
pub fn may_handle_virq(dom: &Domain, virq: u32) -> bool {
    crate::run::VIRQ_HANDLERS.owner(virq) == dom.id
}
