//! Physical interrupts as a domain names them.
//!
//! A pirq below the number of interrupt lines is the line (GSI) of that number; those above are handed out
//! for message-signalled interrupts. A level-triggered line is masked when it fires and opened again when
//! the domain says it has dealt with the device (`PHYSDEVOP_eoi`), so a device that a domain neglects can't
//! hold a CPU.

use super::msi::Msi;
use super::pci::Sbdf;
use super::{give_vector, take_vector};
use crate::domain::events::with_sides;
use crate::domain::{Domain, next_from};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use hv_machine::frame::{Frame, Writable};
use hv_machine::lock::{Mutex, rank};
use hv_machine::x86_64::{apic, ioapic, ioapic::Trigger};
use shared_abi::errno::Errno;
use shared_abi::{DomId, Port};
use spin::Once;

/// Pirqs of the control domain.
pub const CONTROL_PIRQS: u32 = 256;

#[derive(Clone, Copy)]
enum Source {
    Line(Trigger),
    Message(Msi),
}

struct Pirq {
    number: u32,
    source: Source,
    vector: Option<u8>,
    /// A level-triggered line that is masked until the domain's EOI.
    waits_for_eoi: bool,
}

/// A domain's pirqs that are set up.
pub struct Pirqs {
    all: Mutex<Vec<Pirq>>,
    /// The frame in which the domain sees which pirqs need an EOI, one bit each.
    shown: Once<Frame<'static, Writable>>,
    /// An EOI unmasks the pirq's port as well.
    unmasks: AtomicBool,
}

impl Pirqs {
    /// None.
    pub fn new() -> Pirqs {
        Pirqs { all: Mutex::new(rank::IRQ, Vec::new()), shown: Once::new(), unmasks: AtomicBool::new(false) }
    }

    /// Shows from now on in `frame` which pirqs need an EOI (`PHYSDEVOP_pirq_eoi_gmfn_v1`, which has an EOI unmask the
    /// port, and `_v2`).
    ///
    /// # Errors
    /// `EBUSY`: they are shown already.
    pub fn show(&self, frame: Frame<'static, Writable>, unmasks: bool) -> Result<(), Errno> {
        let all = self.all.lock();
        if self.shown.is_completed() {
            return Err(Errno::EBUSY);
        }
        self.shown.call_once(|| frame);
        if unmasks {
            self.unmasks.store(true, Relaxed);
        }
        for p in all.iter().filter(|p| p.vector.is_some()) {
            self.mark(p, true);
        }
        Ok(())
    }

    /// Whether an EOI unmasks the port.
    pub fn unmasks(&self) -> bool {
        self.unmasks.load(Relaxed)
    }

    /// A pirq was bound or unbound.
    fn mark(&self, p: &Pirq, bound: bool) {
        let Some(frame) = self.shown.get() else { return };
        let (at, bit) = ((p.number / 64) as usize * 8, 1 << (p.number % 64));
        if bound && p.needs_eoi() {
            frame.page().or_u64(at, bit);
        } else {
            frame.page().and_u64(at, !bit);
        }
    }
}

impl Pirq {
    /// Whether the domain has to say when it has dealt with the device.
    fn needs_eoi(&self) -> bool {
        matches!(self.source, Source::Line(Trigger { level: true, .. }))
    }
}

impl Default for Pirqs {
    fn default() -> Self {
        Self::new()
    }
}

/// How ISA lines signal unless the firmware says otherwise; PCI lines are level, active low.
fn usual(gsi: u32) -> Trigger {
    if gsi < 16 { crate::acpi_setup::isa_trigger(gsi) } else { Trigger { level: true, low: true } }
}

/// Lines that the control domain has said the signals of.
static DESCRIBED: [AtomicU64; CONTROL_PIRQS as usize / 64] =
    [const { AtomicU64::new(0) }; CONTROL_PIRQS as usize / 64];

