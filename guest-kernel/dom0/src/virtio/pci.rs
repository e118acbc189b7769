//! Virtio over PCI (virtio 1.2, section 4.1): a device's start, and its doorbells.

use super::region::Region;
use super::{Error, Queue};
use crate::pci::interrupt::Interrupt;
use crate::pci::{Config, Function, VENDOR};
use alloc::rc::Rc;
use core::task::{Context, Poll};
use guest_kernel::executor::yield_now;
use guest_kernel::share::Doorbell;

/// `cfg_type` of a virtio capability.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;

/// Registers of the common configuration.
mod common {
    pub const DEVICE_FEATURE_SELECT: usize = 0;
    pub const DEVICE_FEATURE: usize = 4;
    pub const DRIVER_FEATURE_SELECT: usize = 8;
    pub const DRIVER_FEATURE: usize = 12;
    pub const MSIX_CONFIG: usize = 16;
    pub const STATUS: usize = 20;
    pub const QUEUE_SELECT: usize = 22;
    pub const QUEUE_SIZE: usize = 24;
    pub const QUEUE_VECTOR: usize = 26;
    pub const QUEUE_ENABLE: usize = 28;
    pub const QUEUE_NOTIFY: usize = 30;
    pub const QUEUE_ADDRESSES: usize = 32;
    pub const SIZE: u64 = 56;
}

/// Bits of the device status.
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
/// No vector.
const NO_VECTOR: u16 = 0xffff;
/// The device is one of this specification and not of its predecessor.
const VERSION_1: u64 = 1 << 32;
/// The device's addresses are what the platform says, which are machine addresses here as well.
const ACCESS_PLATFORM: u64 = 1 << 33;
/// Reads of the status after a reset until a device counts as hung.
const PATIENCE: usize = 100_000;

/// Kinds of devices that there are drivers for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A network card.
    Net,
    /// A disk.
    Blk,
}

/// What kind of virtio device a function is, by its numbers: of this specification, or of one
/// that also speaks its predecessor's.
pub fn kind(function: &Function) -> Option<Kind> {
    match (function.vendor, function.device) {
        (0x1af4, 0x1000 | 0x1041) => Some(Kind::Net),
        (0x1af4, 0x1001 | 0x1042) => Some(Kind::Blk),
        _ => None,
    }
}

/// The common configuration. The device stops when it is dropped, so that it does not write to
/// memory that has become somebody else's: whoever has queues drops this before them.
struct Common(Region);

impl core::ops::Deref for Common {
    type Target = Region;
    fn deref(&self) -> &Region {
        &self.0
    }
}

impl Common {
    fn is_reset(&self) -> bool {
        self.read_u8(common::STATUS) == 0
    }

    fn features(&self) -> u64 {
        (0..2).fold(0, |bits, half| {
            self.write_u32(common::DEVICE_FEATURE_SELECT, half);
            bits | u64::from(self.read_u32(common::DEVICE_FEATURE)) << (32 * half)
        })
    }

    async fn reset(&self) -> Result<(), Error> {
        self.write_u8(common::STATUS, 0);
        for _ in 0..PATIENCE {
            if self.is_reset() {
                return Ok(());
            }
            yield_now().await;
        }
        Err(Error::Device("no end of the reset"))
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        self.write_u8(common::STATUS, 0);
        for _ in 0..PATIENCE {
            if self.is_reset() {
                return;
            }
        }
    }
}

/// A device that is being started, and its configuration.
pub struct Transport {
    common: Rc<Common>,
    notify: Rc<Region>,
    notify_step: usize,
    isr: Rc<Region>,
    device: Option<Region>,
    interrupt: Rc<Interrupt>,
    features: u64,
}

