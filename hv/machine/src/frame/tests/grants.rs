//! Granted frames, shared frames, exchanged frames, descriptors.

use super::audit::audit;
use super::*;
use shared_abi::errno::Errno;

const EINVAL: Stop = Stop::Refused(Errno::EINVAL);

fn mapper(table: &FrameTable) -> (Mfn, Mfn) {
    let tables = tree(table, D1);
    pin(table, tables[0], 4).unwrap();
    let [theirs] = populate(table, D2);
    (tables[3], theirs)
}

#[test]
fn a_grant_is_mapped_and_unmapped() {
    let table = machine(64);
    let (l1, theirs) = mapper(&table);
    let mut work = work(&table);
    let rights = Rights::plain(D1);
    let tab = table.get_table(l1, D1).unwrap();
    let writable = table.get_writable(theirs, D2, &mut work).unwrap();
    // Flags that the guest may not choose don't get in.
    let wish = pte::AVAIL0 | pte::GLOBAL | pte::PCD | pte::PSE | 0xf000;
    assert_eq!(table.map_grant(&tab, 4, wish, writable, &mut work), Ok(0));
    assert_eq!(peek(&table, l1, 4), pte::entry(theirs, RW | pte::AVAIL0));
    let held = table.get(theirs, D2).unwrap();
    table.map_grant(&tab, 5, 0, held, &mut work).unwrap();
    audit(&table, &[(l1, true)]);
    let word = table.word(theirs).unwrap();
    assert_eq!((word.types(), word.refs()), (1, 3));

    let mut unmap = |index, frame, write, new| {
        if new == 0 {
            return table.unmap_grant(&tab, index, frame, write, &mut work);
        }
        table.replace_grant(&tab, index, frame, write, new, &rights, &mut work)
    };
    assert_eq!(unmap(4, theirs, false, 0), Err(EINVAL), "mapped writable");
    assert_eq!(unmap(5, theirs, true, 0), Err(EINVAL), "mapped read-only");
    assert_eq!(unmap(4, l1, true, 0), Err(EINVAL), "another frame");
    assert_eq!(unmap(6, theirs, true, 0), Err(EINVAL), "nothing there");
    assert_eq!(unmap(512, theirs, true, 0), Err(EINVAL));
    // The replacement would keep the frame mapped while the granter believes it is not.
    assert_eq!(unmap(4, theirs, true, pte::entry(theirs, RO)), Err(EINVAL));
    let due = unmap(4, theirs, true, 0).unwrap();
    assert_eq!(unmap(5, theirs, false, 0), Ok(due));
    assert_eq!(unmap(4, theirs, true, 0), Err(EINVAL), "twice");
    assert!(table.clock().stale_cpus(table.clock().now()).count() > 0);
    table.flush(due);
    let word = table.word(theirs).unwrap();
    assert_eq!((word.types(), word.refs()), (0, 1));
    tab.release(&mut work);
    audit(&table, &[]);
}

/// As on Xen: a guest that overwrites a grant's entry by `mmu_update`, or lets the table go, has given the
/// reference back that way; the grant table's unmap then finds nothing and must not give it back again.
#[test]
fn a_grants_entry_that_is_overwritten_counts_once() {
    let table = machine(64);
    let (l1, theirs) = mapper(&table);
    let [own] = populate(&table, D1);
    let mut work = work(&table);
    for index in [0, 1] {
        let tab = table.get_table(l1, D1).unwrap();
        let frame = table.get_writable(theirs, D2, &mut work).unwrap();
        table.map_grant(&tab, index, 0, frame, &mut work).unwrap();
        tab.release(&mut work);
    }
    assert_eq!(update(&table, l1, 0, pte::entry(own, RW)).unwrap(), pte::entry(theirs, RW));
    let tab = table.get_table(l1, D1).unwrap();
    assert_eq!(table.unmap_grant(&tab, 0, theirs, true, &mut work), Err(EINVAL));
    tab.release(&mut work);
    assert_eq!(table.word(theirs).unwrap().types(), 1);
    // It can't be copied to another entry either.
    assert_eq!(update(&table, l1, 2, pte::entry(theirs, RO)), Err(Stop::Refused(Errno::EBUSY)));
    // The domain ends with the other one still mapped.
    table.relinquish(D1, &mut work).unwrap();
    assert_eq!((table.owned(D1), table.word(theirs).unwrap().refs()), (0, 1));
    audit(&table, &[]);
}

#[test]
fn a_shared_frame_can_be_mapped_but_never_becomes_a_table() {
    let table = machine(64);
    let (l1, _) = mapper(&table);
    let (free, owned) = (table.free_frames(), table.owned(D1));
    let mut work = work(&table);
    let info = table.share(table.alloc(0, Limit::Any).unwrap(), D1, Type::Writable);
    let fixed = table.share(table.alloc(0, Limit::Any).unwrap(), D1, Type::ReadOnly);
    let handles = [(info.mfn(), true), (fixed.mfn(), true)];
    update(&table, l1, 0, pte::entry(info.mfn(), RW)).unwrap();
    update(&table, l1, 1, pte::entry(fixed.mfn(), RO)).unwrap();
    assert_eq!(update(&table, l1, 2, pte::entry(fixed.mfn(), RW)), Err(Stop::Refused(Errno::EBUSY)));
    for mfn in [info.mfn(), fixed.mfn()] {
        assert!(pin(&table, mfn, 1).is_err() && table.disown(mfn, D1, &mut work).is_err());
        assert!(table.steal(mfn, D1).is_err());
        assert!(table.get_descriptors(mfn, D1, &mut work).is_err());
    }
    audit(&table, &handles);
    info.page().store_u64(0, 7);
    let (one, two) = (info.mfn(), fixed.mfn());
    drop(info);
    drop(fixed);
    assert_eq!(table.free_frames(), free - 2, "still mapped");
    assert_eq!(table.owned(D1), owned + 2, "and so its number is not free");
    audit(&table, &[]);
    for index in [0, 1] {
        update(&table, l1, index, 0).unwrap();
    }
    assert_eq!((table.free_frames(), table.owned(D1)), (free, owned));
    let again: Vec<_> = (0..free).map(|_| table.alloc(0, Limit::Any).unwrap()).collect();
    for block in again.iter().filter(|block| [one, two].contains(&block.mfn())) {
        assert_eq!(block.page(0).load_u64(0), 0, "cleared");
    }
}

