//! What went wrong in Xen's version of this, replayed. Each test opens with the story.

use super::audit::audit;
use super::*;
use shared_abi::errno::Errno;

const EINVAL: Stop = Stop::Refused(Errno::EINVAL);
const EBUSY: Stop = Stop::Refused(Errno::EBUSY);
const EPERM: Stop = Stop::Refused(Errno::EPERM);

/// A pinned tree and a data frame that its L1 maps writable in entry 0.
fn pinned(table: &FrameTable) -> ([Mfn; 4], Mfn) {
    let tables = tree(table, D1);
    let [data] = populate(table, D1);
    poke(table, tables[3], 0, pte::entry(data, RW));
    pin(table, tables[0], 4).unwrap();
    (tables, data)
}

/// XSA-148: an L2 entry whose frame stayed the same took a fast path that looked at some flags only, so a
/// guest could set PSE on an entry that named its L1: the processor then saw 2 MiB of memory, writable.
#[test]
fn xsa_148_the_fast_path_refuses_a_large_page() {
    let table = machine(64);
    let ([_, l3, l2, l1], _) = pinned(&table);
    for (upper, child) in [(l2, l1), (l3, l2)] {
        for bad in [pte::PSE, pte::GLOBAL, pte::PCD, pte::PWT] {
            assert_eq!(update(&table, upper, 0, pte::entry(child, TABLE | bad)), Err(EINVAL));
        }
        assert_eq!(peek(&table, upper, 0), pte::entry(child, TABLE));
    }
    // Not through validation either.
    let [fresh] = populate(&table, D1);
    poke(&table, fresh, 7, pte::entry(Mfn(0), TABLE | pte::PSE));
    assert_eq!(pin(&table, fresh, 2), Err(EINVAL));
    audit(&table, &[]);
}

/// XSA-182: the fast path of L3 and L4 entries let RW through unchecked, and with a read-only self-mapping
/// in the L4 (a "linear page table") a guest thereby made its own L4 writable. XSA-240: linear page tables
/// of L2 and L3 also nested without bound. Here no table ever maps one of its own or a higher level as a
/// table, so neither has anything to work on.
#[test]
fn xsa_182_and_240_no_table_is_in_itself() {
    let table = machine(64);
    let ([l4, l3, l2, l1], _) = pinned(&table);
    let all = [l4, l3, l2, l1];
    for (at, upper) in [(0, l4), (1, l3), (2, l2)] {
        for (of, other) in all.into_iter().enumerate() {
            for flags in [TABLE, TABLE & !pte::RW] {
                let result = update(&table, upper, 9, pte::entry(other, flags));
                assert_eq!(result.is_ok(), of == at + 1, "L{} entry for L{}", 4 - at, 4 - of);
            }
        }
    }
    // A second L4 can't hold the first as its L3 either, nor can a fresh one hold itself.
    let [other] = populate(&table, D1);
    poke(&table, other, 300, pte::entry(l4, TABLE & !pte::RW));
    assert_eq!(pin(&table, other, 4), Err(EINVAL));
    poke(&table, other, 300, pte::entry(other, TABLE & !pte::RW));
    assert_eq!(pin(&table, other, 4), Err(EINVAL));
    audit(&table, &[]);
}

