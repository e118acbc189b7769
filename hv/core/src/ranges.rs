//! Sets of numbers in few pieces: ports, frames and interrupts that a domain may use.

use alloc::vec::Vec;
use core::ops::Range;
use shared_abi::errno::Errno;

/// A set of numbers as sorted, disjoint ranges that don't touch.
#[derive(Default, Debug)]
pub struct Ranges(Vec<Range<u64>>);

/// Ranges that a set may consist of.
const MOST: usize = 256;

impl Ranges {
    /// Whether all of `r` is in the set.
    pub fn contains(&self, r: Range<u64>) -> bool {
        r.start >= r.end || self.0.iter().any(|x| x.start <= r.start && r.end <= x.end)
    }

    /// Makes room for one more piece, which is the most that a change adds.
    fn make_room(&mut self) -> Result<(), Errno> {
        if self.0.len() >= MOST {
            return Err(Errno::ENOMEM);
        }
        self.0.try_reserve(1).map_err(|_| Errno::ENOMEM)
    }

    /// Adds a range.
    ///
    /// # Errors
    /// `ENOMEM`, or when the set would be in too many pieces: nothing is added then.
    pub fn add(&mut self, r: Range<u64>) -> Result<(), Errno> {
        if r.start >= r.end {
            return Ok(());
        }
        self.make_room()?;
        let mut merged = r;
        self.0.retain(|x| {
            let touches = x.start <= merged.end && merged.start <= x.end;
            if touches {
                merged = merged.start.min(x.start)..merged.end.max(x.end);
            }
            !touches
        });
        let at = self.0.partition_point(|x| x.start < merged.start);
        self.0.insert(at, merged);
        Ok(())
    }

    /// Takes a range out.
    ///
    /// # Errors
    /// As [`Ranges::add`]: nothing is taken out then.
    pub fn remove(&mut self, r: Range<u64>) -> Result<(), Errno> {
        if r.start >= r.end {
            return Ok(());
        }
        self.make_room()?;
        // At most one range has a part on either side of what goes.
        if let Some(i) = self.0.iter().position(|x| x.start < r.start && r.end < x.end) {
            let behind = r.end..self.0[i].end;
            self.0[i].end = r.start;
            self.0.insert(i + 1, behind);
            return Ok(());
        }
        self.0.retain_mut(|x| {
            if r.start <= x.start && x.start < r.end {
                x.start = r.end.min(x.end);
            } else if x.start < r.start && r.start < x.end {
                x.end = r.start;
            }
            x.start < x.end
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(ops in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..16), 0..60)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (add, start, len) in ops {
                let r = start..start + len;
                if add {
                    ranges.add(r.clone()).unwrap();
                    set.extend(r);
                } else {
                    ranges.remove(r.clone()).unwrap();
                    r.for_each(|n| { set.remove(&n); });
                }
                for a in 0..80 {
                    for n in 1..4 {
                        prop_assert_eq!(ranges.contains(a..a + n), (a..a + n).all(|x| set.contains(&x)));
                    }
                }
            }
        }
    }
}
