//! Which of the domain's page frames are free: a bitmap over pfns.
//!
//! The library OS lives in as little as 8 MiB, so the allocator costs one bit per frame and has no
//! rounding to powers of two. Searching a bitmap is slow only when it is nearly full; a hint
//! keeps the common single frame at a few instructions.

use crate::local::Local;

/// A set of free frames.
pub struct FrameSet {
    /// Bit `pfn % 64` of word `pfn / 64` is set when that frame is free.
    words: &'static mut [u64],
    free: usize,
    /// No word below this index has a free frame.
    hint: usize,
}

impl FrameSet {
    /// An empty set able to hold the pfns below `words.len() * 64`.
    pub fn new(words: &'static mut [u64]) -> Self {
        words.fill(0);
        FrameSet { words, free: 0, hint: 0 }
    }

    /// How many frames are free.
    pub fn free(&self) -> usize {
        self.free
    }

    /// The first pfn that the set cannot hold.
    pub fn limit(&self) -> usize {
        self.words.len() * 64
    }

    /// Adds `count` frames from `first` on. Panics if one of them is already free.
    pub fn release(&mut self, first: usize, count: usize) {
        for (index, bits) in words(first, count) {
            let twice = self.words[index] & bits;
            assert!(twice == 0, "frame {:#x} freed twice", index * 64 + twice.trailing_zeros() as usize);
            self.words[index] |= bits;
        }
        self.free += count;
        self.hint = self.hint.min(first / 64);
    }

    /// The first frame from `first` on, and below `end`, that is not free.
    fn first_used(&self, first: usize, end: usize) -> Option<usize> {
        let mut pfn = first;
        while pfn < end {
            let used = !self.words[pfn / 64] >> (pfn % 64);
            if used != 0 {
                return Some(pfn + used.trailing_zeros() as usize).filter(|&pfn| pfn < end);
            }
            pfn = (pfn / 64 + 1) * 64;
        }
        None
    }

    /// Takes `count` consecutive frames, the first a multiple of `align` (a power of two).
    pub fn take(&mut self, count: usize, align: usize) -> Option<usize> {
        if count == 0 || count > self.free {
            return None;
        }
        while self.words.get(self.hint) == Some(&0) {
            self.hint += 1;
        }
        let mut first = (self.hint * 64).next_multiple_of(align);
        while first + count <= self.limit() {
            // A frame at a time would make the walk as long as the domain has frames in use.
            let free = self.words[first / 64] >> (first % 64);
            if free & 1 == 0 {
                let used = if free == 0 { 64 - first % 64 } else { free.trailing_zeros() as usize };
                first = (first + used).next_multiple_of(align);
                continue;
            }
            match self.first_used(first, first + count) {
                None => {
                    words(first, count).for_each(|(index, bits)| self.words[index] &= !bits);
                    self.free -= count;
                    return Some(first);
                }
                Some(used) => first = (used + 1).next_multiple_of(align),
            }
        }
        None
    }
}

/// The words that `count` frames from `first` on have bits in, each with those bits.
fn words(first: usize, count: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = first + count;
    let indices = first / 64..if count == 0 { 0 } else { end.div_ceil(64) };
    indices.map(move |index| {
        let (from, to) = (first.max(index * 64), end.min(index * 64 + 64));
        (index, u64::MAX >> (64 - (to - from)) << (from % 64))
    })
}

/// The domain's free frames. Empty until boot has filled it.
pub(crate) static FRAMES: Local<FrameSet> = Local::new(|| FrameSet::new(&mut []));

/// How many frames are free now, mapped or not yet.
pub fn free_frames() -> usize {
    FRAMES.with(|f| f.free()) + crate::reserve::frames()
}

/// Takes `count` consecutive frames, aligned to `align` frames, mapping more of the domain's
/// memory where needed.
pub(crate) fn take(count: usize, align: usize) -> Option<usize> {
    loop {
        if let Some(first) = FRAMES.with(|f| f.take(count, align)) {
            return Some(first);
        }
        if !crate::reserve::map_more() {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against a set of pfns: what is taken was free, aligned and consecutive; nothing is
        /// refused that the set could have given.
        #[test]
        fn behaves_like_a_set(ops in prop::collection::vec((1usize..80, 0u32..3, any::<bool>()), 1..200)) {
            let mut frames = FrameSet::new(Box::leak(vec![0; 4].into_boxed_slice()));
            frames.release(3, 200);
            let mut model: BTreeSet<usize> = (3..203).collect();
            let mut held: Vec<(usize, usize)> = Vec::new();
            for (count, align, free) in ops {
                let align = 1 << align;
                if free && !held.is_empty() {
                    let (first, count) = held.swap_remove(count % held.len());
                    frames.release(first, count);
                    model.extend(first..first + count);
                    continue;
                }
                let possible = (0..256usize).step_by(align)
                    .any(|first| (first..first + count).all(|pfn| model.contains(&pfn)));
                match frames.take(count, align) {
                    Some(first) => {
                        prop_assert_eq!(first % align, 0);
                        for pfn in first..first + count {
                            prop_assert!(model.remove(&pfn));
                        }
                        held.push((first, count));
                    }
                    None => prop_assert!(!possible),
                }
                prop_assert_eq!(frames.free(), model.len());
            }
        }
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn a_double_free_is_caught() {
        let mut frames = FrameSet::new(Box::leak(vec![0; 1].into_boxed_slice()));
        frames.release(1, 2);
        frames.release(2, 1);
    }
}
