//! The data: keys, values and when they end.
//!
//! Keys lie in the order of a hash of theirs. That order is what makes `SCAN` simple and right: its
//! cursor is the hash to go on from, needs no state here, and whatever happens in between, a key
//! that is there all the time is found.

use crate::op::{Op, SET_OVERHEAD};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::cmp::Ordering;
use core::ops::Bound;

/// Bytes that an entry takes besides its key and value: its place in the map and the allocator's
/// rounding.
const ENTRY_OVERHEAD: usize = 96;

/// A value and when it ends, in ms since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Box<[u8]>,
    /// When it ends.
    pub expires: Option<u64>,
}

impl Entry {
    fn is_live(&self, now: u64) -> bool {
        self.expires.is_none_or(|at| now < at)
    }
}

struct Name {
    hash: u64,
    bytes: Box<[u8]>,
}

/// A [`Name`] or a borrowed one, to look up without a copy.
trait Named {
    fn parts(&self) -> (u64, &[u8]);
}

impl Named for Name {
    fn parts(&self) -> (u64, &[u8]) {
        (self.hash, &self.bytes)
    }
}

impl Named for (u64, &[u8]) {
    fn parts(&self) -> (u64, &[u8]) {
        *self
    }
}

impl<'a> Borrow<dyn Named + 'a> for Name {
    fn borrow(&self) -> &(dyn Named + 'a) {
        self
    }
}

impl PartialEq for dyn Named + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}
impl Eq for dyn Named + '_ {}
impl PartialOrd for dyn Named + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for dyn Named + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}
impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}
impl Eq for Name {}
impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

/// FNV-1a with a good last mix; never 0, which is where a `SCAN` begins and ends.
fn hash(key: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for &byte in key {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash ^ hash >> 29).max(1)
}

/// All entries.
#[derive(Default)]
pub struct Store {
    entries: BTreeMap<Name, Entry>,
    /// Memory taken, by estimate.
    memory: usize,
    /// Bytes that the entries would take in the log.
    logged: usize,
    /// Entries that end some time.
    volatile: usize,
}

impl Store {
    /// The entry of `key`, if it has not ended.
    pub fn get(&self, key: &[u8], now: u64) -> Option<&Entry> {
        self.entries.get(&(hash(key), key) as &dyn Named).filter(|entry| entry.is_live(now))
    }

    /// Makes a change.
    pub fn apply(&mut self, op: &Op<'_>) {
        match op {
            Op::Set { key, value, expires } => {
                self.remove(key);
                self.memory += key.len() + value.len() + ENTRY_OVERHEAD;
                self.logged += key.len() + value.len() + SET_OVERHEAD;
                self.volatile += usize::from(expires.is_some());
                let name = Name { hash: hash(key), bytes: (*key).into() };
                self.entries.insert(name, Entry { value: (*value).into(), expires: *expires });
            }
            Op::Delete { key } => self.remove(key),
            Op::Clear => *self = Store::default(),
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.remove(&(hash(key), key) as &dyn Named) {
            self.memory -= key.len() + entry.value.len() + ENTRY_OVERHEAD;
            self.logged -= key.len() + entry.value.len() + SET_OVERHEAD;
            self.volatile -= usize::from(entry.expires.is_some());
        }
    }

    /// Number of entries, with those that have ended and are not removed yet.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of entries that end some time.
    pub fn volatile(&self) -> usize {
        self.volatile
    }

    /// Bytes of memory taken, by estimate.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Bytes that the entries take in the log.
    pub fn logged(&self) -> usize {
        self.logged
    }

    /// Every entry that has not ended.
    pub fn live(&self, now: u64) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.entries
            .iter()
            .filter(move |(_, entry)| entry.is_live(now))
            .map(|(name, entry)| (&*name.bytes, entry))
    }

    /// Shows `each` at least `count` entries from a cursor on, all those with one hash together.
    /// The next cursor; 0 at the end.
    pub fn scan(&self, cursor: u64, count: usize, now: u64, mut each: impl FnMut(&[u8])) -> u64 {
        let mut last = 0;
        let from: (u64, &[u8]) = (cursor, &[]);
        let range = (Bound::Included(&from as &dyn Named), Bound::Unbounded);
        for (seen, (name, entry)) in self.entries.range::<dyn Named, _>(range).enumerate() {
            if seen >= count && name.hash != last {
                return name.hash;
            }
            last = name.hash;
            if entry.is_live(now) {
                each(&name.bytes);
            }
        }
        0
    }

