//! The disk (virtio 1.2, section 5.2), a [`BlockDevice`].
//!
//! The hardest decision was whose memory the device gets. A caller's slice is neither consecutive
//! in the machine nor sure to outlive a request whose future is dropped, so a request goes through
//! one of a fixed number of slots of DMA memory, which is free again only when the device has
//! finished, whether anybody still waits or not.

mod slots;
#[cfg(test)]
mod tests;

use super::queue::{Piece, Queue};
use super::{Bell, Broken, Error, Transport};
use crate::pci::{Config, Function};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Context, Poll};
use guest_kernel::block::{BlockDevice, BlockError, Geometry, SECTOR_SIZE};
use guest_kernel::memory::Pages;
use guest_kernel::share::{Doorbell, raised};
use guest_kernel::wait::Line;
use shared_abi::PAGE_SIZE;
use slots::{SLOT_PAGES, Slots};

/// Features.
const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const RO: u64 = 1 << 5;
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;

/// Words of the configuration.
const CAPACITY: usize = 0;
const MAX_SIZE: usize = 8;
const MAX_SEGMENTS: usize = 12;
const MAX_DISCARD: usize = 36;

/// Types of requests.
const IN: u32 = 0;
const OUT: u32 = 1;
const OP_FLUSH: u32 = 4;
const OP_DISCARD: u32 = 11;

const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;

/// A request's header, and the status behind it.
const HEADER: usize = 16;
/// Bytes between one slot's header and the next's.
const CONTROL: usize = 32;

/// What the device says of its requests.
struct Limits {
    /// Bytes of a piece of data.
    piece: u32,
    /// Pieces of data in a request.
    pieces: u32,
    /// Sectors of a discard.
    discard: u32,
}

struct Inner {
    queue: Queue,
    slots: Slots,
    /// For each descriptor the slot of the request that starts with it.
    flying: Vec<usize>,
    broken: bool,
}

/// A disk.
pub struct Disk<N = Bell> {
    geometry: Geometry,
    /// Bytes of one request, sectors of one discard.
    most: usize,
    most_discard: u32,
    /// Dropped, and so the device stopped, before the memory that it uses.
    bell: N,
    /// Headers and statuses.
    control: Pages,
    inner: RefCell<Inner>,
    /// Tasks that wait for a slot.
    line: Line,
    requests: Cell<u64>,
}

impl Disk {
    /// Starts the disk that `function` is. Some task must [`Disk::serve`] it.
    pub async fn start(config: &impl Config, function: &Function) -> Result<Disk, Error> {
        let transport = Transport::start(config, function, RO | FLUSH | SIZE_MAX | SEG_MAX | DISCARD).await?;
        let [low, high] = [CAPACITY, CAPACITY + 4].map(|at| u64::from(transport.config_u32(at)));
        let geometry = Geometry {
            sectors: high << 32 | low,
            read_only: transport.has(RO),
            flush: transport.has(FLUSH),
            discard: transport.has(DISCARD),
        };
        let limit = |feature, at, none| if transport.has(feature) { transport.config_u32(at) } else { none };
        let limits = Limits {
            piece: limit(SIZE_MAX, MAX_SIZE, u32::MAX),
            pieces: limit(SEG_MAX, MAX_SEGMENTS, 1),
            discard: limit(DISCARD, MAX_DISCARD, 0),
        };
        let (queue, kick) = transport.queue(0, true)?;
        let disk = Disk::new(geometry, limits, queue, transport.bell(kick))?;
        transport.ready();
        Ok(disk)
    }
}

impl<N: Doorbell> Disk<N> {
    fn new(geometry: Geometry, limits: Limits, queue: Queue, bell: N) -> Result<Self, Error> {
        // Header and status take a descriptor each.
        let descriptors = usize::from(queue.size());
        let slots = Slots::new(descriptors, (limits.piece as usize / PAGE_SIZE).clamp(1, SLOT_PAGES))?;
        let pieces = descriptors.saturating_sub(2).min(limits.pieces as usize);
        let most = if pieces >= slots.most_pieces() { SLOT_PAGES } else { pieces } * PAGE_SIZE;
        if most == 0 || (limits.piece as usize) < PAGE_SIZE {
            return Err(Error::Device("no room for a request"));
        }
        let flying = alloc::vec![0; descriptors];
        let inner = RefCell::new(Inner { queue, slots, flying, broken: false });
        let control = Pages::new(1)?;
        Ok(Disk {
            geometry,
            most,
            most_discard: limits.discard,
            bell,
            control,
            inner,
            line: Line::new(),
            requests: Cell::new(0),
        })
    }

    /// Requests made so far.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Answers the device's interrupts, for as long as it keeps to the rules.
    pub async fn serve(&self) {
        while self.drain().is_ok() {
            raised(&self.bell).await;
        }
        let mut inner = self.inner.borrow_mut();
        inner.broken = true;
        inner.slots.wake_everybody();
        drop(inner);
        self.line.wake();
    }

    /// Takes back all finished requests and asks for an interrupt at the next.
    fn drain(&self) -> Result<(), Broken> {
        let mut freed = false;
        {
            let inner = &mut *self.inner.borrow_mut();
            loop {
                while let Some((number, _)) = inner.queue.pop()? {
                    freed |= inner.slots.finish(inner.flying[usize::from(number)]);
                }
                if !inner.queue.arm() {
                    break;
                }
            }
        }
        if freed {
            self.line.wake();
        }
        Ok(())
    }

