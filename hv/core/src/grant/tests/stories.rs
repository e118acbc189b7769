//! Mistakes that were published about other grant tables, replayed on this one.
//!
//! Of Xen's advisories on grants and their neighbours:
//!
//! | XSA | was | here |
//! | --- | --- | --- |
//! | 218 | unmaps of one handle's two parts raced | the handle's record is locked for all of an unmap; the flush comes before the use ends (`map`) |
//! | 224, 228, 230, 234 | | tests below |
//! | 236 | a frame's reference was dropped between two looks at a use's count | both are under the granting domain's lock; `three_domains_agree_with_the_model` |
//! | 294 | switching tables kept translations of a mapping that was gone | every load of a root is a whole flush, counted by the clock |
//! | 316, 318 | a failed map reported success, an interrupted copy an error | each request has its own status; the list goes on where it stopped |
//! | 380 | a domain's end went through all handles in one go | `release_next` looks at 256 at a time |
//! | 226, 255, 379, 382, 384, 387 | grants passed on in circles, status frames that are mapped or were never there, switching | tests in `version_2` |
//! | 268 | version 2 on Arm | not of this kind |
//! | 231, 235, 256, 288 | NUMA hints, a lock on Arm, interrupt routing, IOMMU mappings | not of this kind, or there are none |

use super::*;

/// XSA-224: a mapping made for the processor and for devices lost both references when only one
/// part was unmapped, so the frame was freed while still mapped.
#[test]
fn each_part_of_a_mapping_counts() {
    let w = World::new(2);
    w.grant(0, 1, 1, 0, 0);
    let m = w.map(1, 0, 1, 0, HOST | GNTMAP_DEVICE_MAP).unwrap();
    let marked = GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING;
    let op = Unmap { handle: m.handle, host_addr: 0x1000, dev_bus_addr: m.dev_bus_addr + 4096 };
    assert_eq!(w.unmap(1, &op), status(GNTST_GENERAL_ERROR), "the wrong machine address: nothing is done");
    assert_eq!(w.unmap(1, &Unmap { handle: m.handle, ..Unmap::default() }), Ok(()), "asked for nothing");
    // Slot 0 is virtual address 0, which means "not this part"; map it where it can be named.
    assert_eq!(
        w.unmap(1, &Unmap { handle: m.handle, dev_bus_addr: m.dev_bus_addr, ..op }),
        status(GNTST_GENERAL_ERROR)
    );
    let only_device = Unmap { handle: m.handle, dev_bus_addr: m.dev_bus_addr, ..Unmap::default() };
    assert_eq!(w.unmap(1, &only_device), Ok(()));
    assert_eq!(w.entry_flags(0, 1), marked, "still mapped for the processor");
    assert_eq!(w.unmap(1, &only_device), Ok(()), "that part is gone: nothing is done");
    assert_eq!(w.entry_flags(0, 1), marked);
    w.end();
}

#[test]
fn a_device_mapping_keeps_a_frame_from_becoming_a_page_table() {
    let w = World::new(2);
    w.grant(0, 1, 1, 0, 0);
    let m = w.map(1, 0, 1, 0, GNTMAP_DEVICE_MAP).unwrap();
    let (mfn, rights) = (w.doms[0].data[0], Rights::plain(w.doms[0].id));
    assert!(w.frames.pin(mfn, 1, &rights, &mut w.work()).is_err());
    let op = Unmap { handle: m.handle, dev_bus_addr: m.dev_bus_addr, ..Unmap::default() };
    assert_eq!(w.unmap(1, &op), Ok(()));
    assert!(w.frames.pin(mfn, 1, &rights, &mut w.work()).is_ok());
    assert_eq!(w.map(1, 0, 1, 0, GNTMAP_DEVICE_MAP), status(GNTST_GENERAL_ERROR));
    assert_eq!(w.map(1, 0, 1, 1, HOST), status(GNTST_GENERAL_ERROR), "a page table can't be written");
    let m = w.map(1, 0, 1, 1, HOST | RO).unwrap();
    assert_eq!(w.unmap_host(1, m.handle, 1), Ok(()));
    w.end();
}

/// XSA-228: two CPUs took the same handle from the list of free ones. Here the list can't be
/// touched without the record's lock; what is left to show is that the list keeps each handle
/// once, also when the limit is reached.
#[test]
fn handles_are_given_once_and_end() {
    let w = World::new(2);
    w.grant(0, 1, 1, 0, GTF_READONLY);
    let mut handles: Vec<u32> =
        (0..256).map(|slot| w.map(1, 0, 1, slot + 1, HOST | RO).unwrap().handle).collect();
    assert_eq!(w.map(1, 0, 1, 300, HOST | RO), status(GNTST_NO_SPACE));
    assert_eq!(w.slot(1, 300), 0);
    for n in [3, 200, 77] {
        assert_eq!(w.unmap_host(1, handles[n], n + 1), Ok(()));
    }
    for n in [3, 200, 77] {
        handles[n] = w.map(1, 0, 1, n + 1, HOST | RO).unwrap().handle;
    }
    assert_eq!(w.map(1, 0, 1, 300, HOST | RO), status(GNTST_NO_SPACE));
    handles.sort();
    handles.dedup();
    assert_eq!(handles.len(), 256);
    w.end();
}

