//! Grants over the real frame table, on a fake machine. Single rules here, published mistakes of
//! others in `stories`, random operations against a naive model in `model`.

use core::cell::RefCell;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::boxed::Box;
use std::vec::Vec;

use hv_machine::frame::{Cpus, Frame, FrameTable, HV_SLOTS, L4, Limit, Rights, Store, TlbClock, Work};
use shared_abi::grant_table::*;
use shared_abi::{DomId, GrantRef, Mfn, pte};

use super::active::{Use, Want};
use super::*;

mod model;
mod stories;
mod version_2;

struct FakeCpus(AtomicUsize);

impl Cpus for FakeCpus {
    fn flush(&self, clock: &TlbClock, stamp: u32) {
        self.0.fetch_add(1, SeqCst);
        for cpu in clock.stale_cpus(stamp).collect::<Vec<_>>() {
            clock.end(cpu, clock.begin());
        }
    }
    fn relax(&self) {}
}

/// A domain with a page-table tree whose L1 is empty, and some frames of data.
pub(super) struct Dom {
    pub id: DomId,
    pub root: Option<Frame<'static, L4>>,
    pub l1: Mfn,
    pub data: Vec<Mfn>,
    pub table: RefCell<GrantTable<'static>>,
    pub track: RefCell<Maptrack<'static>>,
}

pub(super) struct World {
    pub frames: &'static FrameTable,
    pub doms: Vec<Dom>,
    /// Domains of which the copies said that uses ended.
    pub ended: RefCell<Vec<usize>>,
    free: u64,
}

pub(super) const DATA: usize = 3;
const TABLE: u64 = pte::PRESENT | pte::RW | pte::USER;

impl World {
    pub fn new(doms: u16) -> World {
        let cpus: &'static FakeCpus = Box::leak(Box::new(FakeCpus(AtomicUsize::new(0))));
        let frames: &'static FrameTable = Box::leak(Box::new(FrameTable::fake(128, cpus)));
        frames.clock().join(0);
        frames.set_template([0; HV_SLOTS]);
        frames.add_free(Mfn(1), Mfn(128), true);
        // The first domain's memory makes the table of owners, which stays.
        let first = frames.populate(DomId(1), 0, Limit::Any).unwrap();
        frames.disown(first, DomId(1), &mut Work::new(frames, 1)).unwrap();
        let free = frames.free_frames();
        let doms = (1..=doms).map(|id| Dom::new(frames, DomId(id))).collect();
        World { frames, doms, ended: RefCell::default(), free }
    }

