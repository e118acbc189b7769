//! What the server counts, as JSON and as Prometheus reads it.

use crate::response::Status;
use alloc::string::String;
use core::cell::Cell;
use core::fmt::Write;

/// A number that only grows.
#[derive(Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.set(self.0.get().wrapping_add(count));
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Everything that is counted.
#[derive(Default)]
pub struct Metrics {
    statuses: [Counter; Status::ALL.len()],
    /// Bytes of answers, heads included.
    pub bytes_sent: Counter,
    /// Bytes of requests.
    pub bytes_received: Counter,
    /// Connections taken.
    pub connections: Counter,
    /// Connections open now.
    pub open: Cell<u64>,
    /// Reads from the volume.
    pub block_reads: Counter,
    /// Bytes of them.
    pub block_bytes: Counter,
    /// Those that failed.
    pub block_errors: Counter,
}

/// What the machine says about itself at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    /// Seconds since the server's start.
    pub uptime: u64,
    /// Bytes of memory that are free.
    pub free_memory: u64,
    /// Bytes of memory that were free at the start.
    pub all_memory: u64,
    /// Frames received from the network.
    pub net_received: u64,
    /// Frames sent.
    pub net_sent: u64,
    /// Frames dropped.
    pub net_dropped: u64,
}

impl Metrics {
    /// Counts an answer.
    pub fn answered(&self, status: Status) {
        self.statuses[status as usize].add(1);
    }

    /// Answers of all statuses.
    pub fn requests(&self) -> u64 {
        self.statuses.iter().map(Counter::get).sum()
    }

    /// The numbers with their names, `true` for what only grows, and what they mean.
    fn rows(&self, machine: &Machine) -> [(&'static str, bool, &'static str, u64); 14] {
        [
            ("connections_total", true, "Connections taken.", self.connections.get()),
            ("connections_open", false, "Connections open now.", self.open.get()),
            ("sent_bytes_total", true, "Bytes of answers.", self.bytes_sent.get()),
            ("received_bytes_total", true, "Bytes of requests.", self.bytes_received.get()),
            ("block_reads_total", true, "Reads from the volume.", self.block_reads.get()),
            ("block_read_bytes_total", true, "Bytes read from the volume.", self.block_bytes.get()),
            ("block_errors_total", true, "Reads that failed.", self.block_errors.get()),
            ("net_received_frames_total", true, "Frames received.", machine.net_received),
            ("net_sent_frames_total", true, "Frames sent.", machine.net_sent),
            ("net_dropped_frames_total", true, "Frames dropped.", machine.net_dropped),
            ("memory_free_bytes", false, "Free memory.", machine.free_memory),
            ("memory_start_bytes", false, "Free memory at the start.", machine.all_memory),
            ("uptime_seconds", false, "Seconds since the start.", machine.uptime),
            ("requests", false, "Answers of all statuses.", self.requests()),
        ]
    }

    /// `/status.json`
    pub fn json(&self, machine: &Machine) -> String {
        let mut text = String::from("{\n  \"service\": \"web\"");
        for (name, _, _, value) in self.rows(machine) {
            let _ = write!(text, ",\n  \"{}\": {value}", name.trim_end_matches("_total"));
        }
        text.push_str("\n}\n");
        text
    }

    /// `/metrics`
    pub fn prometheus(&self, machine: &Machine) -> String {
        let mut text = String::with_capacity(2048);
        text.push_str("# HELP web_requests_total Answers by status.\n# TYPE web_requests_total counter\n");
        for status in Status::ALL {
            let (code, count) = (status.line().0, self.statuses[status as usize].get());
            let _ = writeln!(text, "web_requests_total{{code=\"{code}\"}} {count}");
        }
        for (name, grows, help, value) in self.rows(machine) {
            if name == "requests" {
                continue;
            }
            let kind = if grows { "counter" } else { "gauge" };
            let _ = writeln!(text, "# HELP web_{name} {help}\n# TYPE web_{name} {kind}\nweb_{name} {value}");
        }
        text
    }
}
