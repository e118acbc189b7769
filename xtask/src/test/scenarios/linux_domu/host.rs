//! What a domain finds on the host: a page to download, and iperf3.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use crate::test::userland;
use crate::{cmd, paths};

/// A web server with one page.
pub struct Page {
    /// Its port on this host's loopback.
    pub port: u16,
    /// The page's MD5 sum.
    pub md5: String,
}

impl Page {
    /// Serves `size` bytes as often as they are asked for.
    pub fn serve(size: usize) -> Result<Self> {
        let bytes: Vec<u8> = (0..size as u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        let file = paths::out().join("page");
        cmd::write(&file, &bytes)?;
        let md5 = cmd::output(Command::new("md5sum").arg(&file))?;
        let md5 = md5.split(' ').next().context("md5sum said nothing")?.to_string();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request);
                let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
                // one that leaves early is missed by whoever counts what arrived
                let _ = stream.write_all(&bytes);
            }
        });
        Ok(Self { port, md5 })
    }
}

/// A server of iperf3, the domains' own, run with their libraries.
pub struct Iperf {
    server: Child,
    /// Its port on this host's loopback.
    pub port: u16,
}

impl Iperf {
    /// Starts it.
    pub fn serve() -> Result<Self> {
        let root = userland::folder();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let libraries =
            ["lib", "usr/lib"].map(|dir| root.join(dir).join("x86_64-linux-gnu").display().to_string());
        let mut command = Command::new(root.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
        command.args(["--library-path", &libraries.join(":")]).arg(root.join("usr/bin/iperf3"));
        command.args(["-s", "-B", "127.0.0.1", "-p", &port.to_string()]);
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self { server: server.context("cannot run iperf3")?, port })
    }
}

impl Drop for Iperf {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A port that keeps what one client sends.
pub struct Sink {
    /// The port on this host's loopback.
    pub port: u16,
    received: JoinHandle<std::io::Result<String>>,
}

impl Sink {
    /// Waits for the client.
    pub fn open() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let received = std::thread::spawn(move || {
            let mut text = Vec::new();
            listener.accept()?.0.read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        });
        Ok(Self { port, received })
    }

    /// All that it sent. The client must have come: it is waited for.
    pub fn text(self) -> Result<String> {
        Ok(self.received.join().ok().context("the receiver died")??)
    }
}