    pub fn work(&self) -> Work<'static> {
        Work::new(self.frames, u32::MAX)
    }

    /// What the granting guest writes into its table: in version 2 the whole frame is the part, if it is one.
    pub fn write_entry(&self, dom: usize, gref: u32, flags: u16, to: DomId, mfn: Mfn) {
        if self.doms[dom].table.borrow().version() == 2 {
            return self.write_v2(dom, gref, flags & !MARKS, to, 4096 << 16, mfn.0);
        }
        let mut work = self.work();
        let (frame, index) = (self.doms[dom].table.borrow().frame(gref / 512).unwrap(), gref % 512);
        let page = self.frames.get_writable(frame, self.doms[dom].id, &mut work).unwrap();
        page.page().store_u32(index as usize * 8 + 4, mfn.0 as u32);
        page.page().store_u32(index as usize * 8, u32::from(flags) | u32::from(to.0) << 16);
        page.release(&mut work);
    }

    /// Flags, with the marks, domain and frame.
    pub fn entry(&self, dom: usize, gref: u32) -> (u16, DomId, u64) {
        let version = self.doms[dom].table.borrow().version() as usize;
        let per_frame = 512 / version as u32;
        let frame = self.doms[dom].table.borrow().frame(gref / per_frame).unwrap();
        let page = self.frames.get(frame, self.doms[dom].id).unwrap();
        let at = (gref % per_frame) as usize * 8 * version;
        let head = page.view().load_u64(at);
        let (flags, to) = (head as u16, DomId((head >> 16) as u16));
        match version {
            1 => (flags, to, head >> 32),
            _ => (flags | self.marks(dom, gref), to, page.view().load_u64(at + 8)),
        }
    }

    pub fn entry_flags(&self, dom: usize, gref: u32) -> u16 {
        self.entry(dom, gref).0
    }

    pub fn grant(&self, dom: usize, gref: u32, to: usize, data: usize, flags: u16) {
        let (to, mfn) = (self.doms[to].id, self.doms[dom].data[data]);
        self.write_entry(dom, gref, GTF_PERMIT_ACCESS | flags, to, mfn);
    }

    fn in_space<R>(&self, dom: usize, act: impl FnOnce(&mut Space<'_, 'static>) -> R) -> R {
        let mut work = self.work();
        let dom = &self.doms[dom];
        let root = dom.root.as_ref().unwrap();
        act(&mut Space { frames: self.frames, root, dom: dom.id, work: &mut work })
    }

    pub fn map(
        &self,
        dom: usize,
        from: usize,
        gref: u32,
        slot: usize,
        flags: u32,
    ) -> Result<Mapped, Failure> {
        let op = Map { gref: GrantRef(gref), flags, host_addr: slot as u64 * 4096 };
        self.map_op(dom, from, &op)
    }

    pub fn map_op(&self, dom: usize, from: usize, op: &Map) -> Result<Mapped, Failure> {
        self.in_space(dom, |space| {
            let (table, track) = (&self.doms[from].table, &self.doms[dom].track);
            map(op, &mut table.borrow_mut(), &mut track.borrow_mut(), space)
        })
    }

    /// All three steps.
    pub fn unmap(&self, dom: usize, op: &Unmap) -> Result<(), Failure> {
        self.finish(self.in_space(dom, |space| unmap(op, &mut self.doms[dom].track.borrow_mut(), space)))
    }

    /// The same with what is mapped at `from` in its place.
    pub fn replace(&self, dom: usize, op: &Unmap, from: u64) -> Result<(), Failure> {
        let rights = Rights::plain(self.doms[dom].id);
        self.finish(
            self.in_space(dom, |space| {
                replace(op, from, &mut self.doms[dom].track.borrow_mut(), space, &rights)
            }),
        )
    }

    fn finish(&self, first: Result<Unmapped, Failure>) -> Result<(), Failure> {
        let Unmapped { gone, due } = first?;
        if let Some(due) = due {
            self.frames.flush(due);
        }
        if let Some(gone) = gone {
            self.complete(gone);
        }
        Ok(())
    }

    pub fn unmap_host(&self, dom: usize, handle: u32, slot: usize) -> Result<(), Failure> {
        self.unmap(dom, &Unmap { handle, host_addr: slot as u64 * 4096, ..Unmap::default() })
    }

    fn complete(&self, unmapping: Unmapping) {
        let granter = self.doms.iter().find(|d| d.id == unmapping.granter).unwrap();
        unmapping.complete(&mut granter.table.borrow_mut());
    }

    /// The guest's own update of an entry of its L1.
    pub fn update(&self, dom: usize, slot: usize, entry: u64) -> bool {
        let (dom, mut work) = (&self.doms[dom], self.work());
        let table = self.frames.get_table(dom.l1, dom.id).unwrap();
        let rights = Rights::plain(dom.id);
        let done = self.frames.update_entry(&table, slot, entry, Store::Set, &rights, &mut work);
        table.release(&mut work);
        done.is_ok()
    }

    pub fn slot(&self, dom: usize, slot: usize) -> u64 {
        let dom = &self.doms[dom];
        self.frames.get_table(dom.l1, dom.id).unwrap().view().load_u64(slot * 8)
    }

    pub fn destroy(&mut self, dom: usize) {
        let mut work = self.work();
        self.doms[dom].table.borrow_mut().set_dying();
        loop {
            let next = self.doms[dom].track.borrow_mut().release_next(&mut work);
            match next {
                Ok(Some(unmapping)) => self.complete(unmapping),
                Ok(None) => break,
                Err(()) => {}
            }
        }
        self.doms[dom].root.take().unwrap().release(&mut work);
        self.frames.relinquish(self.doms[dom].id, &mut work).unwrap();
    }

    /// The end of every test: all domains go, and every frame is back.
    pub fn end(mut self) {
        for dom in 0..self.doms.len() {
            if self.doms[dom].root.is_some() {
                self.destroy(dom);
            }
        }
        for dom in self.doms.drain(..) {
            assert_eq!(dom.table.borrow().pinned(), 0, "uses of grants are left");
        }
        self.frames.settle(&mut self.work()).unwrap();
        assert_eq!(self.frames.free_frames(), self.free, "frames are lost");
    }
}

