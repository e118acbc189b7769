//! Connections by number: found at once, however many there are.

use super::perms::Who;
use super::quota::Quota;
use super::transaction::Transaction;
use super::wire::Message;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::task::Waker;
use slab::Slab;

/// A connection's number; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConnId {
    serial: u64,
    place: usize,
}

/// What the daemon has for one connection.
pub(super) struct Conn {
    pub who: Who,
    pub out: VecDeque<Message>,
    pub out_bytes: usize,
    /// Payloads of the events in `out`: none is there twice.
    pub events: BTreeSet<Vec<u8>>,
    pub transactions: BTreeMap<u32, Transaction>,
    pub last_transaction: u32,
    /// The quotas whose limit this connection has reached; each is told of once.
    pub quotas_told: Vec<Quota>,
    pub closed: bool,
    pub waker: Option<Waker>,
}

/// All connections.
#[derive(Default)]
pub(super) struct Conns {
    places: Slab<(ConnId, Conn)>,
    last: u64,
}

impl Conns {
    /// A new one, for `who`.
    pub fn add(&mut self, who: Who) -> ConnId {
        self.last += 1;
        let place = self.places.vacant_entry();
        let conn = ConnId { serial: self.last, place: place.key() };
        let state = Conn {
            who,
            out: VecDeque::new(),
            out_bytes: 0,
            events: BTreeSet::new(),
            transactions: BTreeMap::new(),
            last_transaction: 0,
            quotas_told: Vec::new(),
            closed: false,
            waker: None,
        };
        place.insert((conn, state));
        conn
    }

    pub fn get(&self, conn: ConnId) -> Option<&Conn> {
        self.places.get(conn.place).filter(|(own, _)| *own == conn).map(|(_, state)| state)
    }

    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut Conn> {
        self.places.get_mut(conn.place).filter(|(own, _)| *own == conn).map(|(_, state)| state)
    }

    pub fn remove(&mut self, conn: ConnId) -> Option<Conn> {
        self.get(conn)?;
        self.places.try_remove(conn.place).map(|(_, state)| state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_abi::DomId;

    #[test]
    fn a_number_of_old_finds_nobody() {
        let mut conns = Conns::default();
        let old = conns.add(Who::DOM0);
        assert!(conns.remove(old).is_some());
        let new = conns.add(Who::guest(DomId(1)));
        assert_eq!(old.place, new.place);
        assert!(conns.get(old).is_none() && conns.get_mut(old).is_none() && conns.remove(old).is_none());
        assert_eq!(conns.get(new).map(|state| state.who.domain), Some(DomId(1)));
    }
}
