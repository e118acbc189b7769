//! A function's interrupt, as something to wait for.
//!
//! By MSI-X where the function has it: Xen writes the message into the function's table itself and
//! keeps the table from us, so all there is to do is to say which entry. Else by the interrupt pin.
//! Which GSI the pin is wired to stands in ACPI's byte code, which nothing here runs; the firmware
//! also routes each pin to a legacy interrupt and notes that in the interrupt line register, and
//! the legacy interrupts are the first GSIs.

use super::line::{Tap, tap};
use super::{Bar, Config, Function, MSIX};
use core::task::{Context, Poll};
use guest_kernel::events::EventChannel;
use guest_kernel::hypercall::{Errno, Result, physdev_op};
use guest_kernel::share::Doorbell;
use shared_abi::DomId;
use shared_abi::physdev::{MAP_PIRQ_TYPE_MSI_SEG, PhysdevMapPirq, PhysdevUnmapPirq};

/// Interrupt line and pin.
const LINE: u8 = 0x3c;
/// In MSI-X's control register.
const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;

/// A message that Xen turns into an event. Given back on drop.
#[derive(Debug)]
struct Message {
    /// Dropped, and so unbound, before the pirq is unmapped.
    channel: Option<EventChannel>,
    pirq: i32,
}

impl Drop for Message {
    fn drop(&mut self) {
        self.channel = None;
        let mut op = PhysdevUnmapPirq { domid: DomId::SELF, _pad: 0, pirq: self.pirq };
        // Nothing could be done about a refusal.
        let _ = physdev_op(&mut op);
    }
}

#[derive(Debug)]
enum Way {
    Message(Message),
    Pin(Tap),
}

/// An interrupt of ours.
#[derive(Debug)]
pub struct Interrupt(Way);

impl Interrupt {
    /// Whether it is a message, which needs no register of the device to be read to fall silent.
    pub fn is_message(&self) -> bool {
        matches!(self.0, Way::Message(_))
    }

    /// Ready once it was raised, for one task. `silence` makes the device let go of its pin.
    pub fn poll(&self, cx: &mut Context<'_>, silence: impl FnOnce()) -> Poll<()> {
        match &self.0 {
            Way::Message(message) => {
                let Some(channel) = &message.channel else { return Poll::Pending };
                let raised = channel.poll_raised(cx);
                if raised.is_ready() {
                    channel.eoi();
                }
                raised
            }
            Way::Pin(tap) => {
                let raised = tap.poll(cx);
                if raised.is_ready() {
                    silence();
                }
                raised
            }
        }
    }
}

impl Function {
    /// Makes entry 0 of the function's MSI-X table, or else its pin, an interrupt of ours.
    pub fn interrupt(&self, config: &impl Config) -> Result<Interrupt> {
        match self.message(config) {
            Some(result) => result,
            None => self.pin(config),
        }
    }

    fn message(&self, config: &impl Config) -> Option<Result<Interrupt>> {
        let msix = self.capabilities(config).find(|capability| capability.id == MSIX)?;
        let table = msix.read(config, 4);
        let Bar { base, .. } = self.bar(config, (table & 7) as u8)?;
        // Xen reads and writes the table: the function must answer.
        self.enable(config, false);
        let control = (msix.read(config, 0) >> 16) as u16;
        let mut op = PhysdevMapPirq {
            domid: DomId::SELF,
            r#type: MAP_PIRQ_TYPE_MSI_SEG,
            index: -1,
            pirq: -1,
            bus: i32::from(self.address.bus),
            devfn: i32::from(self.address.devfn()),
            entry_nr: 0,
            table_base: base,
            ..Default::default()
        };
        Some(physdev_op(&mut op).and_then(|_| {
            let mut message = Message { channel: None, pirq: op.pirq };
            message.channel = Some(EventChannel::bind_pirq(op.pirq as u32)?);
            // Xen looks at this write, and takes it in no other width.
            msix.write_u16(config, 2, control & !MASK_ALL | ENABLE);
            Ok(Interrupt(Way::Message(message)))
        }))
    }

    fn pin(&self, config: &impl Config) -> Result<Interrupt> {
        let register = config.read(self.address, LINE);
        let (line, pin) = (register & 0xff, register >> 8 & 0xff);
        if pin == 0 || !(1..16).contains(&line) {
            return Err(Errno::ENODEV);
        }
        self.enable(config, true);
        Ok(Interrupt(Way::Pin(tap(line)?)))
    }
}
