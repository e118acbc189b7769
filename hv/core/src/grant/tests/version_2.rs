//! Tables of version 2: parts of frames, grants passed on, and changing the version.
//!
//! | XSA | was | here |
//! | --- | --- | --- |
//! | 226 | grants passed on in a circle had no end | once only, `a_grant_is_passed_on_once` |
//! | 255, 379, 387 | status frames were freed while a guest had them mapped | `a_version_with_mapped_status_frames_stays`; what is mapped is not freed, whoever forgets to ask |
//! | 382 | more status frames were told of than there are | `status_frames_are_told_of_that_there_are` |
//! | 230 | a passed-on grant's marks went while a copy used it | `both_domains_see_a_use_of_what_is_passed_on` |

use shared_abi::errno::Errno;

use super::*;

impl World {
    fn set_version(&self, dom: usize, version: u32) -> Result<(), Errno> {
        self.doms[dom].table.borrow_mut().set_version(version)
    }

    /// What the guest writes into an entry of version 2: the first word's upper half, and the second word.
    pub fn write_v2(&self, dom: usize, gref: u32, flags: u16, to: DomId, middle: u32, body: u64) {
        let mut work = self.work();
        let frame = self.doms[dom].table.borrow().frame(gref / 256).unwrap();
        let page = self.frames.get_writable(frame, self.doms[dom].id, &mut work).unwrap();
        let at = (gref % 256) as usize * 16;
        page.page().store_u64(at + 8, body);
        page.page().store_u64(at, u64::from(flags) | u64::from(to.0) << 16 | u64::from(middle) << 32);
        page.release(&mut work);
    }

    fn grant_v2(&self, dom: usize, gref: u32, to: usize, data: usize, flags: u16) {
        let (to, mfn) = (self.doms[to].id, self.doms[dom].data[data]);
        self.write_v2(dom, gref, GTF_PERMIT_ACCESS | flags, to, 0, mfn.0);
    }

    fn part(&self, dom: usize, gref: u32, to: usize, start: u32, len: u32) {
        let (to, mfn) = (self.doms[to].id, self.doms[dom].data[0]);
        self.write_v2(dom, gref, GTF_PERMIT_ACCESS | GTF_SUB_PAGE, to, start | len << 16, mfn.0);
    }

    fn pass_on(&self, dom: usize, gref: u32, to: usize, from: DomId, their: u32) {
        self.write_v2(dom, gref, GTF_TRANSITIVE, self.doms[to].id, from.0.into(), their.into());
    }

    pub fn marks(&self, dom: usize, gref: u32) -> u16 {
        let frame = self.doms[dom].table.borrow().status_frame(gref / 2048).unwrap();
        let page = self.frames.get(frame, self.doms[dom].id).unwrap();
        page.view().load_u16((gref % 2048) as usize * 2)
    }

    /// Copies from entry `gref` of `from`'s to `me`'s own data.
    fn copy_from(&self, me: usize, from: usize, gref: u32, offset: u16, len: u16) -> Result<(), Failure> {
        let op = GnttabCopy {
            source: side(self.doms[from].id, Some(gref), Mfn(0), offset),
            dest: side(DomId::SELF, None, self.doms[me].data[2], 0),
            len,
            flags: GNTCOPY_SOURCE_GREF,
            ..GnttabCopy::default()
        };
        copy(self, &op, self.doms[me].id)
    }

    fn copy_to(&self, me: usize, to: usize, gref: u32, offset: u16, len: u16) -> Result<(), Failure> {
        let op = GnttabCopy {
            source: side(DomId::SELF, None, self.doms[me].data[2], 0),
            dest: side(self.doms[to].id, Some(gref), Mfn(0), offset),
            len,
            flags: GNTCOPY_DEST_GREF,
            ..GnttabCopy::default()
        };
        copy(self, &op, self.doms[me].id)
    }
}

const REFUSED: Result<(), Failure> = Err(Failure::Status(GNTST_GENERAL_ERROR));

