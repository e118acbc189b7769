//! A map by path in which a look costs the same however many paths there are: a guest's requests get no
//! dearer with its neighbours.
//!
//! It is a hash table by the path's digest that grows by one bucket at a time (linear hashing), so no insertion
//! pays for moving everything. A bucket is a small ordered map and not a list: digests that somebody
//! contrives to meet in one bucket make it as slow as an ordered map of everything, and no slower.

use super::path::{Key, Path};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Entries per bucket at most, on average: about as many as fit into one node of an ordered map.
const FULL: usize = 8;

/// See the module's description.
pub struct PathMap<V> {
    buckets: Vec<BTreeMap<Path, V>>,
    len: usize,
}

impl<V> PathMap<V> {
    /// Where paths of this digest are. With 2^k buckets and some more, those some and the ones that they
    /// were split from are told apart by one bit more than the others.
    fn bucket(&self, digest: u64) -> usize {
        let round = self.buckets.len().next_power_of_two();
        let at = digest as usize & (round - 1);
        if at < self.buckets.len() { at } else { at - round / 2 }
    }

    /// The value at a path.
    pub fn get(&self, path: &dyn Key) -> Option<&V> {
        self.buckets.get(self.bucket(path.digest()))?.get(path)
    }

    /// The value at a path, to be changed.
    pub fn get_mut(&mut self, path: &dyn Key) -> Option<&mut V> {
        let bucket = self.bucket(path.digest());
        self.buckets.get_mut(bucket)?.get_mut(path)
    }

    /// Sets the value at a path and returns the last one.
    pub fn insert(&mut self, path: Path, value: V) -> Option<V> {
        if self.len >= FULL * self.buckets.len() {
            self.split();
        }
        let bucket = self.bucket(path.digest());
        let old = self.buckets[bucket].insert(path, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes the value at a path out.
    pub fn remove(&mut self, path: &dyn Key) -> Option<V> {
        let bucket = self.bucket(path.digest());
        let old = self.buckets.get_mut(bucket)?.remove(path)?;
        self.len -= 1;
        Some(old)
    }

    /// Adds a bucket, with its part of what was in another one.
    fn split(&mut self) {
        let new = self.buckets.len();
        self.buckets.push(BTreeMap::new());
        if new > 0 {
            let from = new - (new + 1).next_power_of_two() / 2;
            for (path, value) in core::mem::take(&mut self.buckets[from]) {
                let bucket = self.bucket(path.digest());
                self.buckets[bucket].insert(path, value);
            }
        }
    }

    /// All entries, in no order that means something.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &V)> {
        self.buckets.iter().flatten()
    }

    /// Keeps those entries that `wanted` wants.
    pub fn retain(&mut self, mut wanted: impl FnMut(&Path, &mut V) -> bool) {
        for bucket in &mut self.buckets {
            bucket.retain(&mut wanted);
        }
        self.len = self.buckets.iter().map(BTreeMap::len).sum();
    }
}

impl<V> Default for PathMap<V> {
    fn default() -> Self {
        PathMap { buckets: Vec::new(), len: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    proptest! {
        /// The same as an ordered map of everything, whatever is put in and taken out.
        #[test]
        fn as_one_ordered_map(steps in prop::collection::vec((any::<bool>(), 0u16..300, any::<u8>()), 0..600)) {
            let (mut map, mut model) = (PathMap::default(), BTreeMap::new());
            for (insert, name, value) in steps {
                let path = Path::absolute(&format!("/local/domain/{name}")).unwrap();
                prop_assert_eq!(map.get(&path), model.get(&path));
                if insert {
                    prop_assert_eq!(map.insert(path.clone(), value), model.insert(path, value));
                } else {
                    prop_assert_eq!(map.remove(&path), model.remove(&path));
                }
            }
            prop_assert_eq!(map.len, model.len());
            prop_assert_eq!(map.iter().collect::<BTreeMap<_, _>>(), model.iter().collect());
            for (path, value) in &model {
                prop_assert_eq!(map.get_mut(path).map(|value| *value), Some(*value));
            }
            map.retain(|_, value| *value > 99);
            model.retain(|_, value| *value > 99);
            prop_assert_eq!(map.len, model.len());
            prop_assert_eq!(map.iter().collect::<BTreeMap<_, _>>(), model.iter().collect());
        }
    }

    #[test]
    fn no_bucket_gets_much_more_than_the_others() {
        let mut map = PathMap::default();
        for domain in 0..200 {
            for name in ["", "/name", "/device", "/device/vif", "/device/vif/0", "/device/vif/0/state"] {
                map.insert(Path::absolute(&format!("/local/domain/{domain}{name}")).unwrap(), ());
            }
        }
        assert_eq!(map.buckets.len(), 1200 / FULL);
        assert!(map.buckets.iter().all(|bucket| bucket.len() < 4 * FULL));
    }
}