impl Transport {
    /// Finds a device's registers, resets it and agrees on those of `wanted` features that it has.
    pub async fn start(config: &impl Config, function: &Function, wanted: u64) -> Result<Transport, Error> {
        function.enable(config, false);
        // A device may offer a structure several times, the one it likes best first.
        let mut capabilities = [None; 5];
        for capability in function.capabilities(config).filter(|c| c.id == VENDOR) {
            let kind = usize::from((capability.read(config, 0) >> 24) as u8);
            if let Some(place @ None) = capabilities.get_mut(kind) {
                *place = Some(capability);
            }
        }
        let find = |kind: u8| capabilities[usize::from(kind)].ok_or(Error::Device("a structure is missing"));
        let map = |kind, least| Region::map(config, function, &find(kind)?, least);
        let common = Rc::new(Common(map(COMMON, common::SIZE)?));
        let (notify, isr) = (Rc::new(map(NOTIFY, 2)?), Rc::new(map(ISR, 1)?));
        let notify_step = find(NOTIFY)?.read(config, 16) as usize;
        let device = match find(DEVICE) {
            Ok(_) => Some(map(DEVICE, 4)?),
            Err(_) => None,
        };
        common.reset().await?;
        common.write_u8(common::STATUS, ACKNOWLEDGE | DRIVER);
        let offered = common.features();
        if offered & VERSION_1 == 0 {
            return Err(Error::Device("a device of an old version"));
        }
        let features = offered & (wanted | VERSION_1 | ACCESS_PLATFORM);
        for half in 0..2 {
            common.write_u32(common::DRIVER_FEATURE_SELECT, half);
            common.write_u32(common::DRIVER_FEATURE, (features >> (32 * half)) as u32);
        }
        common.write_u8(common::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if common.read_u8(common::STATUS) & FEATURES_OK == 0 {
            return Err(Error::Device("the device refuses its own features"));
        }
        let interrupt = Rc::new(function.interrupt(config)?);
        if interrupt.is_message() {
            // Changes of the configuration are not followed.
            common.write_u16(common::MSIX_CONFIG, NO_VECTOR);
        }
        Ok(Transport { common, notify, notify_step, isr, device, interrupt, features })
    }

    /// Whether a feature, one of those wanted, was agreed on.
    pub fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Reads a 32-bit word of the device's own configuration; zero behind its end.
    pub fn config_u32(&self, offset: usize) -> u32 {
        match &self.device {
            Some(region) if offset + 4 <= region.len() => region.read_u32(offset),
            _ => 0,
        }
    }

    /// Makes queue `index` and gives it to the device. With `interrupt` it raises the interrupt.
    pub fn queue(&self, index: u16, interrupt: bool) -> Result<(Queue, Kick), Error> {
        let common = &self.common;
        common.write_u16(common::QUEUE_SELECT, index);
        let queue = Queue::new(common.read_u16(common::QUEUE_SIZE))?;
        common.write_u16(common::QUEUE_SIZE, queue.size());
        if self.interrupt.is_message() {
            let vector = if interrupt { 0 } else { NO_VECTOR };
            common.write_u16(common::QUEUE_VECTOR, vector);
            if common.read_u16(common::QUEUE_VECTOR) != vector {
                return Err(Error::Device("no interrupt vector"));
            }
        }
        for (part, address) in queue.addresses().into_iter().enumerate() {
            for half in 0..2 {
                let at = common::QUEUE_ADDRESSES + part * 8 + half * 4;
                common.write_u32(at, (address >> (32 * half)) as u32);
            }
        }
        let offset = usize::from(common.read_u16(common::QUEUE_NOTIFY)).saturating_mul(self.notify_step);
        if offset > self.notify.len() - 2 || offset % 2 != 0 {
            return Err(Error::Device("a queue's register outside the structure"));
        }
        common.write_u16(common::QUEUE_ENABLE, 1);
        Ok((queue, Kick { notify: self.notify.clone(), offset, index }))
    }

    /// Starts the device: all queues are there.
    pub fn ready(&self) {
        self.common.write_u8(common::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// The device's interrupt with a queue's register, as a doorbell.
    pub fn bell(&self, kick: Kick) -> Bell {
        Bell { _common: self.common.clone(), kick, isr: self.isr.clone(), interrupt: self.interrupt.clone() }
    }
}

/// Tells the device of new requests in a queue.
pub struct Kick {
    notify: Rc<Region>,
    offset: usize,
    index: u16,
}

impl Doorbell for Kick {
    fn notify(&self) {
        self.notify.write_u16(self.offset, self.index);
    }

    /// Never: the queue has no interrupt.
    fn poll_raised(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// A queue's register and the device's interrupt. One for each device, for an
/// interrupt has one waiter; the device stops when it is dropped.
pub struct Bell {
    /// Keeps the device running.
    _common: Rc<Common>,
    kick: Kick,
    isr: Rc<Region>,
    interrupt: Rc<Interrupt>,
}

impl Doorbell for Bell {
    fn notify(&self) {
        self.kick.notify();
    }

    fn poll_raised(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Reading the register makes the device let go of its pin.
        self.interrupt.poll(cx, || {
            self.isr.read_u8(0);
        })
    }
}
