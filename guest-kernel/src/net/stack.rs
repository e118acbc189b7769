//! The TCP/IP stack of a guest: smoltcp, an interface, and sockets that tasks can wait on.
//!
//! One task, [`Stack::run`], moves packets; sockets only touch their buffers and ask it to look.
//! The hardest decision is where connections are accepted. smoltcp answers a SYN that no socket
//! listens for with a reset, so a burst of connections must find a listening socket for each,
//! before any task gets to run: the stack itself keeps listening sockets in reserve, and adds the
//! next after every single packet.

use super::config::{Address, Addressing};
use super::device::Device;
use super::{Nic, tcp::Listening};
use crate::wait::WaitList;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll};
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv6Address, Ipv6Cidr};

/// Packets taken in before other tasks get a turn.
const TURN: usize = 64;
/// How long a closed connection may take to say good-bye.
const LINGER: Duration = Duration::from_secs(30);
/// How long a reset may take to get out.
const RESET: Duration = Duration::from_secs(1);

/// A guest's network. Sockets are made from it: see [`TcpListener`](super::TcpListener),
/// [`TcpStream`](super::TcpStream) and [`UdpSocket`](super::UdpSocket).
pub struct Stack {
    pub(super) inner: RefCell<Inner>,
}

pub(super) struct Inner {
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    device: Device,
    dhcp: Option<SocketHandle>,
    address: Option<Address>,
    /// Who waits for another address.
    readdressed: WaitList,
    pub(super) listeners: Vec<Option<Listening>>,
    /// Connections nobody holds any more, until they have ended or their time is over.
    lingering: Vec<(SocketHandle, Instant)>,
    /// A socket has something to do.
    kicked: bool,
    runner: WaitList,
    now: Instant,
    next_port: u16,
}

impl Stack {
    /// A stack on `nic`. `seed` should differ from boot to boot; `now` is in nanoseconds.
    pub fn new(nic: Box<dyn Nic>, addressing: Addressing, seed: u64, now: u64) -> Rc<Self> {
        let now = instant(now);
        let mac = EthernetAddress(nic.mac());
        let mut device = Device::new(nic);
        let mut config = Config::new(mac.into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, now);
        interface.update_ip_addrs(|list| {
            // There is room: the list is empty.
            let _ = list.push(IpCidr::Ipv6(link_local(mac)));
        });
        let mut sockets = SocketSet::new(Vec::new());
        let dhcp = match addressing {
            Addressing::Dhcp => {
                let mut socket = dhcpv4::Socket::new();
                socket.set_ignore_naks(true);
                Some(sockets.add(socket))
            }
            Addressing::Static(_) => None,
        };
        let mut inner = Inner {
            interface,
            sockets,
            device,
            dhcp,
            address: None,
            readdressed: WaitList::new(),
            listeners: Vec::new(),
            lingering: Vec::new(),
            kicked: true,
            runner: WaitList::new(),
            now,
            // The dynamic ports of RFC 6335, from a place that is hard to guess.
            next_port: 0xc000 | seed as u16,
        };
        if let Addressing::Static(address) = addressing {
            inner.configure(Some(address));
        }
        Rc::new(Stack { inner: RefCell::new(inner) })
    }

    /// The address in use, if there is one.
    pub fn address(&self) -> Option<Address> {
        self.inner.borrow().address
    }

    /// Waits for an address.
    pub async fn configured(&self) -> Address {
        poll_fn(|cx| match self.poll_address(None, cx) {
            Poll::Ready(Some(address)) => Poll::Ready(address),
            _ => Poll::Pending,
        })
        .await
    }

    /// Waits until the address is another one than `known`, or there is none any more.
    pub async fn readdressed(&self, known: Option<Address>) -> Option<Address> {
        poll_fn(|cx| self.poll_address(known, cx)).await
    }

    fn poll_address(&self, known: Option<Address>, cx: &Context<'_>) -> Poll<Option<Address>> {
        let mut inner = self.inner.borrow_mut();
        if inner.address != known {
            return Poll::Ready(inner.address);
        }
        inner.readdressed.park(cx);
        Poll::Pending
    }

    /// Frames dropped because their transport checksum was wrong.
    pub fn bad_checksums(&self) -> u64 {
        self.inner.borrow().device.bad
    }

    /// Moves packets at the time `now`, in nanoseconds, and returns when to do it again, at the
    /// latest; `None` if only an event needs it.
    pub fn poll(&self, now: u64) -> Option<u64> {
        self.inner.borrow_mut().poll(instant(now)).map(|at| at.total_micros().max(0) as u64 * 1000)
    }

