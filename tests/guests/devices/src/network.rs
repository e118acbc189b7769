//! Two TCP services: an echo on port 7, and on port 9 one that reads until the end and answers
//! with how many bytes that were.

use alloc::rc::Rc;
use alloc::vec;
use guest_kernel::executor::spawn;
use guest_kernel::net::{self, Buffers, Stack, TcpError, TcpListener, TcpStream};
use guest_kernel::{System, println};

const BUFFERS: Buffers = Buffers { receive: 32 * 1024, send: 32 * 1024 };

/// Starts the services, if there is an interface.
pub async fn serve(system: &System) {
    let stack = match net::start(system).await {
        Ok(stack) => stack,
        Err(errno) => return println!("network: none: {errno}"),
    };
    println!("network: {}", stack.configured().await);
    listen(&stack, 7, |stream| spawn(echo(stream)));
    listen(&stack, 9, |stream| spawn(count(stream)));
}

fn listen<T: 'static>(stack: &Rc<Stack>, port: u16, serve: impl Fn(TcpStream) -> T + 'static) {
    match TcpListener::bind(stack, port, 64, BUFFERS) {
        Ok(listener) => drop(spawn(async move {
            loop {
                drop(serve(listener.accept().await));
            }
        })),
        Err(error) => println!("network: port {port}: {error}"),
    }
}

async fn echo(stream: TcpStream) -> Result<(), TcpError> {
    let mut buffer = vec![0; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.close().await;
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn count(stream: TcpStream) -> Result<(), TcpError> {
    let mut buffer = vec![0; 4096];
    let mut total = 0u64;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => total += count as u64,
        }
    }
    stream.write_all(alloc::format!("{total}\n").as_bytes()).await?;
    stream.close().await
}
