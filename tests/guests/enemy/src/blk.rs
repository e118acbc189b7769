//! Disks' rings (`io/blkif.h`): requests that can't be, requests that change, indices that can't be.

use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use guest_kernel::front::blk;
use guest_kernel::grants::{Access, Grant, SharedPage};
use guest_kernel::memory::Pages;
use guest_kernel::ring::{FrontRing, RingKind};
use guest_kernel::share::{GrantedPage, SharedMem};
use guest_kernel::shared_abi::Errno;
use guest_kernel::shared_abi::io::blkif::{
    BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, BlkifResponse,
};
use guest_kernel::xenbus::XenbusState;
use guest_kernel::xenstore::Xenstore;

use crate::device::{self, Frontend, OTHER_WORDS, REQ_PROD, WILD_REF, judge, judge_closed};
use crate::tables;

/// A slot, whatever is in it.
type Slot = [u8; 112];

struct Disks;

impl RingKind for Disks {
    type Request = Slot;
    type Response = BlkifResponse;
}

/// A piece of a transfer: reference, first and last sector in the page.
type Segment = (u32, u8, u8);

/// `struct blkif_request`, with `count` for its number of segments whatever there are.
fn direct(operation: u8, count: u8, sector: u64, segments: &[Segment]) -> Slot {
    let mut slot = [0; 112];
    (slot[0], slot[1]) = (operation, count);
    slot[16..24].copy_from_slice(&sector.to_le_bytes());
    for (at, segment) in slot[24..].chunks_mut(8).zip(segments) {
        at.copy_from_slice(&descriptor(*segment));
    }
    slot
}

/// `struct blkif_request_segment`
fn descriptor((reference, first, last): Segment) -> [u8; 8] {
    let [a, b, c, d] = reference.to_le_bytes();
    [a, b, c, d, first, last, 0, 0]
}

/// `struct blkif_request_indirect`
fn indirect(operation: u8, count: u16, list: u32) -> Slot {
    let mut slot = [0; 112];
    (slot[0], slot[1]) = (BLKIF_OP_INDIRECT, operation);
    slot[2..4].copy_from_slice(&count.to_le_bytes());
    slot[28..32].copy_from_slice(&list.to_le_bytes());
    slot
}

/// `struct blkif_request_discard`
fn discard(sector: u64, count: u64) -> Slot {
    let mut slot = direct(BLKIF_OP_DISCARD, 0, sector, &[]);
    slot[24..32].copy_from_slice(&count.to_le_bytes());
    slot
}

struct Disk {
    frontend: Frontend,
    ring: FrontRing<Disks, SharedPage>,
}

impl Disk {
    async fn connect(store: &Xenstore, id: u32) -> Result<Disk, Errno> {
        let frontend = Frontend::new(store, "vbd", id).await?;
        let ring = device::ring(&frontend.device)?;
        let nodes = [("ring-ref", device::reference(&ring)), ("event-channel", frontend.port())];
        match frontend.offer(&nodes).await? {
            XenbusState::Connected => Ok(Disk { frontend, ring }),
            _ => Err(Errno::ENODEV),
        }
    }

    /// The status of one request; none if there is no answer.
    async fn ask(&mut self, slot: Slot) -> Option<i16> {
        let mut status = None;
        let bell = self.frontend.bell.clone();
        device::exchange(&mut self.ring, &bell, &[slot], |answer| status = Some(answer.status)).await;
        status
    }

    async fn expect(&mut self, what: &str, slot: Slot, expected: i16) {
        let status = self.ask(slot).await;
        judge(what, status == Some(expected), status);
    }
}

/// Attacks each of the disks in its own way: the first may be written.
pub async fn attack(store: &Xenstore) -> Result<(), Errno> {
    let ids = blk::disks(store).await?;
    let [first, second, rest @ ..] = &ids[..] else { return Err(Errno::ENODEV) };
    bad_requests(store, *first).await?;

    let mut disk = Disk::connect(store, *second).await?;
    let page = SharedPage::new(disk.frontend.device.peer)?;
    let write = direct(BLKIF_OP_WRITE, 1, 0, &[(page.gref().0, 0, 0)]);
    disk.expect("a write to a read-only disk", write, BLKIF_RSP_ERROR).await;
    disk.ring.memory().store(REQ_PROD, 0);
    disk.frontend.refused("a request taken back after its answer").await;

    let offers: [(&str, &str, u32); 4] = [
        ("a ring that was not granted", "ring-ref", WILD_REF),
        ("a port that is not there", "event-channel", 4000),
        ("a ring of 2^31 pages", "ring-page-order", 31),
        ("a ring with an impossible index from the start", "", 0),
    ];
    for (id, (what, node, value)) in rest.iter().zip(offers) {
        let frontend = Frontend::new(store, "vbd", *id).await?;
        let ring = device::ring::<Disks>(&frontend.device)?;
        if node.is_empty() {
            ring.memory().store(REQ_PROD, 1 << 31);
        }
        let mut nodes: Vec<(&str, String)> =
            Vec::from([("ring-ref", device::reference(&ring)), ("event-channel", frontend.port())]);
        nodes.retain(|(key, _)| *key != node);
        if !node.is_empty() {
            nodes.push((node, value.to_string()));
        }
        judge_closed(what, frontend.offer(&nodes).await);
    }
    Ok(())
}