#[test]
fn a_frame_is_mapped_and_its_status_tells() {
    let w = World::new(2);
    assert_eq!(w.set_version(0, 2), Ok(()));
    assert_eq!(w.doms[0].table.borrow().entries(), 256);
    w.grant_v2(0, 8, 1, 0, 0);
    let m = w.map(1, 0, 8, 5, HOST).unwrap();
    assert_eq!(pte::mfn(w.slot(1, 5)), w.doms[0].data[0]);
    assert_eq!(w.marks(0, 8), MARKS);
    let reader = w.map(1, 0, 8, 6, HOST | RO).unwrap();
    assert_eq!(w.unmap_host(1, m.handle, 5), Ok(()));
    assert_eq!(w.marks(0, 8), GTF_READING);
    assert_eq!(w.unmap_host(1, reader.handle, 6), Ok(()));
    assert_eq!(w.marks(0, 8), 0);
    assert_eq!(w.map(1, 0, 256, 5, HOST), status(GNTST_BAD_GNTREF));
    w.grant_v2(0, 9, 1, 1, GTF_READONLY);
    assert_eq!(w.map(1, 0, 9, 5, HOST), status(GNTST_GENERAL_ERROR));
    assert_eq!(w.marks(0, 9), 0);
    for body in [1 << 32 | w.doms[0].data[0].0, u64::MAX, 5000] {
        w.write_v2(0, 9, GTF_PERMIT_ACCESS, DomId(2), 0, body);
        assert_eq!(w.map(1, 0, 9, 5, HOST), status(GNTST_BAD_PAGE));
        assert_eq!(w.marks(0, 9), 0);
    }
    w.end();
}

#[test]
fn a_part_is_copied_within_its_bounds_and_never_mapped() {
    let w = World::new(2);
    assert_eq!(w.set_version(0, 2), Ok(()));
    w.part(0, 1, 1, 100, 50);
    for (offset, len, expected) in [
        (100, 50, Ok(())),
        (149, 1, Ok(())),
        (150, 0, Ok(())),
        (99, 1, REFUSED),
        (100, 51, REFUSED),
        (151, 0, REFUSED),
        (0, 4096, REFUSED),
        (4000, 97, status(GNTST_BAD_COPY_ARG)),
    ] {
        assert_eq!(w.copy_from(1, 0, 1, offset, len), expected, "{len} at {offset}");
        assert_eq!(w.copy_to(1, 0, 1, offset, len), expected, "{len} at {offset}");
        assert_eq!(w.marks(0, 1), 0);
    }
    // A part that says it is longer than a page ends with the page.
    w.part(0, 1, 1, 4000, 0xffff);
    assert_eq!(w.copy_from(1, 0, 1, 4000, 96), Ok(()));
    assert_eq!(w.copy_from(1, 0, 1, 4000, 97), status(GNTST_BAD_COPY_ARG));
    assert_eq!(w.copy_from(1, 0, 1, 3999, 1), REFUSED);
    for flags in [HOST, HOST | RO, GNTMAP_DEVICE_MAP] {
        assert_eq!(w.map(1, 0, 1, 5, flags), status(GNTST_GENERAL_ERROR));
    }
    assert_eq!((w.marks(0, 1), w.doms[0].table.borrow().pinned()), (0, 0));
    w.end();
}

/// An entry that is in use as a whole frame says now that it is a part: uses go by what was granted. The other way
/// round as well: what is in use as a part can't be mapped, whatever the entry says.
#[test]
fn a_use_goes_by_what_was_granted() {
    let w = World::new(2);
    assert_eq!(w.set_version(0, 2), Ok(()));
    w.grant_v2(0, 1, 1, 0, 0);
    let m = w.map(1, 0, 1, 5, HOST).unwrap();
    w.part(0, 1, 1, 100, 50);
    assert_eq!(w.copy_from(1, 0, 1, 0, 4096), Ok(()));
    w.pass_on(0, 1, 1, DomId(1), 3);
    assert_eq!(w.copy_to(1, 0, 1, 0, 4096), Ok(()));
    assert_eq!(w.unmap_host(1, m.handle, 5), Ok(()));
    assert_eq!(w.copy_from(1, 0, 1, 0, 4096), REFUSED);
    assert_eq!(w.marks(0, 1), 0);
    w.end();
}

/// Domain 0 grants to 1, 1 passes it on to 2.
fn passed_on(flags: u16) -> World {
    let w = World::new(4);
    for dom in 0..2 {
        assert_eq!(w.set_version(dom, 2), Ok(()));
    }
    w.grant_v2(0, 1, 1, 0, flags);
    w.pass_on(1, 7, 2, w.doms[0].id, 1);
    w
}

