//! Guests' memory as hypercalls see it: the frame table's operations in the running vcpu's name.
//!
//! | file | concept |
//! | --- | --- |
//! | `account` | how much a domain has and may have |
//! | `flush` | TLB flushes that a guest asks for |
//! | `descriptors` | GDT and LDT |

pub mod account;
pub mod descriptors;
pub mod flush;

pub use account::Account;
pub use descriptors::{load_gdt, load_ldt, set_gdt, set_ldt, update_descriptor};

use crate::domain::{Domain, find};
use crate::error::Stop;
use crate::irq::rights;
use hv_machine::frame::{self, Device, Frame, FrameTable, L4, Rights, SegDesc, Work, Writable};
use shared_abi::{DomId, Mfn, errno::Errno};

/// A root table that a vcpu may load.
pub type Root = Frame<'static, L4>;
/// A frame of segment descriptors that a vcpu uses.
pub type DescFrame = Frame<'static, SegDesc>;

/// The machine's frame table.
#[inline(always)]
pub fn frames() -> &'static FrameTable {
    frame::frames()
}

impl From<frame::Stop> for Stop {
    #[inline]
    fn from(s: frame::Stop) -> Stop {
        match s {
            frame::Stop::Again => Stop::Retry,
            frame::Stop::Refused(e) => Stop::Error(e),
        }
    }
}

/// The answer to a request for a frame of a certain use: one that is not the domain's, or in use as something
/// else, is as invalid as one that does not exist.
pub fn typed<T>(r: frame::Progress<T>) -> Result<T, Stop> {
    r.map_err(|s| match s {
        frame::Stop::Refused(Errno::EPERM | Errno::EBUSY) => Errno::EINVAL.into(),
        s => s.into(),
    })
}

/// Runs `f` with `dom`'s right to change its own page tables so that they map frames of `of`.
#[inline]
pub fn with_rights<R>(dom: &Domain, of: DomId, f: impl FnOnce(&Rights<'_>) -> R) -> R {
    f(&Rights { tables: dom.id, frames: of, io: &|mfn| device(dom, of, mfn), memory_types: dom.control })
}

/// What `dom` may do with the device memory at `mfn` in the name of `of`: a domain that names another needs
/// the right of both. None of it is the hypervisor's own to give.
#[cold]
fn device(dom: &Domain, of: DomId, mfn: Mfn) -> Device {
    let own = dom.rights.lock().may_map(mfn);
    let both = || find(of).is_some_and(|d| d.rights.lock().may_map(mfn));
    match own && (of == dom.id || of == DomId::IO || both()) {
        true if rights::is_read_only(mfn) => Device::ReadOnly,
        true => Device::Granted,
        false => Device::Refused,
    }
}

/// A work list with a fresh budget, for operations outside a vcpu's own hypercalls.
pub fn work() -> Work<'static> {
    Work::new(frames(), Work::BUDGET)
}

/// Holds a frame of a domain's for writing by the hypervisor.
pub fn hold_writable(dom: &Domain, mfn: Mfn) -> Result<Frame<'static, Writable>, Stop> {
    typed(frames().get_writable(mfn, dom.id, &mut work()))
}

/// Loads a root table, or the hypervisor's own when there is none.
#[inline]
pub fn load_root(root: Option<&Root>) {
    match root {
        Some(r) => hv_machine::vcpu::load_root(r),
        None => hv_machine::vcpu::load_idle_root(),
    }
}
