//! A domain's ordinary life.

use super::*;
use shared_abi::errno::Errno;

#[test]
fn a_domain_lives_and_leaves_nothing() {
    let table = machine(64);
    let mut work = work(&table);
    // The list of owners takes a frame once.
    table.populate(D1, 0, Limit::Any).unwrap();
    table.relinquish(D1, &mut work).unwrap();
    let before = table.free_frames();

    let [l4, l3, l2, l1] = tree(&table, D1);
    let [data] = populate(&table, D1);
    poke(&table, l1, 5, pte::entry(data, RW));
    pin(&table, l4, 4).unwrap();
    for (mfn, ty) in [(l4, Type::L4), (l3, Type::L3), (l2, Type::L2), (l1, Type::L1), (data, Type::Writable)]
    {
        let word = table.word(mfn).unwrap();
        assert_eq!((word.ty(), word.types(), word.refs()), (ty, 1, 2), "{mfn}");
    }
    assert_eq!(peek(&table, l4, FIRST_HV_SLOT), 0, "the M2P is not shown yet");
    assert_eq!(peek(&table, l4, FIRST_HV_SLOT + 1), TEMPLATE[1]);

    assert_eq!(update(&table, l1, 6, pte::entry(l1, RW)), Err(Stop::Refused(Errno::EBUSY)));
    update(&table, l1, 6, pte::entry(l1, RO)).unwrap();
    update(&table, l1, 5, 0).unwrap();
    assert_eq!(table.word(data).unwrap().refs(), 1);

    let root = table.get_root(l4, &Rights::plain(D1), &mut work).unwrap();
    assert!(table.find_l1(&root, D1, 5 << 12).is_some_and(|(tab, index)| tab.mfn() == l1 && index == 5));
    assert!(table.find_l1(&root, D1, 1 << 21).is_none());
    assert!(table.find_l1(&root, D1, 0xffff_8000_0000_0000).is_none());
    root.show_m2p(true);
    assert_eq!(peek(&table, l4, FIRST_HV_SLOT), TEMPLATE[0]);
    assert!(table.find_l1(&root, D1, 0xffff_8000_0000_0000).is_none(), "the guest's tables end there");
    root.show_m2p(false);
    assert_eq!(peek(&table, l4, FIRST_HV_SLOT), 0);
    root.show_m2p(true);
    root.release(&mut work);

    unpin(&table, l4).unwrap();
    assert_eq!((peek(&table, l4, FIRST_HV_SLOT), peek(&table, l4, FIRST_HV_SLOT + 1)), (0, 0));
    for mfn in [l4, l3, l2, l1] {
        let word = table.word(mfn).unwrap();
        assert_eq!((word.types(), word.refs()), (0, 1), "{mfn}");
    }
    table.relinquish(D1, &mut work).unwrap();
    assert_eq!((table.owned(D1), table.free_frames()), (0, before));
}

#[test]
fn destruction_takes_pinned_trees_apart_in_bounded_steps() {
    let table = machine(64);
    let [l4, _, _, l1] = tree(&table, D1);
    let before = table.free_frames() + 4;
    poke(&table, l1, 511, pte::entry(l4, RO));
    pin(&table, l4, 4).unwrap();
    let mut steps = 0;
    // A vcpu that stopped in the middle of an unpin.
    let mut vcpu = Work::new(&table, 0);
    table.unpin(l4, D1, &mut vcpu).unwrap();
    assert!(!vcpu.is_done() && table.settle(&mut vcpu) == Err(Stop::Again));
    let mut little = Work::new(&table, 0);
    little.take_over(&mut vcpu);
    assert!(vcpu.is_done());
    loop {
        little.refill(100);
        match table.relinquish(D1, &mut little) {
            Ok(()) => break,
            Err(stop) => assert_eq!(stop, Stop::Again),
        }
        steps += 1;
    }
    assert!((20..30).contains(&steps), "{steps}");
    assert_eq!((table.owned(D1), table.free_frames()), (0, before));
}

/// A list of updates holds one table at a time, and takes it apart only when it has gone on to another.
#[test]
fn a_list_of_updates_holds_the_last_table_alone() {
    let table = machine(64);
    let [l4, l3, l2, l1] = tree(&table, D1);
    let [data] = populate(&table, D1);
    pin(&table, l4, 4).unwrap();
    let (mut work, rights) = (work(&table), Rights::plain(D1));
    let mut held = None;
    let mut set = |held: &mut _, mfn, index: usize, value| {
        table.mmu_update(mfn, index * 8, value, Store::Set, &rights, held, &mut work)
    };
    let uses = |mfn| table.word(mfn).unwrap().types();
    for index in [5, 6] {
        set(&mut held, l1, index, pte::entry(data, RO)).unwrap();
        assert_eq!((uses(l1), uses(l2)), (2, 1));
    }
    // Its own entry above goes while it is not held any more.
    set(&mut held, l2, 0, 0).unwrap();
    assert_eq!((uses(l1), uses(l2)), (0, 2));
    assert_eq!(set(&mut held, data, 1, 7), Ok(()));
    assert!(held.is_none() && peek(&table, data, 1) == 7);
    assert_eq!(set(&mut held, l3, 512, 0), Err(Stop::Refused(Errno::EINVAL)));
    assert_eq!(set(&mut held, l3, 0, pte::entry(data, TABLE)), Err(Stop::Refused(Errno::EINVAL)));
    assert_eq!((uses(l3), held.as_ref().map(Table::mfn)), (2, Some(l3)));
    held.take().unwrap().release(&mut work);
    table.settle(&mut work).unwrap();
    assert_eq!((uses(l3), table.word(data).unwrap().refs()), (1, 1));
}