#[test]
fn both_domains_see_a_use_of_what_is_passed_on() {
    let w = passed_on(0);
    let page = |dom: usize, n: usize| w.frames.get(w.doms[dom].data[n], w.doms[dom].id).unwrap().view();
    let mut work = w.work();
    let theirs = w.frames.get_writable(w.doms[0].data[0], w.doms[0].id, &mut work).unwrap();
    theirs.page().store_u64(64, 0x1234_5678);
    theirs.release(&mut work);
    assert_eq!(w.copy_from(2, 1, 7, 64, 8), Ok(()));
    assert_eq!(page(2, 2).load_u64(0), 0x1234_5678);
    assert_eq!(w.copy_to(2, 1, 7, 80, 8), Ok(()));
    assert_eq!(page(0, 0).load_u64(80), 0x1234_5678);
    assert_eq!((w.marks(0, 1), w.marks(1, 7)), (0, 0));
    // While it is in use both entries are marked; the first domain knows of nobody but the second.
    let using = |by| Use { by, write: true, want: Want::Any };
    w.doms[0].table.borrow_mut().pin(GrantRef(1), using(DomId(2))).map(|_| ()).unwrap();
    let through = (DomId(1), GrantRef(1));
    w.doms[1].table.borrow_mut().pin_through(GrantRef(7), using(DomId(3)), through, None).unwrap();
    assert_eq!((w.marks(0, 1), w.marks(1, 7)), (MARKS, MARKS));
    assert_eq!(w.copy_from(2, 1, 7, 64, 8), Ok(()), "another use of both");
    assert_eq!((w.marks(0, 1), w.marks(1, 7)), (MARKS, MARKS));
    assert_eq!(w.copy_from(3, 1, 7, 64, 8), REFUSED, "it was passed on to another");
    assert_eq!(w.map(2, 1, 7, 5, HOST), status(GNTST_GENERAL_ERROR));
    // What it passes on is looked up once; by then it may say something else.
    let again =
        w.doms[1].table.borrow_mut().pin_through(GrantRef(7), using(DomId(3)), (DomId(1), GrantRef(2)), None);
    assert_eq!(again, REFUSED);
    w.doms[1].table.borrow_mut().unpin(GrantRef(7), true);
    w.doms[0].table.borrow_mut().unpin(GrantRef(1), true);
    assert_eq!((w.marks(0, 1), w.marks(1, 7)), (0, 0));
    w.end();
}

#[test]
fn what_is_passed_on_gives_no_more_than_was_granted() {
    let w = passed_on(GTF_READONLY);
    assert_eq!(w.copy_from(2, 1, 7, 0, 64), Ok(()));
    assert_eq!(w.copy_to(2, 1, 7, 0, 64), REFUSED, "read-only for the domain that passes it on");
    assert_eq!(w.copy_from(3, 1, 7, 0, 64), REFUSED, "not passed on to this one");
    assert_eq!(w.copy_from(2, 0, 1, 0, 64), REFUSED, "nor granted");
    w.part(0, 1, 1, 100, 50);
    assert_eq!(w.copy_from(2, 1, 7, 100, 50), Ok(()));
    assert_eq!(w.copy_from(2, 1, 7, 100, 51), REFUSED);
    assert_eq!(w.map(2, 1, 7, 5, HOST | RO), status(GNTST_GENERAL_ERROR));
    // Withdrawn by the first domain.
    w.write_v2(0, 1, GTF_INVALID, DomId(2), 0, 0);
    assert_eq!(w.copy_from(2, 1, 7, 100, 50), REFUSED);
    // Not a reference that there is.
    w.pass_on(1, 7, 2, w.doms[0].id, 256);
    assert_eq!(w.copy_from(2, 1, 7, 0, 8), status(GNTST_BAD_GNTREF));
    assert_eq!((w.marks(0, 1), w.marks(1, 7)), (0, 0));
    w.end();
}

#[test]
fn a_grant_is_passed_on_once() {
    let w = passed_on(0);
    assert_eq!(w.set_version(2, 2), Ok(()));
    w.pass_on(2, 7, 3, w.doms[1].id, 7);
    assert_eq!(w.copy_from(3, 2, 7, 0, 8), REFUSED, "a chain");
    w.pass_on(0, 1, 1, w.doms[1].id, 7);
    assert_eq!(w.copy_from(2, 1, 7, 0, 8), REFUSED, "a circle");
    for from in [w.doms[1].id, DomId::SELF, DomId(77), DomId::IO, DomId::XEN] {
        w.pass_on(1, 7, 2, from, 7);
        assert_eq!(w.copy_from(2, 1, 7, 0, 8), REFUSED, "{from:?}");
    }
    assert_eq!((w.marks(0, 1), w.marks(1, 7), w.marks(2, 7)), (0, 0, 0));
    w.end();
}