/// XSA-212 and XSA-29: an index or address that a guest named was not bounded, and reached the
/// hypervisor's part of the address space.
#[test]
fn xsa_212_indices_and_frames_are_bounded() {
    let table = machine(64);
    let ([l4, _, _, l1], data) = pinned(&table);
    let mut work = work(&table);
    let rights = Rights::plain(D1);
    let tab = table.get_table(l1, D1).unwrap();
    for index in [512, 513, usize::MAX] {
        assert_eq!(table.update_entry(&tab, index, 0, Store::Set, &rights, &mut work), Err(EINVAL));
    }
    tab.release(&mut work);
    for offset in [4096, 4104, 1, 12, usize::MAX & !7] {
        let result = table.mmu_update(l1, offset, 0, Store::Set, &rights, &mut None, &mut work);
        assert_eq!(result, Err(EINVAL), "{offset}");
    }
    for mfn in [64, 65, 1 << 32, (1 << 40) - 1, u64::MAX >> 12, u64::MAX] {
        let named = Mfn(mfn);
        assert_eq!(table.mmu_update(named, 0, 0, Store::Set, &rights, &mut None, &mut work), Err(EINVAL));
        assert!(table.get(named, D1).is_err() && table.get_table(named, D1).is_none());
        assert!(table.pin(named, 1, &rights, &mut work).is_err());
        assert!(table.disown(named, D1, &mut work).is_err());
        assert!(table.steal(named, D1).is_err());
        table.m2p_set(named, 1);
        assert_eq!(table.m2p_get(named), INVALID_M2P_ENTRY);
        // All ones is a frame's way to say none.
        let refused = if mfn >= (1 << 40) - 1 { EINVAL } else { EPERM };
        assert_eq!(update(&table, l1, 1, pte::entry(named, RO)), Err(refused), "{mfn:#x}");
    }
    for level in [0, 5, u32::MAX] {
        assert_eq!(table.pin(data, level, &rights, &mut work), Err(EINVAL));
    }
    for slot in FIRST_HV_SLOT..FIRST_HV_SLOT + HV_SLOTS {
        assert_eq!(update(&table, l4, slot, 0), Err(EINVAL));
        // (The M2P is shown to kernels.)
        let shown = if slot == FIRST_HV_SLOT { 0 } else { TEMPLATE[slot - FIRST_HV_SLOT] };
        assert_eq!(peek(&table, l4, slot), shown);
    }
    audit(&table, &[]);
}

/// XSA-287, XSA-299, XSA-310: a table whose check or release was interrupted kept references whose owner
/// was unclear (the parent, the page itself, or the interrupted vcpu); other operations in between counted
/// them twice or not at all. Here a pin is interrupted after every possible amount of work, and then
/// everything that could go wrong in between is done: a child is pinned, updated, taken away, the parent is
/// asked for as another type.
#[test]
fn xsa_287_299_310_anything_may_happen_between_two_steps() {
    for budget in (0..2100).step_by(70) {
        for meddling in 0..6 {
            let table = machine(64);
            table.populate(D1, 0, Limit::Any).unwrap();
            table.relinquish(D1, &mut work(&table)).unwrap();
            let free = table.free_frames();
            let tables = tree(&table, D1);
            let [l4, l3, l2, l1] = tables;
            let [data] = populate(&table, D1);
            poke(&table, l1, 511, pte::entry(data, RW));
            poke(&table, l2, 511, pte::entry(l1, TABLE));
            poke(&table, l3, 511, pte::entry(l2, TABLE));
            let rights = Rights::plain(D1);
            let mut one = Work::new(&table, budget);
            let first = table.pin(l4, 4, &rights, &mut one);
            audit(&table, &[]);
            match meddling {
                0 => drop(pin(&table, l1, 1)),
                1 => drop(pin(&table, l2, 2)),
                2 => drop(table.mmu_update(l1, 8, 0, Store::Set, &rights, &mut None, &mut work(&table))),
                3 => drop(table.disown(l3, D1, &mut work(&table))),
                4 => drop(table.get_writable(l4, D1, &mut work(&table))),
                _ => drop(pin(&table, l4, 3)),
            }
            audit(&table, &[]);
            if first == Err(Stop::Again) {
                one.refill(u32::MAX);
                table.settle(&mut one).unwrap();
                let _ = table.pin(l4, 4, &rights, &mut one);
            }
            audit(&table, &[]);
            // Its release, interrupted in the same places.
            one.refill(budget);
            let _ = table.unpin(l4, D1, &mut one);
            let _ = table.settle(&mut one);
            audit(&table, &[]);
            drop(one);
            table.relinquish(D1, &mut work(&table)).unwrap();
            audit(&table, &[]);
            assert_eq!((table.owned(D1), table.free_frames()), (0, free), "budget {budget}, {meddling}");
        }
    }
}