/// XSA-234: an unmap believed the address it was given. A read-only mapping's handle with the
/// address of a writable one gave back the wrong kind of reference.
#[test]
fn an_unmap_looks_at_the_entry_it_removes() {
    let w = World::new(2);
    w.grant(0, 1, 1, 0, 0);
    w.grant(0, 2, 1, 1, 0);
    let ro = w.map(1, 0, 1, 1, HOST | RO).unwrap();
    let rw = w.map(1, 0, 1, 2, HOST).unwrap();
    let other = w.map(1, 0, 2, 3, HOST).unwrap();
    for (handle, slot) in [(ro.handle, 2), (rw.handle, 1), (rw.handle, 3), (other.handle, 2), (ro.handle, 9)]
    {
        assert_eq!(w.unmap_host(1, handle, slot), status(GNTST_GENERAL_ERROR));
    }
    for (mapped, slot) in [(rw, 2), (ro, 1), (other, 3)] {
        assert_eq!(w.unmap_host(1, mapped.handle, slot), Ok(()));
    }
    w.end();
}

/// A guest overwrites the page-table entry of a mapping instead of unmapping it. The frame's
/// reference goes with the entry, but the grant stays in use until the guest is gone, and the
/// frame stays the granting domain's.
#[test]
fn a_mapping_overwritten_stays_in_use_until_its_domain_goes() {
    let mut w = World::new(2);
    w.grant(0, 1, 1, 0, 0);
    let m = w.map(1, 0, 1, 1, HOST).unwrap();
    assert!(w.update(1, 1, 0));
    assert_eq!(w.unmap_host(1, m.handle, 1), status(GNTST_GENERAL_ERROR));
    assert_eq!(w.entry_flags(0, 1), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    // The granting domain gives the frame up; nobody else gets it while the use lasts.
    let (mfn, free) = (w.doms[0].data[0], w.frames.free_frames());
    w.frames.disown(mfn, w.doms[0].id, &mut w.work()).unwrap();
    assert_eq!(w.frames.free_frames(), free);
    w.destroy(1);
    assert_eq!(w.entry_flags(0, 1), GTF_PERMIT_ACCESS);
    assert_eq!(w.doms[0].table.borrow().pinned(), 0);
    w.end();
}

/// The entry is rewritten while it is in use, for another domain and another frame: uses that
/// have begun go on with what was granted, and the newcomer gets nothing until they end.
#[test]
fn an_entry_rewritten_in_use_deceives_nobody() {
    let w = World::new(3);
    w.grant(0, 1, 1, 0, 0);
    let first = w.map(1, 0, 1, 1, HOST).unwrap();
    w.grant(0, 1, 2, 1, 0);
    let second = w.map(1, 0, 1, 2, HOST).unwrap();
    assert_eq!(second.dev_bus_addr, first.dev_bus_addr, "not the frame of the new entry");
    assert_eq!(w.map(2, 0, 1, 1, HOST), status(GNTST_GENERAL_ERROR));
    assert_eq!(w.unmap_host(1, first.handle, 1), Ok(()));
    assert_eq!(w.unmap_host(1, second.handle, 2), Ok(()));
    let third = w.map(2, 0, 1, 1, HOST).unwrap();
    assert_eq!(third.dev_bus_addr >> 12, w.doms[0].data[1].0);
    assert_eq!(w.unmap_host(2, third.handle, 1), Ok(()));
    w.end();
}

/// A mark must not make the entry of somebody else's choice look granted: a read-only use first,
/// then a writing one after the granting domain withdrew the right to write.
#[test]
fn the_right_to_write_is_looked_up_when_it_is_first_used() {
    let w = World::new(2);
    w.grant(0, 1, 1, 0, 0);
    let m = w.map(1, 0, 1, 1, HOST | RO).unwrap();
    w.grant(0, 1, 1, 0, GTF_READONLY | GTF_READING);
    assert_eq!(w.map(1, 0, 1, 2, HOST), status(GNTST_GENERAL_ERROR));
    assert_eq!(w.unmap_host(1, m.handle, 1), Ok(()));
    w.end();
}

/// A domain is destroyed while others have its frames mapped: the frames stay until the last
/// mapping goes, and the table answers for them until then.
#[test]
fn a_granting_domain_dies_before_its_mapper() {
    let mut w = World::new(2);
    w.grant(0, 1, 1, 0, 0);
    w.grant(0, 2, 1, 1, 0);
    let m = w.map(1, 0, 1, 1, HOST).unwrap();
    w.destroy(0);
    assert_eq!(w.map(1, 0, 2, 2, HOST), status(GNTST_GENERAL_ERROR), "no new use of the dead");
    assert_eq!(w.doms[0].table.borrow().pinned(), 1);
    assert!(w.frames.owned(w.doms[0].id) > 0);
    assert_eq!(w.unmap_host(1, m.handle, 1), Ok(()));
    assert_eq!(w.doms[0].table.borrow().pinned(), 0);
    w.end();
}

/// A domain was destroyed by another CPU while a copy from one of its frames went on. Destruction found
/// the entry in use and left the rest to whoever ended the last use; but only unmaps looked whether
/// the granting domain was waiting for that, so after a copy it stayed for ever, a domain without memory.
#[test]
fn the_end_of_a_copy_is_told_to_a_granting_domain_that_waits() {
    let mut w = World::new(2);
    w.grant(0, 1, 1, 0, 0);
    let op = GnttabCopy {
        source: side(DomId(1), Some(1), Mfn(0), 0),
        dest: side(DomId::SELF, None, w.doms[1].data[0], 0),
        len: 64,
        flags: GNTCOPY_SOURCE_GREF,
        ..GnttabCopy::default()
    };
    let mut copies = Copies::new(DomId(2), w.frames, &w);
    assert_eq!(copies.copy(&op, &mut w.work()), Ok(()));
    w.doms[0].table.borrow_mut().set_dying();
    assert_eq!(copies.copy(&op, &mut w.work()), Ok(()), "of the same list: its use had begun");
    let other = GnttabCopy { source: side(DomId(1), Some(2), Mfn(0), 0), ..op };
    assert_eq!(copies.copy(&other, &mut w.work()), status(GNTST_GENERAL_ERROR));
    copies.end(&mut w.work());
    assert_eq!(w.doms[0].table.borrow().pinned(), 0);
    assert_eq!(w.ended.take(), [0]);
    w.destroy(0);
    w.end();
}

/// XSA-230: an entry's marks went while a copy still used it. Here a frame that several requests of a list
/// name is claimed once: its marks stay until the list names another or ends, and go then, whichever
/// requests failed.
#[test]
fn a_side_that_several_requests_name_is_claimed_once_and_ended_once() {
    let w = World::new(2);
    w.grant(0, 1, 1, 0, 0);
    w.grant(0, 2, 1, 1, 0);
    let marks = |gref| w.entry_flags(0, gref) & (GTF_READING | GTF_WRITING);
    let copy_of = |source, dest, len| GnttabCopy {
        source: side(DomId(1), Some(source), Mfn(0), 0),
        dest: side(DomId(1), Some(dest), Mfn(0), 0),
        len,
        flags: GNTCOPY_SOURCE_GREF | GNTCOPY_DEST_GREF,
        ..GnttabCopy::default()
    };
    let mut copies = Copies::new(DomId(2), w.frames, &w);
    let mut go = |op| copies.copy(&op, &mut w.work());
    assert_eq!(go(copy_of(1, 2, 4096)), Ok(()));
    assert_eq!((marks(1), marks(2)), (GTF_READING, GTF_READING | GTF_WRITING));
    assert_eq!(go(copy_of(1, 2, 4097)), status(GNTST_BAD_COPY_ARG));
    assert_eq!(go(copy_of(1, 1, 4)), Ok(()), "from and to the same frame");
    assert_eq!((marks(1), marks(2)), (GTF_READING | GTF_WRITING, 0));
    assert_eq!(go(copy_of(2, 600, 4)), status(GNTST_BAD_GNTREF));
    assert_eq!((marks(1), marks(2)), (0, GTF_READING));
    // The same number, but not a reference: one's own frames by number only.
    assert_eq!(go(GnttabCopy { flags: 0, ..copy_of(2, 1, 4) }), status(GNTST_PERMISSION_DENIED));
    assert_eq!(go(copy_of(2, 1, 4)), Ok(()));
    copies.end(&mut w.work());
    assert_eq!((marks(1), marks(2)), (0, 0));
    assert_eq!(w.doms[0].table.borrow().pinned(), 0);
    w.end();
}

/// XSA-230: the mark of writing was cleared with the first use that ended, and with it the granting domain's only
/// sign that others went on.
#[test]
fn a_mark_stays_until_the_last_use_of_its_kind_ends() {
    let w = World::new(2);
    w.grant(0, 1, 1, 0, 0);
    let marks = || w.entry_flags(0, 1) & (GTF_READING | GTF_WRITING);
    let writers = [1, 2].map(|slot| w.map(1, 0, 1, slot, HOST).unwrap().handle);
    let reader = w.map(1, 0, 1, 3, HOST | RO).unwrap().handle;
    assert_eq!(w.unmap_host(1, writers[0], 1), Ok(()));
    assert_eq!(marks(), GTF_READING | GTF_WRITING);
    assert_eq!(w.unmap_host(1, writers[1], 2), Ok(()));
    assert_eq!(marks(), GTF_READING);
    assert_eq!(w.unmap_host(1, reader, 3), Ok(()));
    assert_eq!(marks(), 0);
    w.end();
}