#[test]
fn what_a_dying_domain_granted_is_passed_on_no_more() {
    let mut w = passed_on(0);
    w.doms[0].table.borrow_mut().set_dying();
    assert_eq!(w.copy_from(2, 1, 7, 0, 8), REFUSED);
    assert_eq!((w.marks(0, 1), w.marks(1, 7)), (0, 0));
    w.destroy(0);
    assert_eq!(w.copy_from(2, 1, 7, 0, 8), REFUSED);
    w.doms[1].table.borrow_mut().set_dying();
    assert_eq!(w.copy_from(2, 1, 7, 0, 8), REFUSED);
    assert_eq!(w.set_version(1, 1), Err(Errno::EBUSY), "its end is under way");
    w.end();
}

#[test]
fn a_version_is_changed_while_only_the_first_entries_are_in_use() {
    let w = World::new(2);
    assert_eq!(w.set_version(0, 3), Err(Errno::EINVAL));
    assert_eq!(w.set_version(0, 0), Err(Errno::EINVAL));
    assert_eq!(w.set_version(0, 1), Ok(()));
    w.grant(0, 8, 1, 0, 0);
    w.grant(0, 7, 1, 1, GTF_READONLY);
    let busy = w.map(1, 0, 8, 5, HOST).unwrap();
    let kept = w.map(1, 0, 7, 6, HOST | RO).unwrap();
    assert_eq!(w.set_version(0, 2), Err(Errno::EBUSY));
    assert_eq!(w.entry_flags(0, 8) & MARKS, MARKS, "nothing has changed");
    assert_eq!(w.unmap_host(1, busy.handle, 5), Ok(()));
    assert_eq!(w.set_version(0, 2), Ok(()));
    assert_eq!(w.marks(0, 7), GTF_READING, "its use goes on");
    assert_eq!(w.map(1, 0, 8, 5, HOST), status(GNTST_GENERAL_ERROR), "the others are empty");
    let second = w.map(1, 0, 7, 7, HOST | RO).unwrap();
    assert_eq!(w.set_version(0, 1), Ok(()));
    assert_eq!(w.entry_flags(0, 7), GTF_PERMIT_ACCESS | GTF_READONLY | GTF_READING);
    assert_eq!(w.unmap_host(1, kept.handle, 6), Ok(()));
    assert_eq!(w.unmap_host(1, second.handle, 7), Ok(()));
    assert_eq!(
        w.entry_flags(0, 7),
        GTF_PERMIT_ACCESS | GTF_READONLY,
        "the marks were taken where they are now"
    );
    let m = w.map(1, 0, 7, 6, HOST | RO).unwrap();
    assert_eq!(m.dev_bus_addr >> 12, w.doms[0].data[1].0);
    assert_eq!(w.unmap_host(1, m.handle, 6), Ok(()));
    w.end();
}

/// Found by the model: the guest makes an entry in use say something else, and changes the version. The use went on
/// without its marks.
#[test]
fn a_use_keeps_its_marks_whatever_its_entry_says_by_then() {
    let w = World::new(2);
    assert_eq!(w.set_version(0, 2), Ok(()));
    w.grant_v2(0, 7, 1, 0, 0);
    let mapped = w.map(1, 0, 7, 1, HOST).unwrap();
    w.write_v2(0, 7, GTF_ACCEPT_TRANSFER, w.doms[1].id, 0, 0);
    assert_eq!(w.set_version(0, 1), Ok(()));
    assert_eq!(w.entry_flags(0, 7), GTF_READING | GTF_WRITING);
    w.unmap_host(1, mapped.handle, 1).unwrap();
    assert_eq!(w.entry_flags(0, 7), 0);
    w.end();
}

#[test]
fn what_version_1_cannot_say_keeps_version_2() {
    let w = World::new(2);
    assert_eq!(w.set_version(0, 2), Ok(()));
    w.write_v2(0, 2, GTF_PERMIT_ACCESS, DomId(2), 0, 1 << 32);
    assert_eq!(w.set_version(0, 1), Err(Errno::ERANGE));
    w.pass_on(0, 2, 1, DomId(3), 4);
    assert_eq!(w.set_version(0, 1), Err(Errno::ERANGE));
    assert_eq!(w.doms[0].table.borrow().version(), 2);
    w.write_v2(0, 2, GTF_ACCEPT_TRANSFER, DomId(2), 0, 1 << 32);
    w.write_v2(0, 8, GTF_PERMIT_ACCESS, DomId(2), 0, 1 << 32);
    assert_eq!(w.set_version(0, 1), Ok(()));
    assert_eq!((w.entry_flags(0, 2), w.entry_flags(0, 8)), (0, 0));
    w.end();
}