/// XSA-280 and XSA-401: a frame became a page table, or ceased to be one, while a TLB or a paging-structure
/// cache still knew it as it was before. Every such change must have flushed each CPU that had not flushed
/// since the old use ended, and no other.
#[test]
fn xsa_401_a_frame_changes_its_type_only_after_a_flush() {
    let table = machine(64);
    let [frame] = populate(&table, D1);
    let clock = table.clock();
    let stale = |table: &FrameTable| table.clock().stale_cpus(table.at(frame.0 as u32).stamp_get()).count();
    let mut work = work(&table);
    table.get_writable(frame, D1, &mut work).unwrap().release(&mut work);
    assert_eq!(stale(&table), 2, "both CPUs may have used the mapping");
    clock.end(0, clock.begin());
    assert_eq!(stale(&table), 1);
    // Data again: nothing changes, nothing is flushed.
    table.get_writable(frame, D1, &mut work).unwrap().release(&mut work);
    assert_eq!(stale(&table), 2);
    for (level, before) in [(1, 2), (4, 2), (2, 2)] {
        assert_eq!(stale(&table), before);
        let stamp = table.at(frame.0 as u32).stamp_get();
        pin(&table, frame, level).unwrap();
        assert_eq!(clock.stale_cpus(stamp).count(), 0, "flushed");
        unpin(&table, frame).unwrap();
    }
    assert_eq!(stale(&table), 2);
    table.get_writable(frame, D1, &mut work).unwrap().release(&mut work);
    let ticks = clock.now();
    // Freed and allocated for somebody else: flushed before the first byte changes.
    table.disown(frame, D1, &mut work).unwrap();
    assert_eq!(stale(&table), 2);
    let block = table.alloc(0, Limit::Any).unwrap();
    assert_eq!(block.mfn(), frame);
    assert!(clock.now() > ticks && stale(&table) == 0);
}

/// XSA-45 and XSA-97: the destruction of a domain with deep or shared tables ran for too long. The work
/// between two chances to do something else is what the budget says, whatever the guest built.
#[test]
fn xsa_45_no_step_exceeds_its_budget() {
    let table = machine(64);
    let tables: [Mfn; 4] = populate(&table, D1);
    let [data] = populate(&table, D1);
    // Every entry of every table in use, 2048 in all, over shared children.
    for pair in tables.windows(2) {
        (0..512).for_each(|index| poke(&table, pair[0], index, pte::entry(pair[1], TABLE)));
    }
    (0..512).for_each(|index| poke(&table, tables[3], index, pte::entry(data, RW)));
    let mut little = Work::new(&table, 0);
    let mut steps = 0;
    loop {
        little.refill(64);
        match table.pin(tables[0], 4, &Rights::plain(D1), &mut little) {
            Ok(()) => break,
            Err(stop) => assert_eq!(stop, Stop::Again),
        }
        steps += 1;
    }
    // A step that goes on where another paused looks at the upper tables' current entries again.
    let entries = 4 * 512 - HV_SLOTS;
    assert!((entries / 64..=entries / (64 - 3) + 1).contains(&steps), "{steps}");
    assert_eq!(table.word(data).unwrap().types(), 512);
    assert_eq!(table.word(tables[2]).unwrap().types(), 512);
    audit(&table, &[]);
}

