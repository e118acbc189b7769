//! `event_channel_op`.

use crate::access;
use crate::domain::events::with_sides;
use crate::domain::{Current, Domain, find};
use crate::error::{HcResult, Stop};
use crate::event::{Closed, Rebound, State, fifo};
use crate::{irq, mm};
use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::Ordering::SeqCst;
use hv_machine::guest_mem;
use hv_machine::x86_64::{percpu, tlb};
use shared_abi::errno::Errno;
use shared_abi::event_channel::*;
use shared_abi::xen::NR_VIRQS;
use shared_abi::{DomId, GuestAddr, Mfn, Port, VcpuId};

/// `event_channel_op(cmd, arg)`.
#[inline(always)]
pub fn event_channel_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    // The one that is made for every event.
    if a[0] as u32 == EVTCHNOP_SEND { send(cur, GuestAddr(a[1])) } else { other_op(cur, a) }
}

/// `event_channel_op_compat(op)`: the older form, with the command in front of its argument.
#[inline(never)]
pub fn compat(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let at = GuestAddr(a[0]);
    match guest_mem::read::<u32>(at)? {
        cmd @ EVTCHNOP_BIND_INTERDOMAIN..=EVTCHNOP_UNMASK => event_channel_op(
            cur,
            &mut [cmd.into(), at.0.wrapping_add(offset_of!(EvtchnOp, u) as u64), 0, 0, 0, 0],
        ),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// `EVTCHNOP_send`.
#[inline(always)]
pub fn send(cur: &mut Current<'_>, arg: GuestAddr) -> HcResult {
    cur.dom.send(Port(guest_mem::read::<u32>(arg)?))?;
    Ok(0)
}

#[inline(never)]
fn other_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    let arg = GuestAddr(a[1]);
    let dom = cur.dom;
    match a[0] as u32 {
        EVTCHNOP_UNMASK => {
            let port = Port(guest_mem::read::<u32>(arg)?);
            let d = dom.ports.unmask(&**dom, port)?;
            dom.told(port, d);
        }
        EVTCHNOP_ALLOC_UNBOUND => {
            let mut op: EvtchnAllocUnbound = guest_mem::read(arg)?;
            let target = access::target(dom, op.dom)?;
            let remote = if op.remote_dom == DomId::SELF { dom.id } else { op.remote_dom };
            op.port = with_sides(&target, None, |s, _| s.alloc_unbound(remote))?;
            give_back(guest_mem::write(arg, &op), &target, op.port)?;
        }
        EVTCHNOP_BIND_INTERDOMAIN => {
            let mut op: EvtchnBindInterdomain = guest_mem::read(arg)?;
            let id = if op.remote_dom == DomId::SELF { dom.id } else { op.remote_dom };
            let remote = find(id).ok_or(Errno::ESRCH)?;
            let (port, d) =
                with_sides(dom, Some(&remote), |s, peer| s.bind_interdomain(peer, op.remote_port))?;
            dom.told(port, d);
            op.local_port = port;
            give_back(guest_mem::write(arg, &op), dom, port)?;
        }
        EVTCHNOP_BIND_VIRQ => {
            let mut op: EvtchnBindVirq = guest_mem::read(arg)?;
            if op.virq < NR_VIRQS
                && crate::event::virq::is_global(op.virq)
                && !access::may_handle_virq(dom, op.virq)
            {
                return Err(Errno::EPERM.into());
            }
            op.port = with_sides(dom, None, |s, _| s.bind_virq(op.virq, op.vcpu.0))?;
            give_back(guest_mem::write(arg, &op), dom, op.port)?;
        }
        EVTCHNOP_BIND_IPI => {
            let mut op: EvtchnBindIpi = guest_mem::read(arg)?;
            op.port = with_sides(dom, None, |s, _| s.bind_ipi(op.vcpu.0))?;
            give_back(guest_mem::write(arg, &op), dom, op.port)?;
        }
        EVTCHNOP_BIND_PIRQ => {
            let mut op: EvtchnBindPirq = guest_mem::read(arg)?;
            let shareable = op.flags & BIND_PIRQ__WILL_SHARE != 0;
            op.port = irq::pirq::bind(dom, op.pirq, shareable)?;
            give_back(guest_mem::write(arg, &op), dom, op.port)?;
        }
        EVTCHNOP_CLOSE => {
            let port = Port(guest_mem::read::<u32>(arg)?);
            close(dom, port)?;
        }
        EVTCHNOP_STATUS => {
            let mut op: EvtchnStatus = guest_mem::read(arg)?;
            let target = access::target(dom, op.dom)?;
            status(&target, &mut op)?;
            guest_mem::write(arg, &op)?;
        }
        EVTCHNOP_BIND_VCPU => {
            let op: EvtchnBindVcpu = guest_mem::read(arg)?;
            if let Rebound::Pirq(pirq) = with_sides(dom, None, |s, _| s.bind_vcpu(op.port, op.vcpu.0))? {
                irq::pirq::follow(dom, pirq, op.vcpu.0);
            }
        }
        EVTCHNOP_RESET => {
            let op: EvtchnReset = guest_mem::read(arg)?;
            let target = access::target(dom, op.dom)?;
            // One that runs would open ports while they are closed.
            if target.id != dom.id && target.pauses.load(SeqCst) == 0 {
                return Err(Errno::EINVAL.into());
            }
            if !close_some(&target, 64) {
                return Err(Stop::Retry);
            }
            let fifo = with_sides(&target, None, |s, _| s.end_fifo())?;
            drop(fifo);
        }
        EVTCHNOP_INIT_CONTROL => {
            let mut op: EvtchnInitControl = guest_mem::read(arg)?;
            init_control(dom, &op)?;
            op.link_bits = EVTCHN_FIFO_LINK_BITS as u8;
            guest_mem::write(arg, &op)?;
        }
        EVTCHNOP_EXPAND_ARRAY => {
            let op: EvtchnExpandArray = guest_mem::read(arg)?;
            with_sides(dom, None, |s, _| s.may_expand())?;
            let frame = mm::hold_writable(dom, Mfn(op.array_gfn.0))?;
            with_sides(dom, None, |s, _| s.expand_array(frame.into(), |port, d| dom.told(port, d)))?;
        }
        EVTCHNOP_SET_PRIORITY => {
            let op: EvtchnSetPriority = guest_mem::read(arg)?;
            with_sides(dom, None, |s, _| s.set_priority(op.port, op.priority))?;
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// `EVTCHNOP_init_control`: what can be checked is, before a frame is held.
fn init_control(dom: &Arc<Domain>, op: &EvtchnInitControl) -> Result<(), Stop> {
    if op.vcpu.0 >= dom.ports.vcpus() {
        return Err(Errno::ENOENT.into());
    }
    fifo::check_offset(op.offset)?;
    let frame = mm::hold_writable(dom, Mfn(op.control_gfn.0))?;
    // A CPU that answers is past whatever event it was sending.
    let settle = || tlb::flush(tlb::online() & !(1 << percpu::cpu_id()));
    with_sides(dom, None, |s, _| {
        s.init_control(op.vcpu.0, frame.into(), op.offset, settle, |port, d| dom.told(port, d))
    })?;
    Ok(())
}

/// A port whose number couldn't be told to the guest is closed again.
fn give_back(told: Result<(), guest_mem::Fault>, dom: &Arc<Domain>, port: Port) -> Result<(), Stop> {
    told.map_err(|f| {
        let _ = close(dom, port);
        f.into()
    })
}

/// Closes a port, with its peer's side where it has one.
pub fn close(dom: &Arc<Domain>, port: Port) -> Result<(), Errno> {
    loop {
        let peer = match dom.ports.peer_of(port) {
            Some(id) => find(id),
            None => None,
        };
        match with_sides(dom, peer.as_ref(), |s, p| s.close(port, p)) {
            Ok(Closed::Pirq(pirq)) => {
                irq::pirq::unbind(dom, pirq);
                return Ok(());
            }
            Ok(_) => return Ok(()),
            // The peer changed since we looked.
            Err(_) if dom.ports.peer_of(port) != peer.as_ref().map(|p| p.id) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Closes up to `n` ports of a domain; true when none is left.
pub fn close_some(dom: &Arc<Domain>, n: usize) -> bool {
    for _ in 0..n {
        let Some((port, _)) = with_sides(dom, None, |s, _| s.next_to_close()) else { return true };
        let _ = close(dom, port);
    }
    false
}

fn status(dom: &Domain, op: &mut EvtchnStatus) -> Result<(), Errno> {
    let c = dom.ports.channel(op.port)?;
    op.vcpu = VcpuId(c.vcpu);
    op.status = match c.state {
        State::Free | State::Reserved => EVTCHNSTAT_CLOSED,
        State::Unbound { remote } => {
            op.set_unbound(EvtchnStatusUnbound { dom: remote });
            EVTCHNSTAT_UNBOUND
        }
        State::Interdomain { remote, port } => {
            op.set_interdomain(EvtchnStatusInterdomain { dom: remote, _pad: 0, port });
            EVTCHNSTAT_INTERDOMAIN
        }
        State::Pirq(pirq) => {
            op.set_pirq(pirq);
            EVTCHNSTAT_PIRQ
        }
        State::Virq(virq) => {
            op.set_virq(virq);
            EVTCHNSTAT_VIRQ
        }
        State::Ipi => EVTCHNSTAT_IPI,
    };
    Ok(())
}
