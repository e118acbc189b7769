//! Memory limits, what a domain's frames are, and its rights to hardware.

use crate::domain::{Current, Domain};
use crate::error::Stop;
use crate::mm::frames;
use crate::ranges::Ranges;
use hv_machine::frame::Type;
use hv_machine::frame::Word;
use hv_machine::guest_mem;
use shared_abi::Mfn;
use shared_abi::domctl::*;
use shared_abi::errno::Errno;

/// Frames looked at in one call.
const BATCH: u64 = 1024;

pub(super) fn max_mem(d: &Domain, kib: u64) -> Result<(), Stop> {
    d.memory.set_max(kib >> 2);
    Ok(())
}

/// `XEN_DOMCTL_getpageframeinfo3`: for each frame number in the array, what kind of frame it is.
pub(super) fn frame_info(d: &Domain, op: &Domctl) -> Result<(), Stop> {
    let g = op.getpageframeinfo3();
    if g.num > BATCH {
        return Err(Errno::E2BIG.into());
    }
    for i in 0..g.num {
        let mfn: u64 = guest_mem::read_at(g.array, i)?;
        let kind = match frames().word(Mfn(mfn)) {
            Some(w) if w.owner() == d.id => {
                let table = match w.ty() {
                    Type::L1 => XEN_DOMCTL_PFINFO_L1TAB,
                    Type::L2 => XEN_DOMCTL_PFINFO_L2TAB,
                    Type::L3 => XEN_DOMCTL_PFINFO_L3TAB,
                    Type::L4 => XEN_DOMCTL_PFINFO_L4TAB,
                    _ => XEN_DOMCTL_PFINFO_NOTAB,
                };
                table | if w.has(Word::PINNED) { XEN_DOMCTL_PFINFO_LPINTAB } else { 0 }
            }
            _ => XEN_DOMCTL_PFINFO_XTAB,
        };
        guest_mem::write_at(g.array, i, &u64::from(kind))?;
    }
    Ok(())
}

/// Gives rights to hardware, or takes them. What the control domain itself has not, it can't give.
pub(super) fn permission(cur: &Current<'_>, d: &Domain, op: &Domctl) -> Result<(), Stop> {
    let (range, allow, which): (_, _, fn(&mut crate::irq::rights::Rights) -> &mut Ranges) = match op.cmd {
        XEN_DOMCTL_IRQ_PERMISSION => {
            let p = op.irq_permission();
            (p.pirq.into()..u64::from(p.pirq) + 1, p.allow_access, |r| &mut r.irqs)
        }
        XEN_DOMCTL_IOMEM_PERMISSION => {
            let p = op.iomem_permission();
            let end = p.first_mfn.0.checked_add(p.nr_mfns).filter(|e| *e <= 1 << 40).ok_or(Errno::EINVAL)?;
            (p.first_mfn.0..end, p.allow_access, |r| &mut r.memory)
        }
        _ => {
            let p = op.ioport_permission();
            let end = u64::from(p.first_port) + u64::from(p.nr_ports);
            if end > 65536 {
                return Err(Errno::EINVAL.into());
            }
            (p.first_port.into()..end, p.allow_access, |r| &mut r.ports)
        }
    };
    if range.is_empty() {
        return Err(Errno::EINVAL.into());
    }
    if allow != 0 {
        if !which(&mut cur.dom.rights.lock()).contains(range.clone()) {
            return Err(Errno::EPERM.into());
        }
        which(&mut d.rights.lock()).add(range)?;
    } else {
        which(&mut d.rights.lock()).remove(range)?;
    }
    Ok(())
}

/// There is one node.
pub(super) fn node_affinity(op: &Domctl) -> Result<(), Stop> {
    super::vcpu::write_map(&op.nodeaffinity().nodemap, 1)
}
