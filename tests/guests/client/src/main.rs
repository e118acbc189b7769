//! Asks web servers, one after the other: from inside the machine, so that no time of the host's is in it.
//!
//! It asks `count=` servers (1) at the addresses from `first=` up, and powers off when all have answered; if
//! one has not within ten seconds, it crashes. With `wait=yes` it does nothing of this before it is asked to
//! stop: so a measurement says when.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::rc::Rc;
use core::time::Duration;
use guest_kernel::executor::{Either, select, sleep};
use guest_kernel::lifecycle::stop_requested;
use guest_kernel::net::{self, Buffers, IpAddress, IpEndpoint, Ipv4Address, Stack, TcpError, TcpStream};
use guest_kernel::{System, println};

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(10);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: oxen\r\nConnection: close\r\n\r\n";

guest_kernel::main! {
    async fn main(sys: System) {
        let option = |name| sys.boot.option(name);
        let first: Ipv4Address = option("first").and_then(|text| text.parse().ok()).expect("first=");
        let count: u32 = option("count").map_or(1, |text| text.parse().expect("count="));
        let stack = net::start(&sys).await.expect("a network");
        stack.configured().await;
        if option("wait").is_some() {
            stop_requested().await;
        }
        for server in 0..count {
            let address = Ipv4Address::from_bits(first.to_bits() + server);
            match select(ask(&stack, address), sleep(PATIENCE)).await {
                Either::Left(Ok(())) => {}
                Either::Left(Err(error)) => panic!("{address}: {error}"),
                Either::Right(()) => panic!("{address} does not answer"),
            }
        }
        println!("client: {count} servers have answered");
    }
}

/// Fetches `/`, again as long as nobody listens.
async fn ask(stack: &Rc<Stack>, address: Ipv4Address) -> Result<(), TcpError> {
    let server = IpEndpoint::new(IpAddress::Ipv4(address), 80);
    let stream = loop {
        match TcpStream::connect(stack, server, Buffers { receive: 4096, send: 1024 }).await {
            Err(TcpError::Refused) => sleep(Duration::from_millis(1)).await,
            connected => break connected?,
        }
    };
    stream.write_all(REQUEST).await?;
    let mut answer = [0; 512];
    let read = stream.read(&mut answer).await?;
    assert!(answer[..read].starts_with(b"HTTP/1.1 200 "), "{address} answers something else");
    while stream.read(&mut answer).await? > 0 {}
    stream.close().await
}