/// XSA-111 and XSA-154's kind: a mapping of device memory was allowed, or its flags taken over, without
/// permission for it; and foreign memory by way of a table's validation.
#[test]
fn only_permitted_device_and_foreign_memory_is_mapped() {
    let table = machine(64);
    let device = Mfn(0x1_0000);
    let ([_, _, _, l1], data) = pinned(&table);
    let [theirs] = populate(&table, D2);
    let [fresh] = populate(&table, D1);
    for flags in [RO, RW] {
        assert_eq!(update(&table, l1, 1, pte::entry(device, flags)), Err(EPERM));
        assert_eq!(update(&table, l1, 1, pte::entry(theirs, flags)), Err(EBUSY));
        poke(&table, fresh, 3, pte::entry(theirs, flags));
        assert_eq!(pin(&table, fresh, 1), Err(EBUSY));
    }
    // With power over the other domain one entry may name its memory, but a table that is checked whole
    // may not.
    let mut work = work(&table);
    let allowed = |mfn: Mfn| match mfn.0 - device.0 {
        0 => Device::Granted,
        2 => Device::ReadOnly,
        _ => Device::Refused,
    };
    let rights = Rights { tables: D1, frames: D2, io: &allowed, memory_types: true };
    assert_eq!(table.pin(fresh, 1, &rights, &mut work), Err(EBUSY));
    table.settle(&mut work).unwrap();
    let tab = table.get_table(l1, D1).unwrap();
    let mut set = |index, value| table.update_entry(&tab, index, value, Store::Set, &rights, &mut work);
    set(1, pte::entry(theirs, RW)).unwrap();
    assert_eq!(set(2, pte::entry(data, RO)), Err(EBUSY), "not its own while it acts for the other");
    set(2, pte::entry(device, RW | pte::PCD)).unwrap();
    assert_eq!(set(3, pte::entry(Mfn(device.0 + 1), RW)), Err(EPERM));
    assert_eq!(peek(&table, l1, 2), pte::entry(device, RW | pte::PCD));
    // A device is never cached as memory is, neither at once nor by a change of flags; and one that may only be
    // looked at is never written.
    set(2, pte::entry(device, RW)).unwrap();
    assert_eq!(peek(&table, l1, 2), pte::entry(device, RW | pte::PCD | pte::PWT));
    set(6, pte::entry(Mfn(device.0 + 2), RO)).unwrap();
    set(6, pte::entry(Mfn(device.0 + 2), RW)).unwrap();
    assert_eq!(peek(&table, l1, 6), pte::entry(Mfn(device.0 + 2), RO | pte::PCD | pte::PWT));
    // RAM is always cached as usual (XSA-402: otherwise stale lines outlive the scrubbing).
    set(4, pte::entry(theirs, RO | pte::PCD | pte::PAT)).unwrap();
    assert_eq!(peek(&table, l1, 4), pte::entry(theirs, RO));
    tab.release(&mut work);
    assert_eq!(update(&table, l1, 5, pte::entry(data, RO | pte::PCD)), Err(EINVAL), "no devices, no types");
    audit(&table, &[]);
    // The other domain goes first: what is mapped stays until it is not.
    table.relinquish(D2, &mut work).unwrap();
    assert_eq!(table.owned(D2), 1);
    update(&table, l1, 1, 0).unwrap();
    update(&table, l1, 4, 0).unwrap();
    assert_eq!(table.owned(D2), 0);
}

/// A mapping of another domain's frame made read-only must not become writable by a change of flags: the
/// entry "already has" its reference, which is what a shortcut would look at.
#[test]
fn a_foreign_read_only_entry_can_not_be_upgraded() {
    let table = machine(64);
    let ([_, _, _, l1], _) = pinned(&table);
    let [theirs] = populate(&table, D2);
    let mut work = work(&table);
    let rights = Rights { frames: D2, ..Rights::plain(D1) };
    table.mmu_update(l1, 8, pte::entry(theirs, RO), Store::Set, &rights, &mut None, &mut work).unwrap();
    assert_eq!(update(&table, l1, 1, pte::entry(theirs, RW)), Err(EBUSY));
    assert_eq!(peek(&table, l1, 1), pte::entry(theirs, RO));
    // Down is allowed, and gives the use back.
    table.mmu_update(l1, 8, pte::entry(theirs, RW), Store::Set, &rights, &mut None, &mut work).unwrap();
    assert_eq!(table.word(theirs).unwrap().types(), 1);
    update(&table, l1, 1, pte::entry(theirs, RO)).unwrap();
    assert_eq!((table.word(theirs).unwrap().types(), table.word(theirs).unwrap().refs()), (0, 2));
    audit(&table, &[]);
}

