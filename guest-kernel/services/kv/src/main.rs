//! The key-value store's guest: network, volume, log, and a task for each connection.
//!
//! Words of the command line: `ip=` and `gw=` (see `guest_kernel::net::Addressing`), `port=` (6379),
//! `maxmemory=` (bytes of data; half of the free memory).
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::rc::Rc;
use core::time::Duration;
use guest_kernel::executor::{Either, select, sleep, spawn};
use guest_kernel::front::blk;
use guest_kernel::lifecycle;
use guest_kernel::memory::free_frames;
use guest_kernel::net::{self, Buffers, TcpListener};
use guest_kernel::time::{Instant, wallclock};
use guest_kernel::{System, log, println};
use kv::connection::serve;
use kv::journal::Journal;
use kv::server::{Counters, Limits, Server};

/// A connection's TCP buffers.
const BUFFERS: Buffers = Buffers { receive: 8192, send: 8192 };
/// What a connection takes at most besides its input: buffers, replies, its task.
const PER_CONNECTION: usize = 48 << 10;
/// Most connections that wait to be taken.
const BACKLOG: usize = 32;
/// Entries looked at every 100 ms for whether they have ended.
const EXPIRE: usize = 200;

guest_kernel::main! {
    async fn main(sys: System) {
        let Some(store) = sys.store.clone() else { return println!("kv: needs a toolstack: no xenstore") };
        let stack = match net::start(&sys).await {
            Ok(stack) => stack,
            Err(errno) => return println!("kv: no network: {errno}"),
        };
        let disk = match first_disk(&store).await {
            Ok(disk) => disk,
            Err(errno) => return println!("kv: no volume: {errno}"),
        };
        let free = free_frames() * 4096;
        let began = Instant::now();
        let (journal, data, recovery) = match Journal::open(disk, salt()).await {
            Ok(opened) => opened,
            Err(error) => return println!("kv: {error}"),
        };
        println!(
            "kv: {} keys from {} frames in {} ms{}",
            data.len(),
            recovery.frames,
            began.elapsed().as_millis(),
            if recovery.torn { "; the last frame was cut short and is dropped" } else { "" },
        );
        let port = match sys.boot.option("port").map_or(Ok(6379), str::parse::<u16>) {
            Ok(port) => port,
            Err(_) => return println!("kv: port= is no port"),
        };
        let memory = match sys.boot.option("maxmemory").map_or(Ok(free / 2), str::parse::<usize>) {
            Ok(memory) => memory,
            Err(_) => return println!("kv: maxmemory= is no number"),
        };
        let limits = Limits { memory, request: (free / 16).min(8 << 20), input: free / 8 };
        let most = (free / 4 / PER_CONNECTION).clamp(8, 1024) as u64;
        let listener = match TcpListener::bind(&stack, port, BACKLOG, BUFFERS) {
            Ok(listener) => listener,
            Err(error) => return println!("kv: port {port}: {error}"),
        };
        let server = Rc::new(Server {
            store: core::cell::RefCell::new(data),
            journal,
            limits,
            counters: Counters::default(),
            clock,
            started: clock(),
            port,
        });
        println!("kv: {}, port {port}, {} KiB for data, {most} connections", stack.configured().await, memory >> 10);
        let committer = server.clone();
        spawn(async move { committer.journal.run(&committer.store, salt, clock).await });
        spawn(expire(server.clone()));
        match select(accept(listener, server.clone(), most), lifecycle::stop_requested()).await {
            Either::Left(()) | Either::Right(_) => {
                // What was answered is on the volume already.
                println!("kv: stopped with {} keys", server.store.borrow().len());
            }
        }
    }
}

async fn first_disk(
    store: &guest_kernel::xenstore::Xenstore,
) -> guest_kernel::xenstore::Result<Rc<blk::VirtualDisk>> {
    let disks = blk::disks(store).await?;
    let first = *disks.first().ok_or(guest_kernel::hypercall::Errno::ENODEV)?;
    blk::attach(store, first, blk::Options::default()).await
}

/// Milliseconds since 1970.
fn clock() -> u64 {
    wallclock().as_millis() as u64
}

/// A number that differs from boot to boot.
fn salt() -> u64 {
    (wallclock().as_nanos() as u64 ^ Instant::now().as_nanos().rotate_left(32))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Removes entries whose time is over.
async fn expire<D: guest_kernel::block::BlockDevice>(server: Rc<Server<D>>) {
    let mut cursor = 0;
    loop {
        sleep(Duration::from_millis(100)).await;
        if !server.journal.frozen() {
            cursor = server.store.borrow_mut().expire(cursor, EXPIRE, clock());
        }
    }
}

/// Takes connections, at most `most` at a time.
async fn accept<D: guest_kernel::block::BlockDevice + 'static>(
    listener: TcpListener,
    server: Rc<Server<D>>,
    most: u64,
) {
    let mut told = false;
    loop {
        while server.counters.open.get() >= most {
            if !core::mem::replace(&mut told, true) {
                log::warn!("{most} connections are open: more wait");
            }
            sleep(Duration::from_millis(5)).await;
        }
        let stream = listener.accept().await;
        let server = server.clone();
        spawn(async move { serve(&server, &stream).await });
        // The new connection counts itself when it first runs.
        guest_kernel::executor::yield_now().await;
    }
}
