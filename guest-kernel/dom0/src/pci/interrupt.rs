//! A function's interrupt, as an event channel.
//!
//! By MSI-X where the function has it: Xen writes the message into the function's table itself and
//! keeps the table from us, so all there is to do is to say which entry. Else by the interrupt pin.
//! Which GSI the pin is wired to stands in ACPI's byte code, which nothing here runs; the firmware
//! also routes each pin to a legacy interrupt and notes that in the interrupt line register, and
//! the legacy interrupts are the first GSIs.

use super::{Bar, Config, Function, MSIX};
use core::task::{Context, Poll};
use guest_kernel::events::EventChannel;
use guest_kernel::hypercall::{Errno, Result, physdev_op};
use guest_kernel::share::Doorbell;
use shared_abi::DomId;
use shared_abi::physdev::{
    MAP_PIRQ_TYPE_GSI, MAP_PIRQ_TYPE_MSI_SEG, PhysdevMapPirq, PhysdevSetupGsi, PhysdevUnmapPirq,
};

/// Interrupt line and pin.
const LINE: u8 = 0x3c;
/// In MSI-X's control register.
const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;

/// An interrupt that Xen has given us. Given back on drop.
#[derive(Debug)]
pub struct Interrupt {
    /// Dropped, and so unbound, before the pirq is unmapped.
    channel: Option<EventChannel>,
    pirq: i32,
    message: bool,
}

impl Interrupt {
    /// Whether it is a message, which needs no register of the device to be read to fall silent.
    pub fn is_message(&self) -> bool {
        self.message
    }

    fn bind(pirq: i32, message: bool) -> Result<Interrupt> {
        let mut interrupt = Interrupt { channel: None, pirq, message };
        interrupt.channel = Some(EventChannel::bind_pirq(pirq as u32)?);
        Ok(interrupt)
    }

    /// Ready once it was raised. `silence` makes the device let go of its pin.
    pub fn poll(&self, cx: &mut Context<'_>, silence: impl FnOnce()) -> Poll<()> {
        let Some(channel) = &self.channel else { return Poll::Pending };
        if channel.poll_raised(cx).is_pending() {
            return Poll::Pending;
        }
        if !self.message {
            silence();
        }
        channel.eoi();
        Poll::Ready(())
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.channel = None;
        let mut op = PhysdevUnmapPirq { domid: DomId::SELF, _pad: 0, pirq: self.pirq };
        // Refused for a pin's, which stays mapped for good in some versions of Xen.
        let _ = physdev_op(&mut op);
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
            let interrupt = Interrupt::bind(op.pirq, true)?;
            // Xen looks at this write, and takes it in no other width.
            msix.write_u16(config, 2, control & !MASK_ALL | ENABLE);
            Ok(interrupt)
        }))
    }

    fn pin(&self, config: &impl Config) -> Result<Interrupt> {
        let register = config.read(self.address, LINE);
        let (line, pin) = (register & 0xff, register >> 8 & 0xff);
        if pin == 0 || !(1..16).contains(&line) {
            return Err(Errno::ENODEV);
        }
        self.enable(config, true);
        let gsi = line as i32;
        // PCI's pins are active low and stay so until the device is silenced.
        let mut setup = PhysdevSetupGsi { gsi, triggering: 1, polarity: 1, _pad: 0 };
        match physdev_op(&mut setup) {
            Ok(_) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        let mut op = PhysdevMapPirq {
            domid: DomId::SELF,
            r#type: MAP_PIRQ_TYPE_GSI,
            index: gsi,
            pirq: gsi,
            ..Default::default()
        };
        physdev_op(&mut op)?;
        Interrupt::bind(op.pirq, false)
    }
}