/// Counts that wrap turn "too many" into "none": XSA-60 and others had guests drive them there. With the
/// count full the next use is refused and nothing else changes.
#[test]
fn a_full_count_refuses() {
    let table = machine(64);
    let ([_, _, _, l1], data) = pinned(&table);
    let mut work = work(&table);
    let entry = table.at(data.0 as u32);
    let before = entry.word();
    let full = Stop::Refused(Errno::EOVERFLOW);
    // As if it were mapped so often.
    let many = Word::MAX_TYPES - before.types() - 1;
    entry.reset(Word(before.0 + many * (Word::TYPE_USE + Word::REF)));
    let last = table.get_writable(data, D1, &mut work).unwrap();
    let word = entry.word();
    assert_eq!((word.types(), word.ty(), word.owner()), (Word::MAX_TYPES, Type::Writable, D1));
    assert_eq!(table.get_writable(data, D1, &mut work).err(), Some(full));
    assert_eq!(update(&table, l1, 1, pte::entry(data, RW)), Err(EBUSY));
    assert_eq!((entry.word(), peek(&table, l1, 1)), (word, 0));
    drop(last);
    entry.reset(Word(before.0 + Word::MAX_REFS - before.refs() - 1));
    let last = table.get(data, D1).unwrap();
    assert_eq!((entry.word().refs(), entry.word().types()), (Word::MAX_REFS, 1));
    let word = entry.word();
    assert_eq!(table.get(data, D1).err(), Some(full));
    assert_eq!(table.get_writable(data, D1, &mut work).err(), Some(full));
    for flags in [RO, RW] {
        assert_eq!(update(&table, l1, 1, pte::entry(data, flags)), Err(EBUSY));
    }
    assert_eq!(entry.word(), word);
    drop(last);
    entry.reset(before);
    audit(&table, &[]);
}

/// A pin on a frame that the domain gave up would keep it after the domain's end, when nobody looks for
/// pins any more; so would a check begun and abandoned.
#[test]
fn a_frame_given_up_can_not_be_pinned() {
    let table = machine(64);
    let ([_, _, _, l1], _) = pinned(&table);
    let [frame] = populate(&table, D1);
    update(&table, l1, 1, pte::entry(frame, RO)).unwrap();
    let mut work = work(&table);
    table.disown(frame, D1, &mut work).unwrap();
    assert_eq!(table.disown(frame, D1, &mut work), Err(EINVAL));
    assert_eq!(pin(&table, frame, 1), Err(EINVAL));
    assert_eq!(table.unpin(frame, D1, &mut work), Err(EINVAL));
    update(&table, l1, 1, 0).unwrap();
    assert_eq!(table.get(frame, D1).err(), Some(EPERM), "free now");
    audit(&table, &[]);
}

/// The type count is the field below the type: one more use of a type that is counted as often as can be would
/// turn a table of level 1 into one of level 2 by carry, if only the new word were looked at.
#[test]
fn a_full_type_count_does_not_run_into_the_type() {
    let table = machine(64);
    let ([_, _, _, l1], _) = pinned(&table);
    let entry = table.at(l1.0 as u32);
    let before = entry.word();
    entry.reset(Word(before.0 + (Word::MAX_TYPES - before.types()) * (Word::TYPE_USE + Word::REF)));
    let word = entry.word();
    for ty in [Type::None, Type::Writable, Type::L1, Type::L2, Type::L3, Type::L4, Type::SegDesc] {
        assert!(!entry.acquire_ready(D1, ty), "{ty:?}");
    }
    assert!(table.get_table(l1, D1).is_none());
    assert_eq!(entry.word(), word);
    entry.reset(before);
}