#[test]
fn only_a_frame_in_no_use_can_be_exchanged() {
    let table = machine(64);
    let (l1, theirs) = mapper(&table);
    let [frame] = populate(&table, D1);
    let (free, owned) = (table.free_frames(), table.owned(D1));
    update(&table, l1, 0, pte::entry(frame, RO)).unwrap();
    let busy = Some(Stop::Refused(Errno::EBUSY));
    assert_eq!(table.steal(frame, D1).err(), busy);
    assert_eq!(table.steal(l1, D1).err(), busy);
    assert_eq!(table.steal(theirs, D1).err(), Some(Stop::Refused(Errno::EPERM)));
    update(&table, l1, 0, 0).unwrap();
    table.m2p_set(frame, 77);
    let stolen = table.steal(frame, D1).unwrap();
    assert_eq!((table.owned(D1), table.get(frame, D1).is_err()), (owned - 1, true));
    stolen.restore();
    assert_eq!((table.owned(D1), table.m2p_get(frame)), (owned, 77));
    drop(table.steal(frame, D1).unwrap());
    assert_eq!((table.owned(D1), table.free_frames()), (owned - 1, free + 1));
    assert_eq!(table.m2p_get(frame), INVALID_M2P_ENTRY);
    audit(&table, &[]);
}

/// A GDT with a call gate into ring 0, or a TSS of the guest's making, would run guest code there.
#[test]
fn descriptors_are_checked_before_use_and_kept() {
    let table = machine(64);
    let [gdt] = populate(&table, D1);
    let mut work = work(&table);
    let code = 0x00af_9b00_0000_ffff;
    let gate = 0x0000_8c00_e008_0000;
    poke(&table, gdt, 3, code);
    poke(&table, gdt, 4, gate);
    assert_eq!(table.get_descriptors(gdt, D1, &mut work).err(), Some(EINVAL));
    assert_eq!((peek(&table, gdt, 3), table.word(gdt).unwrap().refs()), (code, 1), "as it was");
    poke(&table, gdt, 4, 0);
    let held = table.get_descriptors(gdt, D1, &mut work).unwrap();
    assert_eq!(peek(&table, gdt, 3), code | 3 << 45);
    let busy = Some(Stop::Refused(Errno::EBUSY));
    assert_eq!(table.get_writable(gdt, D1, &mut work).err(), busy);
    assert_eq!(pin(&table, gdt, 1).err(), Some(EINVAL));
    table.update_descriptor(gdt, 40, code, D1, &mut work).unwrap();
    assert_eq!(peek(&table, gdt, 5), code | 3 << 45);
    for (offset, value) in [(40, gate), (4096, code), (41, code)] {
        assert_eq!(table.update_descriptor(gdt, offset, value, D1, &mut work), Err(EINVAL));
    }
    audit(&table, &[(gdt, true)]);
    held.release(&mut work);
    // Data again, and then what was put there is checked again.
    table.get_writable(gdt, D1, &mut work).unwrap().release(&mut work);
    poke(&table, gdt, 4, gate);
    assert_eq!(table.get_descriptors(gdt, D1, &mut work).err(), Some(EINVAL));
    audit(&table, &[]);
}

#[test]
fn a_compare_and_exchange_happens_only_on_the_expected_entry() {
    let table = machine(64);
    let (l1, _) = mapper(&table);
    let [one, two] = populate(&table, D1);
    let (one, two) = (pte::entry(one, RW), pte::entry(two, RW));
    let mut work = work(&table);
    let tab = table.get_table(l1, D1).unwrap();
    let mut swap =
        |old, new| table.update_entry(&tab, 3, new, Store::IfIs(old), &Rights::plain(D1), &mut work).unwrap();
    assert_eq!(swap(0, one), 0);
    assert_eq!(swap(0, two), one);
    assert_eq!(peek(&table, l1, 3), one);
    assert_eq!(swap(one, two), one);
    assert_eq!(peek(&table, l1, 3), two);
    assert_eq!(swap(two, two & !pte::RW), two);
    tab.release(&mut work);
    audit(&table, &[]);
}

#[test]
fn accessed_and_dirty_bits_are_kept_when_asked() {
    let table = machine(64);
    let (l1, _) = mapper(&table);
    let [one, two] = populate(&table, D1);
    let mut work = work(&table);
    let seen = pte::ACCESSED | pte::DIRTY;
    for (store, kept) in [(Store::PreserveAd, seen), (Store::Set, 0)] {
        for (first, then) in [(one, one), (one, two)] {
            for (before, after) in [(RW, RO), (RO, RW), (RW, RW)] {
                update(&table, l1, 0, pte::entry(first, before | seen)).unwrap();
                let tab = table.get_table(l1, D1).unwrap();
                let new = pte::entry(then, after);
                table.update_entry(&tab, 0, new, store, &Rights::plain(D1), &mut work).unwrap();
                tab.release(&mut work);
                assert_eq!(peek(&table, l1, 0), new | kept);
                audit(&table, &[]);
            }
        }
    }
}