    /// Waits for a slot.
    async fn slot(&self) -> Result<Flight<'_, N>, BlockError> {
        let slot = self
            .line
            .wait(|| {
                let mut inner = self.inner.borrow_mut();
                if inner.broken { Some(Err(BlockError::Gone)) } else { inner.slots.take().map(Ok) }
            })
            .await?;
        Ok(Flight { disk: self, slot })
    }
}

/// A slot on loan. It goes back when dropped, or when the device has finished with it.
struct Flight<'a, N: Doorbell> {
    disk: &'a Disk<N>,
    slot: usize,
}

impl<N: Doorbell> Flight<'_, N> {
    /// Makes the request and waits for its end. `len` bytes of the slot are its data, which the
    /// device writes if `write`.
    async fn fly(&self, kind: u32, sector: u64, len: usize, write: bool) -> Result<(), BlockError> {
        let disk = self.disk;
        let control = self.slot * CONTROL;
        let mut header = [0; HEADER + 1];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..16].copy_from_slice(&sector.to_le_bytes());
        header[HEADER] = 0xff;
        disk.control.write_bytes(control, &header);
        let address = disk.control.machine_address() + control as u64;
        let kick = {
            let inner = &mut *disk.inner.borrow_mut();
            let mut pieces = Vec::with_capacity(SLOT_PAGES + 2);
            pieces.push(Piece { address, len: HEADER as u32, write: false });
            pieces.extend(inner.slots.pieces(self.slot, len, write));
            pieces.push(Piece { address: address + HEADER as u64, len: 1, write: true });
            // There are as many slots as the queue has room for.
            let number = inner.queue.push(&pieces).ok_or(BlockError::Io)?;
            inner.flying[usize::from(number)] = self.slot;
            inner.slots.launch(self.slot);
            inner.queue.publish()
        };
        disk.requests.set(disk.requests.get() + 1);
        if kick {
            disk.bell.notify();
        }
        poll_fn(|cx| self.poll_done(cx)).await?;
        match disk.control.load_u8(control + HEADER) {
            STATUS_OK => Ok(()),
            STATUS_UNSUPPORTED => Err(BlockError::Unsupported),
            _ => Err(BlockError::Io),
        }
    }

    fn poll_done(&self, cx: &Context<'_>) -> Poll<Result<(), BlockError>> {
        let mut inner = self.disk.inner.borrow_mut();
        match inner.slots.poll_landed(self.slot, cx) {
            Poll::Pending if inner.broken => Poll::Ready(Err(BlockError::Gone)),
            landed => landed.map(Ok),
        }
    }

    fn write(&self, from: &[u8]) {
        self.disk.inner.borrow().slots.data(self.slot).write_bytes(0, from);
    }

    fn read(&self, to: &mut [u8]) {
        self.disk.inner.borrow().slots.data(self.slot).read_bytes(0, to);
    }
}

impl<N: Doorbell> Drop for Flight<'_, N> {
    fn drop(&mut self) {
        let freed = self.disk.inner.borrow_mut().slots.give_back(self.slot);
        if freed {
            self.disk.line.wake();
        }
    }
}

impl<N: Doorbell> BlockDevice for Disk<N> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    async fn read(&self, sector: u64, to: &mut [u8]) -> Result<(), BlockError> {
        self.geometry.check(sector, to.len())?;
        let mut sector = sector;
        for part in to.chunks_mut(self.most) {
            let flight = self.slot().await?;
            flight.fly(IN, sector, part.len(), true).await?;
            flight.read(part);
            sector += (part.len() / SECTOR_SIZE) as u64;
        }
        Ok(())
    }

    async fn write(&self, sector: u64, from: &[u8]) -> Result<(), BlockError> {
        if self.geometry.read_only {
            return Err(BlockError::ReadOnly);
        }
        self.geometry.check(sector, from.len())?;
        let mut sector = sector;
        for part in from.chunks(self.most) {
            let flight = self.slot().await?;
            flight.write(part);
            flight.fly(OUT, sector, part.len(), false).await?;
            sector += (part.len() / SECTOR_SIZE) as u64;
        }
        Ok(())
    }

    /// Without the feature the device has no volatile cache: nothing is to be done.
    async fn flush(&self) -> Result<(), BlockError> {
        if !self.geometry.flush {
            return Ok(());
        }
        self.slot().await?.fly(OP_FLUSH, 0, 0, false).await
    }

    async fn discard(&self, sector: u64, count: u64) -> Result<(), BlockError> {
        if self.geometry.read_only {
            return Err(BlockError::ReadOnly);
        }
        if !self.geometry.discard || self.most_discard == 0 {
            return Err(BlockError::Unsupported);
        }
        self.geometry.check_sectors(sector, count)?;
        let (mut sector, mut count) = (sector, count);
        while count > 0 {
            let now = count.min(u64::from(self.most_discard));
            let mut range = [0; 16];
            range[..8].copy_from_slice(&sector.to_le_bytes());
            range[8..12].copy_from_slice(&(now as u32).to_le_bytes());
            let flight = self.slot().await?;
            flight.write(&range);
            flight.fly(OP_DISCARD, 0, range.len(), false).await?;
            (sector, count) = (sector + now, count - now);
        }
        Ok(())
    }
}
