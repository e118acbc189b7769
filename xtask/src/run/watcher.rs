//! Tells each service's address the moment it answers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::terminal;
use crate::services::Forward;

/// A thread that asks the services until all have answered.
pub struct Watcher(JoinHandle<()>);

impl Watcher {
    /// Asks those behind `forwards`, until `ended`.
    pub fn start(forwards: Vec<Forward>, ended: Arc<AtomicBool>) -> Self {
        Self(thread::spawn(move || {
            let mut silent = forwards;
            while !silent.is_empty() && !ended.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(250));
                silent.retain(|forward| {
                    let up = answers(forward.host_port, forward.port == 80);
                    if up {
                        terminal::show_above(&format!("{} is at {}", forward.name, forward.shown()));
                    }
                    !up
                });
            }
        }))
    }

    /// Waits for the thread's end, a second at most per silent service.
    pub fn join(self) {
        let _ = self.0.join();
    }
}

/// The service behind `port` answers. QEMU accepts a forwarded connection before the guest does, so
/// only a byte from the guest counts.
fn answers(port: u16, http: bool) -> bool {
    let ask = || -> std::io::Result<usize> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let hello: &[u8] = if http {
            b"GET /status.json HTTP/1.1\r\nHost: oxen\r\nConnection: close\r\n\r\n"
        } else {
            b"PING\r\n"
        };
        stream.write_all(hello)?;
        stream.read(&mut [0; 1])
    };
    ask().is_ok_and(|n| n > 0)
}
