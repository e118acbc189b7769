//! The page allocator: what is given out is whole, apart, within limits, clean, and comes back.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn frames_of(block: &Block<'_>) -> core::ops::Range<u64> {
    block.mfn().0..block.mfn().0 + (1 << block.order())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random allocations and frees over memory with gaps, against the set of frames that are free.
    #[test]
    fn blocks_are_apart_and_come_back_whole(
        gaps in prop::collection::vec((0u64..300, 1u64..9), 0..4),
        ops in prop::collection::vec((0u32..6, 12u32..22, any::<prop::sample::Index>(), any::<bool>(), 0usize..4), 1..120),
    ) {
        const FRAMES: u64 = 300;
        let table = FrameTable::fake(FRAMES as usize, Box::leak(Box::new(FakeCpus { flushes: 0.into() })));
        let hole = |mfn: u64| gaps.iter().any(|&(from, len)| (from..from + len).contains(&mfn));
        let mut free: BTreeSet<u64> = (0..FRAMES).filter(|&mfn| !hole(mfn)).collect();
        for &(from, len) in &gaps {
            table.add_io(Mfn(from), Mfn(from + len));
        }
        // Told in one piece: the gaps stay out.
        table.add_free(Mfn(0), Mfn(FRAMES + 50), false);
        prop_assert_eq!(table.free_frames(), free.len() as u64);
        let all = free.clone();
        let mut blocks: Vec<Block<'_>> = Vec::new();
        for (order, bits, which, take, scrubs) in ops {
            for _ in 0..scrubs {
                table.scrub();
            }
            if take {
                let limit = if bits == 21 { Limit::Any } else { Limit::AddressBits(bits) };
                let top = if bits == 21 { FRAMES } else { 1 << (bits - 12) };
                match table.alloc(order, limit) {
                    Some(block) => {
                        prop_assert!(block.mfn().0.is_multiple_of(1 << order) && frames_of(&block).end <= top);
                        for mfn in frames_of(&block) {
                            prop_assert!(free.remove(&mfn), "{mfn:#x} was not free");
                            let page = block.page((mfn - block.mfn().0) as u32);
                            prop_assert!((0..512).all(|index| page.load_u64(index * 8) == 0));
                            page.store_u64(8 * (mfn as usize % 512), !0);
                        }
                        blocks.push(block);
                    }
                    // An aligned run of free frames within the limit is never missed.
                    None => {
                        let run = |start: u64| (start..start + (1 << order)).all(|mfn| free.contains(&mfn));
                        let missed = (0..top.min(FRAMES) >> order).map(|n| n << order).find(|&at| {
                            at + (1 << order) <= top && run(at) && (order == 0 || at >= 1 << order)
                        });
                        prop_assert_eq!(missed, None);
                    }
                }
            } else if !blocks.is_empty() {
                let block = blocks.swap_remove(which.index(blocks.len()));
                free.extend(frames_of(&block));
            }
            prop_assert_eq!(table.free_frames(), free.len() as u64);
        }
        blocks.clear();
        prop_assert_eq!(table.free_frames(), all.len() as u64);
    }
}

#[test]
fn ordinary_requests_leave_low_memory_alone() {
    let table = machine(128);
    let high: Vec<_> = (0..64).map(|_| table.alloc(0, Limit::Any).unwrap()).collect();
    assert!(high.iter().all(|block| block.mfn().0 >= 64));
    assert!(table.alloc(4, Limit::AddressBits(12 + 6)).is_some_and(|block| block.mfn().0 < 64));
    assert!(table.alloc(0, Limit::AddressBits(3)).is_some_and(|block| block.mfn() == Mfn(0)));
    assert!(table.alloc(MAX_ORDER + 1, Limit::Any).is_none());
}

#[test]
fn a_frame_of_one_domain_reaches_the_next_without_its_bytes() {
    let table = machine(16);
    let mut work = work(&table);
    for domain in [D1, D2, D1] {
        let mut seen = 0;
        while let Ok(mfn) = table.populate(domain, 0, Limit::Any) {
            let frame = table.get_writable(mfn, domain, &mut work).unwrap();
            assert!((0..4096).step_by(8).all(|offset| frame.page().load_u64(offset) == 0));
            frame.page().write(0, &[0x5a; 4096]);
            frame.release(&mut work);
            seen += 1;
        }
        assert!(seen >= 15);
        table.relinquish(domain, &mut work).unwrap();
    }
}

#[test]
fn kept_and_private_frames_have_no_names() {
    let table = machine(16);
    let mut work = work(&table);
    let block = table.alloc(2, Limit::Any).unwrap();
    for mfn in frames_of(&block).map(Mfn) {
        for domain in [D1, PRIVATE, DomId::XEN, DomId::IO, DomId::INVALID, DomId(0)] {
            assert!(table.get(mfn, domain).is_err());
            assert!(table.get_writable(mfn, domain, &mut work).is_err());
        }
    }
    let gap = FrameTable::fake(4, Box::leak(Box::new(FakeCpus { flushes: 0.into() })));
    gap.show(Mfn(1), Mfn(2));
    gap.add_io(Mfn(2), Mfn(4));
    let mut work = Work::new(&gap, 100);
    assert!(gap.get(Mfn(0), DomId::INVALID).is_err(), "never told of");
    assert!(gap.get(Mfn(1), DomId::XEN).is_ok() && gap.get(Mfn(1), D1).is_err());
    assert!(gap.get_writable(Mfn(1), DomId::XEN, &mut work).is_err());
    assert!(gap.is_io(Mfn(2)) && gap.is_io(Mfn(4)) && !gap.is_io(Mfn(0)));
}

/// Frames that came back with somebody's bytes are cleared, those in use between them are not, and what is
/// free stays as much.
#[test]
fn idle_cpus_clear_what_is_free_and_nothing_else() {
    let table = machine(64);
    let mut blocks: Vec<_> = std::iter::from_fn(|| table.alloc(0, Limit::Any)).collect();
    for block in &blocks {
        block.page(0).write(0, &[0x5a; 4096]);
    }
    assert!(!table.scrub(), "nothing was given back");
    let kept: Vec<_> = blocks.extract_if(.., |block| block.mfn().0 % 3 == 0).collect();
    let given: Vec<_> = blocks.drain(..).map(|block| block.mfn().0 as u32).collect();
    let zero = |mfn: u32| table.ram().view(mfn).is_zero();
    assert!(!given.iter().any(|&mfn| zero(mfn)));
    while table.scrub() {
        assert_eq!(table.free_frames(), given.len() as u64);
    }
    assert!(given.iter().all(|&mfn| zero(mfn)));
    assert!(kept.iter().all(|block| block.page(0).load_u64(0) == 0x5a5a_5a5a_5a5a_5a5a));
    drop(kept);
    while table.scrub() {}
    assert!((0..64).all(zero));
    assert!(table.alloc(5, Limit::Any).is_some(), "cleared frames join to blocks again");
}
