//! What all connections share: the data, the log, the limits and the counters.

use crate::journal::Journal;
use crate::store::Store;
use alloc::format;
use alloc::string::String;
use core::cell::{Cell, RefCell};
use guest_kernel::block::BlockDevice;

/// How much clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of data in memory.
    pub memory: usize,
    /// Bytes of one request.
    pub request: usize,
    /// Bytes of requests of all connections together that are not whole yet.
    pub input: usize,
}

/// Counters.
#[derive(Default)]
pub struct Counters {
    /// Connections taken.
    pub connections: Cell<u64>,
    /// Connections open now.
    pub open: Cell<u64>,
    /// Commands run.
    pub commands: Cell<u64>,
    /// Keys looked for and found.
    pub hits: Cell<u64>,
    /// Keys looked for in vain.
    pub misses: Cell<u64>,
    /// Bytes of requests in memory.
    pub input: Cell<usize>,
}

/// Adds one to a counter.
pub fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// The server.
pub struct Server<D> {
    /// The data.
    pub store: RefCell<Store>,
    /// The log.
    pub journal: Journal<D>,
    /// Limits.
    pub limits: Limits,
    /// Counters.
    pub counters: Counters,
    /// The time in ms since 1970.
    pub clock: fn() -> u64,
    /// When the server was started, in the same time.
    pub started: u64,
    /// The port it listens on.
    pub port: u16,
}

impl<D: BlockDevice> Server<D> {
    /// Why a command that adds `growth` bytes at most cannot be run.
    pub fn refusal(&self, growth: usize) -> Option<String> {
        let store = self.store.borrow();
        let (memory, capacity) = (self.limits.memory, self.journal.capacity());
        if self.journal.failed() {
            return Some(
                "MISCONF the log cannot be written: the volume failed. Only reads are answered.".into(),
            );
        }
        if growth > 0 && store.memory() + growth > memory {
            return Some(format!("OOM command not allowed when used memory > 'maxmemory' ({memory} bytes)."));
        }
        if growth > 0 && store.logged() + growth > capacity {
            return Some(format!("ERR the volume is full: its log has room for {capacity} bytes of data."));
        }
        None
    }

    /// The text of `INFO`.
    pub fn info(&self) -> String {
        let (store, counts, counters) = (self.store.borrow(), self.journal.counts(), &self.counters);
        let uptime = (self.clock)().saturating_sub(self.started) / 1000;
        let (area, used) = self.journal.usage();
        let status = if self.journal.failed() { "err" } else { "ok" };
        let mut text = format!(
            "# Server\r\nredis_version:7.0.0\r\nserver_name:oxen-kv\r\nredis_mode:standalone\r\ntcp_port:{}\r\n\
             uptime_in_seconds:{uptime}\r\n\r\n# Clients\r\nconnected_clients:{}\r\n\r\n# Memory\r\n\
             used_memory:{}\r\nmaxmemory:{}\r\nmaxmemory_policy:noeviction\r\n\r\n",
            self.port,
            counters.open.get(),
            store.memory(),
            self.limits.memory,
        );
        text.push_str(&format!(
            "# Persistence\r\naof_enabled:1\r\naof_last_write_status:{status}\r\nlog_area_bytes:{area}\r\n\
             log_used_bytes:{used}\r\nlog_capacity_bytes:{}\r\nlog_live_bytes:{}\r\nlog_commits:{}\r\n\
             log_commands:{}\r\nlog_written_bytes:{}\r\nlog_rewrites:{}\r\n\r\n",
            self.journal.capacity(),
            store.logged(),
            counts.commits,
            counts.commands,
            counts.bytes,
            counts.rewrites,
        ));
        text.push_str(&format!(
            "# Stats\r\ntotal_connections_received:{}\r\ntotal_commands_processed:{}\r\nkeyspace_hits:{}\r\n\
             keyspace_misses:{}\r\n\r\n# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n# Keyspace\r\n",
            counters.connections.get(),
            counters.commands.get(),
            counters.hits.get(),
            counters.misses.get(),
        ));
        if !store.is_empty() {
            text.push_str(&format!("db0:keys={},expires={},avg_ttl=0\r\n", store.len(), store.volatile()));
        }
        text
    }
}
