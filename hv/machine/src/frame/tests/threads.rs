//! Several CPUs at once on the same few frames, for real: whatever the order, the counts add up.

use super::audit::audit;
use super::*;

/// A generator that needs no state but a word.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[test]
fn cpus_in_parallel_leave_the_counts_right() {
    for round in 0..6u64 {
        let table = machine(64);
        table.populate(D1, 0, Limit::Any).unwrap();
        table.relinquish(D1, &mut work(&table)).unwrap();
        let free = table.free_frames();
        let frames: [Mfn; 8] = populate(&table, D1);
        std::thread::scope(|scope| {
            for cpu in 0..4u64 {
                let (table, frames) = (&table, &frames);
                scope.spawn(move || {
                    let mut seed = 0x9e37_79b9_7f4a_7c15 ^ (round << 8 | cpu);
                    let rights = Rights::plain(D1);
                    let mut work = Work::new(table, 0);
                    let mut roots = Vec::new();
                    for _ in 0..3000 {
                        work.refill(700);
                        if table.settle(&mut work).is_err() {
                            continue;
                        }
                        let random = next(&mut seed);
                        let frame = frames[random as usize % 8];
                        let target = frames[(random >> 8) as usize % 8];
                        let index = [0, 200, 511][(random >> 16) as usize % 3];
                        let flags = [TABLE, RO, RW, 0][(random >> 20) as usize % 4];
                        let value = pte::entry(target, flags);
                        match (random >> 24) % 7 {
                            0 | 1 => {
                                let _ = table.pin(frame, (random >> 32) as u32 % 4 + 1, &rights, &mut work);
                            }
                            2 => {
                                let _ = table.unpin(frame, D1, &mut work);
                            }
                            3 => {
                                if let Ok(root) = table.get_root(frame, &rights, &mut work) {
                                    roots.push(root);
                                }
                            }
                            4 => {
                                if let Some(root) = roots.pop() {
                                    root.release(&mut work);
                                }
                            }
                            _ => {
                                let _ = table.mmu_update(
                                    frame,
                                    index * 8,
                                    value,
                                    Store::Set,
                                    &rights,
                                    &mut None,
                                    &mut work,
                                );
                            }
                        }
                    }
                });
            }
        });
        audit(&table, &[]);
        table.relinquish(D1, &mut work(&table)).unwrap();
        audit(&table, &[]);
        assert_eq!((table.owned(D1), table.free_frames()), (0, free));
    }
}