    /// Encodes live entries behind `after` until `to` has `limit` bytes: the key to go on from, or
    /// `None` when all are done.
    pub fn snapshot(
        &self,
        after: Option<&[u8]>,
        limit: usize,
        now: u64,
        to: &mut Vec<u8>,
    ) -> Option<Box<[u8]>> {
        let from = after.map(|key| (hash(key), key));
        let start = from.as_ref().map_or(Bound::Unbounded, |from| Bound::Excluded(from as &dyn Named));
        for (name, Entry { value, expires }) in self.entries.range::<dyn Named, _>((start, Bound::Unbounded))
        {
            if expires.is_none_or(|at| now < at) {
                Op::Set { key: &name.bytes, value, expires: *expires }.encode(to);
            }
            if to.len() >= limit {
                return Some(name.bytes.clone());
            }
        }
        None
    }

    /// Removes entries that have ended, looking at `count` from a cursor on. The next cursor.
    pub fn expire(&mut self, cursor: u64, count: usize, now: u64) -> u64 {
        if self.volatile == 0 {
            return 0;
        }
        // At time 0 nothing has ended, so every entry is shown.
        let mut ended: Vec<Vec<u8>> = Vec::new();
        let next = {
            let mut keys = Vec::new();
            let next = self.scan(cursor, count, 0, |key| keys.push(key.to_owned()));
            ended.extend(keys.into_iter().filter(|key| self.get(key, now).is_none()));
            next
        };
        for key in ended {
            self.remove(&key);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(key: &[u8], value: &[u8], expires: Option<u64>, store: &mut Store) {
        store.apply(&Op::Set { key, value, expires });
    }

    #[test]
    fn entries_end_and_their_memory_comes_back() {
        let mut store = Store::default();
        for n in 0..100u32 {
            set(&n.to_le_bytes(), &[7; 10], (n % 2 == 0).then_some(50), &mut store);
        }
        assert_eq!((store.len(), store.volatile()), (100, 50));
        assert_eq!(store.live(49).count(), 100);
        assert_eq!(store.live(50).count(), 50);
        assert!(store.get(&0u32.to_le_bytes(), 50).is_none());
        let mut cursor = 0;
        loop {
            cursor = store.expire(cursor, 7, 50);
            if cursor == 0 {
                break;
            }
        }
        assert_eq!((store.len(), store.volatile()), (50, 0));
        for n in 0..100u32 {
            store.apply(&Op::Delete { key: &n.to_le_bytes() });
        }
        assert_eq!((store.memory(), store.logged()), (0, 0));
    }

    proptest! {
        /// Keys that are there during the whole of a scan are found, whatever else comes and goes.
        #[test]
        fn a_scan_misses_nothing_that_stays(
            stay in prop::collection::btree_set(0u16..500, 0..80),
            changes in prop::collection::vec((500u16..700, any::<bool>()), 0..100),
            count in 1usize..20,
        ) {
            let mut store = Store::default();
            for key in &stay {
                set(&key.to_le_bytes(), b"", None, &mut store);
            }
            let mut found = BTreeSet::new();
            let mut changes = changes.into_iter();
            let mut cursor = 0;
            loop {
                cursor = store.scan(cursor, count, 0, |key| {
                    found.insert(u16::from_le_bytes(key.try_into().unwrap()));
                });
                if cursor == 0 {
                    break;
                }
                for (key, here) in changes.by_ref().take(5) {
                    let key = &key.to_le_bytes();
                    if here { set(key, b"", None, &mut store) } else { store.apply(&Op::Delete { key }) }
                }
            }
            prop_assert!(stay.is_subset(&found));
        }

        #[test]
        fn a_snapshot_in_pieces_is_the_store(keys in prop::collection::btree_set(any::<u16>(), 0..60), limit in 1usize..200) {
            let mut store = Store::default();
            for key in &keys {
                set(&key.to_le_bytes(), &[1; 9], None, &mut store);
            }
            let (mut copy, mut after, mut total) = (Store::default(), None, 0);
            loop {
                let mut bytes = Vec::new();
                after = store.snapshot(after.as_deref(), limit, 0, &mut bytes);
                total += bytes.len();
                let mut from = &bytes[..];
                while let Some(op) = Op::decode(&mut from) {
                    copy.apply(&op);
                }
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(total, store.logged());
            prop_assert!(copy.live(0).eq(store.live(0)));
        }
    }
}