/// An exchange that could not be carried out gave back the frames it had taken as frames without a type, which
/// says that no TLB holds a writable translation. A guest removed its mapping of a frame without a flush, let an
/// exchange of it fail, pinned it as a page table, and went on writing to it by the translation that was left.
#[test]
fn a_frame_given_back_by_an_exchange_is_flushed_before_it_is_a_table() {
    let table = machine(64);
    let ([_, _, _, l1], data) = pinned(&table);
    update(&table, l1, 0, 0).unwrap();
    let removed = table.clock().now();
    assert_eq!(table.clock().stale_cpus(removed).count(), 2);
    table.steal(data, D1).unwrap().restore();
    assert_eq!(table.clock().stale_cpus(removed).count(), 2);
    pin(&table, data, 1).unwrap();
    assert_eq!(table.clock().stale_cpus(removed).count(), 0);
    audit(&table, &[]);
}

/// Blocks are flushed for the newest of their frames' stamps. Two stamps were compared by their distance, but a frame
/// that nobody touched while the clock went half round looked newer than one freed just now, and old enough
/// for no CPU to be stale: the block went out with translations to the newer frame.
#[test]
fn an_ancient_stamp_does_not_hide_a_new_one() {
    for age in [200, 1 << 20, (1 << 31) - 10, (1 << 31) + 10, (1 << 31) + (1 << 30), u32::MAX - 100] {
        let table = machine(4);
        let blocks: [Block<'_>; 2] = core::array::from_fn(|_| table.alloc(0, Limit::Any).unwrap());
        let both = blocks.each_ref().map(|block| table.at(block.mfn().0 as u32));
        let [ancient, new] = both;
        ancient.stamp_set(table.clock().now());
        table.clock().pass(age - 100);
        for cpu in 0..2 {
            table.clock().end(cpu, table.clock().begin());
        }
        table.clock().pass(100);
        new.stamp_set(table.clock().now());
        let stamp = new.stamp_get();
        let first = blocks[0].mfn().0.min(blocks[1].mfn().0) as u32;
        table.flush_newest(first..first + 2);
        assert_eq!(table.clock().stale_cpus(stamp).count(), 0, "{age:#x}");
    }
}

/// A page table that its owner gave up but has not taken apart, for its vcpu does other things, is in nobody's use
/// before it does. Whoever mapped it by grant asked for it again and again: a guest could stop dom0.
#[test]
fn another_domain_does_not_wait_for_a_table_to_be_taken_apart() {
    let table = machine(64);
    let tables = tree(&table, D1);
    pin(&table, tables[0], 4).unwrap();
    let [theirs] = populate(&table, D2);
    let (mut work, rights) = (work(&table), Rights { frames: D2, ..Rights::plain(D1) });
    let tab = table.get_table(tables[3], D1).unwrap();
    let mut refused = || {
        let got = table.get_writable_by(D1, theirs, D2, &mut work);
        assert_eq!(got.map(|frame| drop(frame)), Err(EBUSY));
        let mapped = table.update_entry(&tab, 4, pte::entry(theirs, RW), Store::Set, &rights, &mut work);
        assert_eq!(mapped, Err(EBUSY));
        assert!(work.is_done());
    };

    let mut of_owner = Work::new(&table, 100);
    let of_d2 = Rights::plain(D2);
    assert_eq!(table.pin(theirs, 1, &of_d2, &mut of_owner), Err(Stop::Again), "half checked");
    refused();
    of_owner.refill(u32::MAX);
    table.pin(theirs, 1, &of_d2, &mut of_owner).unwrap();
    refused();
    table.unpin(theirs, D2, &mut of_owner).unwrap();
    assert!(!of_owner.is_done());
    refused();
    // Its owner waits, and finds it where the vcpu that gave it up has left it.
    let mut another = Work::new(&table, u32::MAX);
    assert_eq!(table.get_writable(theirs, D2, &mut another).map(drop), Err(Stop::Again));
    of_owner.leave();
    assert_eq!(table.get_writable(theirs, D2, &mut another).map(drop), Err(Stop::Again));
    table.settle(&mut another).unwrap();
    drop(table.get_writable(theirs, D2, &mut another).unwrap());
    drop(table.get_writable_by(D1, theirs, D2, &mut another).unwrap());
    tab.release(&mut another);
    audit(&table, &[]);
}
