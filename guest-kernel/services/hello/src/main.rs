//! The smallest service: says hello to whoever connects to its port.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use guest_kernel::executor::spawn;
use guest_kernel::net::{self, Buffers, TcpError, TcpListener, TcpStream};
use guest_kernel::{System, println};

guest_kernel::main! {
    async fn main(sys: System) {
        let stack = match net::start(&sys).await {
            Ok(stack) => stack,
            Err(errno) => return println!("hello: no network: {errno}"),
        };
        let port = sys.boot.option("port").and_then(|port| port.parse().ok()).unwrap_or(80);
        println!("hello: {}, port {port}", stack.configured().await);
        let listener = match TcpListener::bind(&stack, port, 8, Buffers { receive: 1024, send: 1024 }) {
            Ok(listener) => listener,
            Err(error) => return println!("hello: {error}"),
        };
        loop {
            let stream = listener.accept().await;
            spawn(async move { answer(stream).await });
        }
    }
}

/// Answers any request with a greeting.
async fn answer(stream: TcpStream) -> Result<(), TcpError> {
    let mut request = [0; 512];
    stream.read(&mut request).await?;
    let text = "hello from an Oxen guest\n";
    let head =
        alloc::format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.close().await
}
