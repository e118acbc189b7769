//! Which address was last seen behind which port.

use super::Mac;
use alloc::collections::BTreeMap;

/// Addresses remembered behind one port, and behind all.
pub(super) const PER_PORT: usize = 64;
pub(super) const TOTAL: usize = 4096;
/// An address not heard of for this long (nanoseconds) is forgotten: five minutes, as is usual.
pub(super) const AGE: u64 = 300_000_000_000;

struct Entry {
    port: u16,
    seen: u64,
}

/// At most [`TOTAL`] entries, [`PER_PORT`] for each port.
pub(super) struct Table {
    entries: BTreeMap<Mac, Entry>,
}

impl Table {
    pub(super) fn new() -> Self {
        Table { entries: BTreeMap::new() }
    }

    /// Notes that `mac` is behind `port`, unless it has been heard of behind another one lately:
    /// nothing moves here but guests, whose port goes with them, so the second is an impostor. A
    /// port at its bound loses its own oldest entry; at the bound of all nothing new is learned.
    pub(super) fn learn(&mut self, mac: Mac, port: u16, now: u64) {
        if let Some(entry) = self.entries.get_mut(&mac) {
            if entry.port == port {
                entry.seen = now;
                return;
            }
            if now.saturating_sub(entry.seen) <= AGE {
                return;
            }
            self.entries.remove(&mac);
        }
        let mine = self.entries.iter().filter(|(_, entry)| entry.port == port);
        let (count, oldest) = mine.fold((0, None::<(u64, Mac)>), |(count, oldest), (mac, entry)| {
            let this = (entry.seen, *mac);
            (count + 1, Some(oldest.map_or(this, |oldest| oldest.min(this))))
        });
        if count >= PER_PORT
            && let Some((_, oldest)) = oldest
        {
            self.entries.remove(&oldest);
        }
        if self.entries.len() >= TOTAL {
            self.entries.retain(|_, entry| now.saturating_sub(entry.seen) <= AGE);
        }
        if self.entries.len() < TOTAL {
            self.entries.insert(mac, Entry { port, seen: now });
        }
    }

    pub(super) fn find(&self, mac: Mac, now: u64) -> Option<u16> {
        let entry = self.entries.get(&mac)?;
        (now.saturating_sub(entry.seen) <= AGE).then_some(entry.port)
    }

    pub(super) fn forget_port(&mut self, port: u16) {
        self.entries.retain(|_, entry| entry.port != port);
    }

    pub(super) fn forget_address(&mut self, mac: Mac) {
        self.entries.remove(&mac);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