/// Says how a line signals, once (`PHYSDEVOP_setup_gsi`).
///
/// # Errors
/// `EEXIST` when it was said before; as [`setup_line`].
pub fn describe_line(dom: &Domain, gsi: u32, trigger: Trigger) -> Result<(), Errno> {
    let (described, bit) = (DESCRIBED.get(gsi as usize / 64).ok_or(Errno::EINVAL)?, 1 << (gsi % 64));
    if described.load(Relaxed) & bit != 0 {
        return Err(Errno::EEXIST);
    }
    setup_line(dom, gsi, Some(trigger))?;
    described.fetch_or(bit, Relaxed);
    Ok(())
}

/// Sets a line up, with the signals that it usually has unless others are given.
///
/// # Errors
/// `EINVAL` for a line that isn't there.
pub fn setup_line(dom: &Domain, gsi: u32, trigger: Option<Trigger>) -> Result<(), Errno> {
    if gsi >= ioapic::gsi_end() {
        return Err(Errno::EINVAL);
    }
    let source = Source::Line(trigger.unwrap_or_else(|| usual(gsi)));
    let mut all = dom.pirqs.all.lock();
    match all.iter_mut().find(|p| p.number == gsi) {
        Some(p) if p.vector.is_some() => Ok(()),
        Some(p) => {
            p.source = source;
            Ok(())
        }
        None => {
            all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            all.push(Pirq { number: gsi, source, vector: None, waits_for_eoi: false });
            Ok(())
        }
    }
}

/// A free pirq above the lines.
pub fn free_number(dom: &Domain) -> Result<u32, Errno> {
    let all = dom.pirqs.all.lock();
    let first = ioapic::gsi_end().max(16);
    (first..CONTROL_PIRQS).find(|n| all.iter().all(|p| p.number != *n)).ok_or(Errno::ENOSPC)
}

/// Sets a message-signalled interrupt up as pirq `number` (or a free one); the pirq.
pub fn setup_message(dom: &Domain, number: Option<u32>, msi: Msi) -> Result<u32, Errno> {
    let number = match number {
        Some(n) if n >= CONTROL_PIRQS => return Err(Errno::EINVAL),
        Some(n) => n,
        None => free_number(dom)?,
    };
    let mut all = dom.pirqs.all.lock();
    if let Some(p) = all.iter().find(|p| p.number == number) {
        return match p.source {
            Source::Message(m) if m == msi => Ok(number),
            _ => Err(Errno::EEXIST),
        };
    }
    all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    let vector = take_vector(dom.id, number).ok_or(Errno::ENOSPC)?;
    if let Err(e) = msi.enable(vector, apic::id()) {
        give_vector(vector);
        return Err(e);
    }
    all.push(Pirq { number, source: Source::Message(msi), vector: Some(vector), waits_for_eoi: false });
    Ok(number)
}

/// Writes the messages of a device once more, whosever they are (`PHYSDEVOP_restore_msi`): a reset or a sleep lost them.
pub fn restore_messages(device: Sbdf) -> Result<(), Errno> {
    let mut next = DomId(0);
    while let Some(dom) = next_from(next) {
        for p in dom.pirqs.all.lock().iter() {
            if let (Source::Message(msi), Some(vector)) = (p.source, p.vector)
                && msi.device() == device
            {
                msi.enable(vector, apic::id())?;
            }
        }
        next = DomId(dom.id.0 + 1);
    }
    Ok(())
}

/// Takes a pirq down (`PHYSDEVOP_unmap_pirq`).
///
/// # Errors
/// `EINVAL` when it isn't set up, `EBUSY` while a port is bound to it.
pub fn unmap(dom: &Domain, number: u32) -> Result<(), Errno> {
    if dom.ports.pirq_port(number).is_some() {
        return Err(Errno::EBUSY);
    }
    let mut all = dom.pirqs.all.lock();
    let i = all.iter().position(|p| p.number == number).ok_or(Errno::EINVAL)?;
    quiet(&all.swap_remove(i));
    Ok(())
}