    /// Ready when [`poll`](Self::poll) has something to do before its time.
    pub fn poll_event(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner.borrow_mut();
        inner.runner.park(cx);
        let event = inner.device.nic.poll_event(cx).is_ready();
        if core::mem::take(&mut inner.kicked) || event { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Inner {
    /// Asks [`Stack::run`] to look at the sockets.
    pub(super) fn kick(&mut self) {
        self.kicked = true;
        self.runner.wake_all();
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        self.now = now;
        self.kicked = false;
        self.interface.poll_maintenance(now);
        let mut turn = TURN;
        while turn > 0 {
            match self.interface.poll_ingress_single(now, &mut self.device, &mut self.sockets) {
                PollIngressSingleResult::None => break,
                PollIngressSingleResult::PacketProcessed => {}
                PollIngressSingleResult::SocketStateChanged => self.accept(),
            }
            turn -= 1;
        }
        while self.interface.poll_egress(now, &mut self.device, &mut self.sockets)
            == PollResult::SocketStateChanged
        {}
        self.device.nic.flush();
        self.accept();
        self.bury();
        self.follow_dhcp();
        if turn == 0 {
            return Some(now);
        }
        let next = self.interface.poll_at(now, &self.sockets);
        let burial = self.lingering.iter().map(|(_, until)| *until).min();
        [next, burial].into_iter().flatten().min()
    }

    /// Keeps listening sockets in reserve.
    pub(super) fn accept(&mut self) {
        for listening in self.listeners.iter_mut().flatten() {
            listening.replenish(&mut self.sockets);
        }
    }

    /// Lets a connection that nobody holds any more end by itself.
    pub(super) fn linger(&mut self, handle: SocketHandle) {
        self.sockets.get_mut::<tcp::Socket<'_>>(handle).close();
        self.lingering.push((handle, self.now + LINGER));
        self.kick();
    }

    /// Removes connections that have ended.
    fn bury(&mut self) {
        let (sockets, now) = (&mut self.sockets, self.now);
        self.lingering.retain_mut(|(handle, until)| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
            // TIME-WAIT would only keep the buffers: a stray segment gets a reset instead.
            let quiet = socket.state() == tcp::State::TimeWait || socket.remote_endpoint().is_none();
            if socket.is_open() && now >= *until {
                // The reset goes out with the next poll, if there is a way to the peer at all.
                socket.abort();
                *until = now + RESET;
            } else if !socket.is_open() && (quiet || now >= *until) {
                sockets.remove(*handle);
                return false;
            }
            true
        });
    }

    fn follow_dhcp(&mut self) {
        let Some(handle) = self.dhcp else { return };
        let socket = self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle);
        let event = match socket.poll() {
            None => return,
            Some(dhcpv4::Event::Deconfigured) => None,
            Some(dhcpv4::Event::Configured(config)) => Some(Address {
                cidr: config.address,
                gateway: config.router,
                dns: config.dns_servers.first().copied(),
            }),
        };
        // A refusal ends a lease. Before there is one it would only make smoltcp start over at once,
        // and a server that offers and refuses in turn would be asked without a pause.
        socket.set_ignore_naks(event.is_none());
        self.configure(event);
    }

    fn configure(&mut self, address: Option<Address>) {
        self.interface.update_ip_addrs(|list| {
            list.retain(|cidr| matches!(cidr, IpCidr::Ipv6(_)));
            if let Some(address) = address {
                // There is room: one address of each kind.
                let _ = list.push(IpCidr::Ipv4(address.cidr));
            }
        });
        let routes = self.interface.routes_mut();
        routes.remove_default_ipv4_route();
        if let Some(gateway) = address.and_then(|address| address.gateway) {
            // There is room: the only route.
            let _ = routes.add_default_ipv4_route(gateway);
        }
        self.address = address;
        self.readdressed.wake_all();
        self.kick();
    }

    /// A local port nobody uses, for an outgoing connection or a datagram.
    pub(super) fn ephemeral_port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(0xc000);
            let taken = self.sockets.iter().any(|(_, socket)| match socket {
                smoltcp::socket::Socket::Tcp(socket) => {
                    socket.local_endpoint().is_some_and(|endpoint| endpoint.port == port)
                        || socket.listen_endpoint().port == port
                }
                smoltcp::socket::Socket::Udp(socket) => socket.endpoint().port == port,
                _ => false,
            });
            // There are 16384 of them, and memory for far fewer sockets.
            if !taken {
                return port;
            }
        }
    }
}

/// A TCP socket with buffers of these sizes, in bytes.
pub(super) fn tcp_socket(receive: usize, send: usize) -> tcp::Socket<'static> {
    let mut socket =
        tcp::Socket::new(tcp::SocketBuffer::new(vec![0; receive]), tcp::SocketBuffer::new(vec![0; send]));
    // Small writes of a task are together in the buffer before the stack looks: no need to wait.
    socket.set_nagle_enabled(false);
    // A peer that is gone must not keep its buffers for ever.
    socket.set_keep_alive(Some(Duration::from_secs(30)));
    socket.set_timeout(Some(Duration::from_secs(90)));
    socket
}

fn instant(nanos: u64) -> Instant {
    Instant::from_micros((nanos / 1000).min(i64::MAX as u64) as i64)
}

/// The link-local address that goes with a MAC (RFC 4291, appendix A).
fn link_local(mac: EthernetAddress) -> Ipv6Cidr {
    let m = mac.0.map(u16::from);
    let id = [(m[0] ^ 2) << 8 | m[1], m[2] << 8 | 0xff, 0xfe00 | m[3], m[4] << 8 | m[5]];
    Ipv6Cidr::new(Ipv6Address::new(0xfe80, 0, 0, 0, id[0], id[1], id[2], id[3]), 64)
}