async fn bad_requests(store: &Xenstore, id: u32) -> Result<(), Errno> {
    let mut disk = Disk::connect(store, id).await?;
    let page = SharedPage::new(disk.frontend.device.peer)?;
    let mine = page.gref().0;
    let sectors: u64 = disk.frontend.device.read_peer("sectors").await?;
    let read = |sector, segment| direct(BLKIF_OP_READ, 1, sector, &[segment]);
    let good = read(0, (mine, 0, 7));
    disk.expect("a read", good, BLKIF_RSP_OKAY).await;

    for (what, slot, status) in [
        ("into a page that was not granted", read(0, (WILD_REF, 0, 7)), BLKIF_RSP_ERROR),
        ("into the last reference of all", read(0, (u32::MAX, 0, 7)), BLKIF_RSP_ERROR),
        ("from first to last, backwards", read(0, (mine, 5, 4)), BLKIF_RSP_ERROR),
        ("past the page's end", read(0, (mine, 0, 8)), BLKIF_RSP_ERROR),
        ("far past the page's end", read(0, (mine, 255, 255)), BLKIF_RSP_ERROR),
        ("past the disk's end", read(sectors - 7, (mine, 0, 7)), BLKIF_RSP_ERROR),
        ("at the last sector of all", read(u64::MAX, (mine, 0, 7)), BLKIF_RSP_ERROR),
        ("around the last sector of all", read(u64::MAX - 3, (mine, 0, 7)), BLKIF_RSP_ERROR),
        ("of nothing", direct(BLKIF_OP_READ, 0, 0, &[]), BLKIF_RSP_ERROR),
        ("of one segment too many", direct(BLKIF_OP_READ, 12, 0, &[(mine, 0, 7); 11]), BLKIF_RSP_EOPNOTSUPP),
        ("of 255 segments", direct(BLKIF_OP_WRITE, 255, 0, &[(mine, 0, 7); 11]), BLKIF_RSP_EOPNOTSUPP),
        ("of eleven times the same page", direct(BLKIF_OP_READ, 11, 0, &[(mine, 0, 7); 11]), BLKIF_RSP_OKAY),
        ("an operation that is none", direct(99, 1, 0, &[(mine, 0, 7)]), BLKIF_RSP_EOPNOTSUPP),
        ("a flush of 200 segments", direct(BLKIF_OP_FLUSH_DISKCACHE, 200, 0, &[]), BLKIF_RSP_EOPNOTSUPP),
        ("a discard of all sectors there are", discard(0, u64::MAX), BLKIF_RSP_ERROR),
        ("a discard past the end", discard(u64::MAX, 2), BLKIF_RSP_ERROR),
        ("65535 segments listed", indirect(BLKIF_OP_READ, u16::MAX, mine), BLKIF_RSP_ERROR),
        ("33 segments listed", indirect(BLKIF_OP_READ, 33, mine), BLKIF_RSP_ERROR),
        ("a list that was not granted", indirect(BLKIF_OP_READ, 8, WILD_REF), BLKIF_RSP_ERROR),
        ("a list within a list", indirect(BLKIF_OP_INDIRECT, 8, mine), BLKIF_RSP_EOPNOTSUPP),
    ] {
        disk.expect(what, slot, status).await;
    }
    for at in 0..32 {
        page.write(at * 8, &descriptor((WILD_REF + at as u32, 0, 7)));
    }
    disk.expect("wild pages listed", indirect(BLKIF_OP_WRITE, 32, mine), BLKIF_RSP_ERROR).await;
    disk.expect("a read after all that", good, BLKIF_RSP_OKAY).await;

    // Its frame was no other's to use before the hypervisor had taken it apart, which it left to the vcpu's next request
    // that concerns page tables: dom0 asked for it again and again, for ever.
    let (pages, mut slot) = (Rc::new(Pages::new(1)?), good);
    let grant = Grant::offer(&pages, 0, disk.frontend.device.peer, Access::ReadWrite)?;
    if tables::was_table(&pages) {
        slot = read(0, (grant.reference().0, 0, 7));
    }
    disk.expect("into a page that was a page table", slot, BLKIF_RSP_OKAY).await;
    judge("it was one", slot != good, grant.reference().0);
    // It stays read-only.
    core::mem::forget((pages, grant));

    for at in OTHER_WORDS {
        disk.ring.memory().store(at, 0x8000_0001);
    }
    disk.expect("with the ring's other words overwritten", good, BLKIF_RSP_OKAY).await;

    let bad = direct(BLKIF_OP_INDIRECT, 255, u64::MAX, &[(WILD_REF, 9, 9)]);
    let bell = disk.frontend.bell.clone();
    let answered = device::change_while_read(&mut disk.ring, &bell, &good, &bad[..32], 300).await;
    judge("a request that changes while it is read", answered, answered);
    disk.expect("a read after that", good, BLKIF_RSP_OKAY).await;

    disk.ring.memory().store(REQ_PROD, 0x4000_0000);
    disk.frontend.refused("an impossible number of requests").await;
    Ok(())
}