fn quiet(p: &Pirq) {
    match p.source {
        Source::Line(_) => {
            ioapic::mask(p.number, true);
        }
        Source::Message(m) => m.disable(),
    }
    if let Some(v) = p.vector {
        give_vector(v);
    }
}

/// Whether a pirq needs the domain's EOI.
pub fn needs_eoi(dom: &Domain, number: u32) -> bool {
    dom.pirqs.all.lock().iter().any(|p| p.number == number && p.needs_eoi())
}

/// `EVTCHNOP_bind_pirq`: a port for a pirq; a line is routed to this CPU and opened.
pub fn bind(dom: &Arc<Domain>, number: u32, _shareable: bool) -> Result<Port, Errno> {
    let permitted = dom.rights.lock().irqs.contains(number.into()..u64::from(number) + 1);
    // A domain may say how the hypervisor's own line signals, as of any other; but have it, it may not.
    if permitted && super::serial_gsi() == Some(number) {
        return Err(Errno::EBUSY);
    }
    if permitted && number < ioapic::gsi_end() {
        setup_line(dom, number, None)?;
    }
    with_sides(dom, None, |s, _| {
        s.bind_pirq(number, permitted, || {
            let mut all = dom.pirqs.all.lock();
            // One that is not mapped is not the domain's.
            let p = all.iter_mut().find(|p| p.number == number).ok_or(Errno::EPERM)?;
            if let (Source::Line(t), None) = (p.source, p.vector) {
                let v = take_vector(dom.id, number).ok_or(Errno::ENOSPC)?;
                if !ioapic::route(number, v, apic::id(), t) {
                    give_vector(v);
                    return Err(Errno::EINVAL);
                }
                p.vector = Some(v);
                p.waits_for_eoi = false;
                ioapic::mask(number, false);
            }
            dom.pirqs.mark(p, true);
            Ok(())
        })
    })
}

/// The port of a pirq was closed.
pub fn unbind(dom: &Domain, number: u32) {
    let mut all = dom.pirqs.all.lock();
    if let Some(p) = all.iter_mut().find(|p| p.number == number) {
        dom.pirqs.mark(p, false);
        if let Source::Line(_) = p.source {
            ioapic::mask(number, true);
            if let Some(v) = p.vector.take() {
                give_vector(v);
            }
        }
    }
}

/// A dying domain's pirqs go.
pub fn unbind_all(dom: &Domain) {
    let all = core::mem::take(&mut *dom.pirqs.all.lock());
    all.iter().for_each(quiet);
}

/// The port of a pirq notifies another vcpu now. The interrupt goes on arriving where it did: any CPU can
/// deliver an event.
pub fn follow(_dom: &Domain, _number: u32, _vcpu: u32) {}

/// The domain has dealt with the device.
pub fn eoi(dom: &Domain, number: u32) -> Result<(), Errno> {
    let mut all = dom.pirqs.all.lock();
    let p = all.iter_mut().find(|p| p.number == number).ok_or(Errno::EINVAL)?;
    if core::mem::take(&mut p.waits_for_eoi) {
        ioapic::mask(number, false);
    }
    Ok(())
}

/// The domain has dealt with all its devices (`PHYSDEVOP_IRQ_UNMASK_NOTIFY`).
pub fn eoi_all(dom: &Domain) {
    for p in dom.pirqs.all.lock().iter_mut() {
        if core::mem::take(&mut p.waits_for_eoi) {
            ioapic::mask(p.number, false);
        }
    }
}

/// The interrupt of a pirq came.
pub(super) fn arrived(dom: &Domain, number: u32) {
    {
        let mut all = dom.pirqs.all.lock();
        if let Some(p) = all.iter_mut().find(|p| p.number == number)
            && p.needs_eoi()
        {
            ioapic::mask(number, true);
            p.waits_for_eoi = true;
        }
    }
    apic::eoi();
    dom.raise_pirq(number);
}