impl Tables<'static> for &World {
    type Domain = usize;

    fn find(&self, dom: DomId) -> Option<usize> {
        self.doms.iter().position(|d| d.id == dom)
    }

    fn with<R>(&self, dom: &usize, act: impl FnOnce(&mut GrantTable<'static>) -> R) -> R {
        act(&mut self.doms[*dom].table.borrow_mut())
    }

    fn ended(&self, dom: usize) {
        self.ended.borrow_mut().push(dom);
    }
}

/// One copy, for domain `me`, as a list of its own.
fn copy(w: &World, op: &GnttabCopy, me: DomId) -> Result<(), Failure> {
    let mut copies = Copies::new(me, w.frames, w);
    let done = copies.copy(op, &mut w.work());
    copies.end(&mut w.work());
    done
}

impl Dom {
    fn new(frames: &'static FrameTable, id: DomId) -> Dom {
        let mut work = Work::new(frames, u32::MAX);
        let new = || frames.populate(id, 0, Limit::Any).unwrap();
        let tree: [Mfn; 4] = core::array::from_fn(|_| new());
        for pair in tree.windows(2) {
            let page = frames.get_writable(pair[0], id, &mut work).unwrap();
            page.page().store_u64(0, pte::entry(pair[1], TABLE));
            page.release(&mut work);
        }
        let data = (0..DATA).map(|_| new()).collect();
        let root = frames.get_root(tree[0], &Rights::plain(id), &mut work).unwrap();
        Dom {
            id,
            root: Some(root),
            l1: tree[3],
            data,
            table: RefCell::new(GrantTable::new(frames, id, 2, 2).unwrap()),
            track: RefCell::new(Maptrack::new(1)),
        }
    }
}

const HOST: u32 = GNTMAP_HOST_MAP;
const RO: u32 = GNTMAP_READONLY;
const MARKS: u16 = GTF_READING | GTF_WRITING;

fn status<T>(status: i16) -> Result<T, Failure> {
    Err(Failure::Status(status))
}