#[test]
fn a_version_with_mapped_status_frames_stays() {
    let w = World::new(2);
    assert_eq!(w.set_version(0, 2), Ok(()));
    let frame = w.doms[0].table.borrow().status_frame(0).unwrap();
    for flags in [pte::PRESENT | pte::USER | pte::RW, pte::PRESENT | pte::USER] {
        assert!(w.update(0, 3, pte::entry(frame, flags)));
        assert_eq!(w.set_version(0, 1), Err(Errno::EBUSY));
        assert_eq!(w.doms[0].table.borrow().status_frame(0), Some(frame));
    }
    assert!(w.update(0, 3, 0));
    let free = w.frames.free_frames();
    assert_eq!(w.set_version(0, 1), Ok(()));
    assert_eq!(w.frames.free_frames(), free + 1);
    assert!(!w.update(0, 3, pte::entry(frame, pte::PRESENT | pte::USER)), "it is not the domain's any more");
    w.end();
}

#[test]
fn status_frames_are_told_of_that_there_are() {
    let w = World::new(1);
    let table = &w.doms[0].table;
    assert_eq!((table.borrow().status_count(), table.borrow().max_statuses()), (0, 1));
    assert_eq!(table.borrow().status_frame(0), None);
    assert_eq!(w.set_version(0, 2), Ok(()));
    assert!(table.borrow().status_frame(0).is_some() && table.borrow().status_frame(1).is_none());
    assert_eq!(table.borrow_mut().grow_statuses(1), Ok(()));
    assert_eq!(table.borrow_mut().grow_statuses(2), Err(GNTST_GENERAL_ERROR));
    assert_eq!(table.borrow_mut().grow(2), Ok(()));
    assert_eq!((table.borrow().entries(), table.borrow().status_count()), (512, 1));
    w.end();
}

#[test]
fn entries_are_swapped_with_their_status() {
    let w = World::new(2);
    assert_eq!(w.set_version(0, 2), Ok(()));
    w.grant_v2(0, 1, 1, 0, 0);
    w.part(0, 2, 1, 100, 50);
    let swap = |a, b| w.doms[0].table.borrow_mut().swap(GrantRef(a), GrantRef(b));
    assert_eq!(swap(1, 2), Ok(()));
    let m = w.map(1, 0, 2, 5, HOST).unwrap();
    assert_eq!((swap(1, 2), swap(1, 256)), (Err(GNTST_EAGAIN), Err(GNTST_BAD_GNTREF)));
    assert_eq!(w.copy_from(1, 0, 1, 100, 50), Ok(()));
    assert_eq!(w.unmap_host(1, m.handle, 5), Ok(()));
    w.end();
}

#[test]
fn a_table_may_be_kept_at_version_1() {
    let w = World::new(1);
    *w.doms[0].table.borrow_mut() = GrantTable::new(w.frames, DomId(1), 1, 1).unwrap();
    assert_eq!(w.set_version(0, 2), Err(Errno::ENOSYS));
    assert_eq!(w.set_version(0, 1), Ok(()));
    w.end();
}

#[test]
fn a_use_is_found_by_its_frame() {
    let w = World::new(2);
    w.grant(0, 300, 1, 0, 0);
    let m = w.map(1, 0, 300, 5, HOST | RO).unwrap();
    let (mfn, table) = (w.doms[0].data[0], &w.doms[0].table);
    let find = |mfn, dom, from, count| table.borrow_mut().find_use(mfn, DomId(dom), GrantRef(from), count);
    assert_eq!(find(mfn, 2, 0, 4096), Some(Ok(())));
    assert_eq!(find(mfn, 2, 0, 256), Some(Err(GrantRef(256))));
    assert_eq!(find(mfn, 2, 256, 256), Some(Ok(())));
    assert_eq!(find(mfn, 3, 0, 4096), None);
    assert_eq!(find(w.doms[0].data[1], 2, 0, 4096), None);
    assert_eq!(find(mfn, 2, u32::MAX, u32::MAX), None);
    assert_eq!(w.unmap_host(1, m.handle, 5), Ok(()));
    w.end();
}
