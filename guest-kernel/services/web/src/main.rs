//! The web server's guest: network, volume, and a task for each connection.
//!
//! Words of the command line: `ip=` and `gw=` (see `guest_kernel::net::Addressing`), `port=` (80),
//! `connections=` (as many as a third of the free memory has room for).
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::rc::Rc;
use core::cell::Cell;
use core::time::Duration;
use guest_kernel::executor::{Either, select, sleep, spawn};
use guest_kernel::front::blk;
use guest_kernel::front::net::VirtualInterface;
use guest_kernel::fs::ext4::Ext4;
use guest_kernel::memory::free_frames;
use guest_kernel::net::{self, Buffers, TcpListener};
use guest_kernel::time::{Instant, wallclock};
use guest_kernel::xenstore::Xenstore;
use guest_kernel::{Local, System, lifecycle, log, println};
use web::connection::{Server, serve};
use web::files::Counted;
use web::metrics::{Machine, Metrics};

/// A connection's TCP buffers.
const BUFFERS: Buffers = Buffers { receive: 4096, send: 16384 };
/// What a connection takes at most: its buffers, a head, a piece of a file, its task.
const PER_CONNECTION: usize = 48 << 10;
/// Most connections that wait to be taken.
const BACKLOG: usize = 32;

/// What the machine's numbers are made of.
#[derive(Default)]
struct Start {
    interface: Option<Rc<VirtualInterface>>,
    time: u64,
    free: u64,
}

static START: Local<Start> = Local::new(Start::default);

guest_kernel::main! {
    async fn main(sys: System) {
        let Some(store) = sys.store.clone() else { return println!("web: needs a toolstack: no xenstore") };
        let (interface, addressing) = match net::interface(&sys).await {
            Ok(interface) => interface,
            Err(errno) => return println!("web: no network: {errno}"),
        };
        let metrics = Rc::new(Metrics::default());
        let files = match mount(&store, metrics.clone()).await {
            Ok(files) => files,
            Err(error) => return println!("web: no volume: {error}"),
        };
        let stack = net::run(alloc::boxed::Box::new(interface.clone()), addressing);
        let free = free_frames() * 4096;
        START.with(|start| {
            *start = Start { interface: Some(interface), time: Instant::now().as_nanos(), free: free as u64 };
        });
        let port = match sys.boot.option("port").map_or(Ok(80), str::parse::<u16>) {
            Ok(port) => port,
            Err(_) => return println!("web: port= is no port"),
        };
        let most = sys.boot.option("connections").and_then(|text| text.parse().ok());
        let most = most.unwrap_or((free / 3 * 2 / PER_CONNECTION).clamp(8, 512));
        let listener = match TcpListener::bind(&stack, port, BACKLOG, BUFFERS) {
            Ok(listener) => listener,
            Err(error) => return println!("web: port {port}: {error}"),
        };
        println!("web: {}, port {port}, {} KiB free, {most} connections", stack.configured().await, free >> 10);
        let server = Rc::new(Server { files, metrics, machine, clock: || wallclock().as_secs() });
        match select(accept(listener, server, most), lifecycle::stop_requested()).await {
            Either::Left(()) | Either::Right(_) => println!("web: stopped"),
        }
    }
}

/// The first disk's filesystem.
async fn mount(
    store: &Xenstore,
    metrics: Rc<Metrics>,
) -> Result<Rc<Ext4<Counted<Rc<blk::VirtualDisk>>>>, alloc::string::String> {
    let disks = blk::disks(store).await.map_err(|errno| alloc::format!("{errno}"))?;
    let first = *disks.first().ok_or("this guest has no disk")?;
    let disk = blk::attach(store, first, blk::Options::default())
        .await
        .map_err(|errno| alloc::format!("{errno}"))?;
    Ext4::mount(Counted { disk, metrics }).await.map_err(|error| alloc::format!("{error}"))
}

/// Takes connections, at most `most` at a time.
async fn accept(
    listener: TcpListener,
    server: Rc<Server<Rc<Ext4<Counted<Rc<blk::VirtualDisk>>>>>>,
    most: usize,
) {
    let open = Rc::new(Cell::new(0));
    let mut told = false;
    loop {
        while open.get() >= most {
            if !core::mem::replace(&mut told, true) {
                log::warn!("{most} connections are open: more wait");
            }
            sleep(Duration::from_millis(5)).await;
        }
        let stream = listener.accept().await;
        let (server, open) = (server.clone(), open.clone());
        open.set(open.get() + 1);
        spawn(async move {
            serve(&server, &stream).await;
            open.set(open.get() - 1);
        });
    }
}

fn machine(_: &Metrics) -> Machine {
    START.with(|start| {
        let net = start.interface.as_ref().map(|interface| interface.counters()).unwrap_or_default();
        Machine {
            uptime: (Instant::now().as_nanos() - start.time) / 1_000_000_000,
            free_memory: (free_frames() * 4096) as u64,
            all_memory: start.free,
            net_received: net.received,
            net_sent: net.sent,
            net_dropped: net.dropped,
        }
    })
}