#[test]
fn a_frame_is_mapped_and_unmapped_again() {
    let w = World::new(2);
    w.grant(0, 8, 1, 0, 0);
    let m = w.map(1, 0, 8, 5, HOST).unwrap();
    let mfn = w.doms[0].data[0];
    assert_eq!(m.dev_bus_addr, mfn.0 << 12);
    assert_eq!(pte::mfn(w.slot(1, 5)), mfn);
    assert!(w.slot(1, 5) & pte::RW != 0);
    assert_eq!(w.entry_flags(0, 8), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    assert_eq!(w.doms[1].track.borrow_mut().granter(m.handle), Ok(DomId(1)));
    assert_eq!(w.unmap_host(1, m.handle, 5), Ok(()));
    assert_eq!((w.slot(1, 5), w.entry_flags(0, 8)), (0, GTF_PERMIT_ACCESS));
    assert_eq!(w.unmap_host(1, m.handle, 5), status(GNTST_BAD_HANDLE));
    assert_eq!(w.unmap_host(1, u32::MAX, 5), status(GNTST_BAD_HANDLE));
    w.end();
}

#[test]
fn a_read_only_mapping_stays_that() {
    let w = World::new(2);
    w.grant(0, 1, 1, 0, GTF_READONLY);
    assert_eq!(w.map(1, 0, 1, 5, HOST), status(GNTST_GENERAL_ERROR));
    assert_eq!(w.entry_flags(0, 1), GTF_PERMIT_ACCESS | GTF_READONLY, "no mark is left");
    let m = w.map(1, 0, 1, 5, HOST | RO).unwrap();
    assert_eq!(w.slot(1, 5) & pte::RW, 0);
    assert!(!w.update(1, 5, w.slot(1, 5) | pte::RW), "the guest can't make it writable");
    assert_eq!(w.map(1, 0, 1, 6, HOST), status(GNTST_GENERAL_ERROR));
    assert_eq!(w.unmap_host(1, m.handle, 5), Ok(()));
    w.end();
}

#[test]
fn what_grants_nothing_maps_nothing() {
    let w = World::new(3);
    let mfn = w.doms[0].data[0];
    let to = w.doms[1].id;
    for flags in
        [0, GTF_ACCEPT_TRANSFER, GTF_TRANSITIVE, GTF_PERMIT_ACCESS | GTF_SUB_PAGE, GTF_READING | GTF_WRITING]
    {
        w.write_entry(0, 3, flags, to, mfn);
        assert_eq!(w.map(1, 0, 3, 0, HOST), status(GNTST_GENERAL_ERROR), "{flags:#x}");
        assert_eq!(w.entry_flags(0, 3), flags);
    }
    w.write_entry(0, 3, GTF_PERMIT_ACCESS, DomId(9), mfn);
    assert_eq!(w.map(1, 0, 3, 0, HOST), status(GNTST_GENERAL_ERROR));
    w.write_entry(0, 3, GTF_PERMIT_ACCESS, to, mfn);
    assert_eq!(w.map(1, 0, 512, 0, HOST), status(GNTST_BAD_GNTREF));
    assert_eq!(w.map(1, 0, u32::MAX, 0, HOST), status(GNTST_BAD_GNTREF));
    assert_eq!(w.map(1, 0, 3, 0, RO), status(GNTST_BAD_GNTREF), "neither for host nor device");
    for foreign in [w.doms[2].data[0], Mfn(0), Mfn(100), Mfn(5000), Mfn(0xffff_ffff)] {
        w.write_entry(0, 3, GTF_PERMIT_ACCESS, to, foreign);
        assert_eq!(w.map(1, 0, 3, 0, HOST), status(GNTST_BAD_PAGE), "{foreign:?}");
        assert_eq!(w.entry_flags(0, 3), GTF_PERMIT_ACCESS);
    }
    w.write_entry(0, 3, GTF_PERMIT_ACCESS, to, mfn);
    for address in [0x20_0000, 1 << 40, 0xffff_8000_0000_0000, 0xffff_ffff_ffff_f000, 1 << 47] {
        let op = Map { gref: GrantRef(3), flags: HOST, host_addr: address };
        assert_eq!(w.map_op(1, 0, &op), status(GNTST_GENERAL_ERROR), "{address:#x}");
    }
    assert_eq!(w.entry_flags(0, 3), GTF_PERMIT_ACCESS);
    assert_eq!((w.doms[1].track.borrow().used(), w.doms[0].table.borrow().pinned()), (0, 0));
    w.end();
}

#[test]
fn an_entry_of_a_page_table_is_named_by_its_machine_address() {
    let w = World::new(2);
    w.grant(0, 1, 1, 0, 0);
    let at = |index: u64| (w.doms[1].l1.0 << 12) + index * 8;
    let flags = HOST | GNTMAP_CONTAINS_PTE;
    for wrong in [at(3) + 4, w.doms[1].data[0].0 << 12, w.doms[0].l1.0 << 12, u64::MAX] {
        let op = Map { gref: GrantRef(1), flags, host_addr: wrong };
        assert_eq!(w.map_op(1, 0, &op), status(GNTST_GENERAL_ERROR));
    }
    let m = w.map_op(1, 0, &Map { gref: GrantRef(1), flags, host_addr: at(3) }).unwrap();
    assert_eq!(pte::mfn(w.slot(1, 3)), w.doms[0].data[0]);
    let op = Unmap { handle: m.handle, host_addr: at(4), ..Unmap::default() };
    assert_eq!(w.unmap(1, &op), status(GNTST_GENERAL_ERROR));
    assert_eq!(w.replace(1, &Unmap { host_addr: at(3), ..op }, 4096), status(GNTST_GENERAL_ERROR));
    assert_eq!(w.unmap(1, &Unmap { host_addr: at(3), ..op }), Ok(()));
    w.end();
}

#[test]
fn an_unmap_puts_another_mapping_in_its_place() {
    let w = World::new(2);
    w.grant(0, 1, 1, 0, 0);
    let own = pte::entry(w.doms[1].data[0], pte::PRESENT | pte::USER | pte::RW);
    assert!(w.update(1, 9, own));
    let m = w.map(1, 0, 1, 2, HOST).unwrap();
    let op = Unmap { handle: m.handle, host_addr: 2 * 4096, ..Unmap::default() };
    assert_eq!(w.replace(1, &op, 1 << 30), status(GNTST_GENERAL_ERROR), "no table is there");
    assert_eq!(w.replace(1, &op, 9 * 4096), Ok(()));
    assert_eq!((w.slot(1, 2), w.slot(1, 9)), (own, 0));
    assert_eq!(w.entry_flags(0, 1), GTF_PERMIT_ACCESS);
    w.end();
}

#[test]
fn a_table_grows_to_its_limit() {
    let w = World::new(1);
    {
        let mut table = w.doms[0].table.borrow_mut();
        assert_eq!((table.frame_count(), table.max_frames(), table.entries()), (1, 2, 512));
        assert_eq!(table.grow(3), Err(GNTST_GENERAL_ERROR));
        assert_eq!(table.grow(0), Ok(()));
        assert_eq!(table.grow(2), Ok(()));
        assert_eq!((table.frame_count(), table.entries()), (2, 1024));
        assert!(table.frame(1).is_some() && table.frame(2).is_none());
    }
    w.write_entry(0, 1023, GTF_PERMIT_ACCESS, DomId(1), w.doms[0].data[1]);
    let m = w.map(0, 0, 1023, 0, HOST).unwrap();
    assert_eq!(w.unmap_host(0, m.handle, 0), Ok(()), "to oneself as well");
    w.end();
}

#[test]
fn entries_are_swapped_when_nobody_uses_them() {
    let w = World::new(2);
    w.grant(0, 1, 1, 0, 0);
    w.grant(0, 2, 1, 1, GTF_READONLY);
    let swap = |a, b| w.doms[0].table.borrow_mut().swap(GrantRef(a), GrantRef(b));
    assert_eq!(swap(1, 2), Ok(()));
    assert_eq!(w.entry_flags(0, 1), GTF_PERMIT_ACCESS | GTF_READONLY);
    let m = w.map(1, 0, 1, 0, HOST | RO).unwrap();
    assert_eq!(m.dev_bus_addr >> 12, w.doms[0].data[1].0);
    assert_eq!(swap(2, 1), Err(GNTST_EAGAIN));
    assert_eq!(swap(1, 512), Err(GNTST_BAD_GNTREF));
    assert_eq!(swap(2, 2), Ok(()));
    assert_eq!(w.unmap_host(1, m.handle, 0), Ok(()));
    w.end();
}

fn side(domid: DomId, by_ref: Option<u32>, mfn: Mfn, offset: u16) -> GnttabCopyPtr {
    match by_ref {
        Some(gref) => GnttabCopyPtr::by_ref(domid, GrantRef(gref), offset),
        None => GnttabCopyPtr::by_frame(domid, shared_abi::Gfn(mfn.0), offset),
    }
}

fn fill(w: &World, dom: usize, data: usize, byte: u8) {
    let mut work = w.work();
    let page = w.frames.get_writable(w.doms[dom].data[data], w.doms[dom].id, &mut work).unwrap();
    page.page().write(0, &[byte; 4096]);
    page.release(&mut work);
}

fn bytes(w: &World, dom: usize, data: usize) -> Vec<u8> {
    let mut all = std::vec![0; 4096];
    w.frames.get(w.doms[dom].data[data], w.doms[dom].id).unwrap().view().read(0, &mut all);
    all
}

#[test]
fn bytes_are_copied_to_and_from_a_granted_frame() {
    let w = World::new(2);
    fill(&w, 0, 0, 0xaa);
    fill(&w, 1, 0, 0x55);
    w.grant(0, 4, 1, 0, GTF_READONLY);
    w.grant(0, 5, 1, 1, 0);
    let (theirs, mine) = (w.doms[0].data[0], w.doms[1].data[0]);
    let mut op = GnttabCopy {
        source: side(DomId(1), Some(4), theirs, 10),
        dest: side(DomId::SELF, None, mine, 4000),
        len: 96,
        flags: GNTCOPY_SOURCE_GREF,
        ..GnttabCopy::default()
    };
    let go = |op: &GnttabCopy| copy(&w, op, DomId(2));
    assert_eq!(go(&op), Ok(()));
    let got = bytes(&w, 1, 0);
    assert!(got[..4000].iter().all(|b| *b == 0x55) && got[4000..].iter().all(|b| *b == 0xaa));
    op.len = 97;
    assert_eq!(go(&op), status(GNTST_BAD_COPY_ARG));

    // The other way round needs a grant that may be written.
    let back = GnttabCopy { source: op.dest, dest: op.source, len: 96, flags: GNTCOPY_DEST_GREF, ..op };
    assert_eq!(go(&back), status(GNTST_GENERAL_ERROR));
    let back = GnttabCopy { dest: side(DomId(1), Some(5), theirs, 0), ..back };
    assert_eq!(go(&back), Ok(()));
    assert!(bytes(&w, 0, 1)[..96].iter().all(|b| *b == 0xaa));
    for gref in [4, 5] {
        assert_eq!(w.entry_flags(0, gref) & (GTF_READING | GTF_WRITING), 0);
    }
    // By number only one's own; by reference only what exists.
    let op = GnttabCopy { len: 8, source: side(DomId(1), None, theirs, 0), flags: 0, ..op };
    assert_eq!(go(&op), status(GNTST_PERMISSION_DENIED));
    assert_eq!(go(&GnttabCopy { source: side(DomId::SELF, None, theirs, 0), ..op }), status(GNTST_BAD_PAGE));
    let op = GnttabCopy { flags: GNTCOPY_SOURCE_GREF, ..op };
    assert_eq!(
        go(&GnttabCopy { source: side(DomId(1), Some(600), theirs, 0), ..op }),
        status(GNTST_BAD_GNTREF)
    );
    assert_eq!(
        go(&GnttabCopy { source: side(DomId(9), Some(4), theirs, 0), ..op }),
        status(GNTST_BAD_DOMAIN)
    );
    // A page table is no destination, nor is what one can't write the source's loss.
    let into_table = GnttabCopy {
        source: side(DomId(1), Some(4), theirs, 0),
        dest: side(DomId::SELF, None, w.doms[1].l1, 0),
        ..op
    };
    assert_eq!(go(&into_table), status(GNTST_GENERAL_ERROR));
    let into_theirs = GnttabCopy { dest: side(DomId::SELF, None, theirs, 0), ..into_table };
    assert_eq!(go(&into_theirs), status(GNTST_BAD_PAGE));
    assert_eq!(w.doms[0].table.borrow().pinned(), 0);
    w.end();
}
