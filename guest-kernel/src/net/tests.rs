use super::*;
use crate::back::net::{Accepts, Backend, Clock, Scratch};
use crate::fake::{Bell, Granted, Grants, Page, Peer, Rng, Tasks};
use crate::front::net::{Interface, Offer};
use crate::ring::FrontRing;
use proptest::prelude::*;
use smoltcp::wire::{DHCP_CLIENT_PORT, DhcpMessageType, DhcpPacket, DhcpRepr};
use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::vec;
use std::vec::Vec;

/// One end of a cable that loses frames now and then, and fills checksums in as hardware does.
struct Cable {
    mac: [u8; 6],
    incoming: Rc<Lane>,
    outgoing: Rc<Lane>,
    loss: u64,
    rng: RefCell<Rng>,
}

#[derive(Default)]
struct Lane {
    frames: RefCell<VecDeque<Vec<u8>>>,
    waker: RefCell<Option<Waker>>,
}

impl Nic for Cable {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }
    fn receive(&self, to: &mut [u8]) -> Option<(usize, Checksum)> {
        let frame = self.incoming.frames.borrow_mut().pop_front()?;
        to[..frame.len()].copy_from_slice(&frame);
        Some((frame.len(), Checksum::Unknown))
    }
    fn can_send(&self) -> bool {
        true
    }
    fn send(&self, frame: &mut [u8], state: Checksum) {
        if state == Checksum::Blank {
            checksum::fill(frame);
        }
        let mut rng = self.rng.borrow_mut();
        if self.loss > 0 && rng.below(self.loss) == 0 {
            match rng.below(2) {
                0 => return,
                // Noise on the line.
                _ => {
                    let at = rng.below(frame.len() as u64) as usize;
                    frame[at] ^= 4;
                }
            }
        }
        self.outgoing.frames.borrow_mut().push_back(frame.to_vec());
    }
    fn flush(&self) {
        if let Some(waker) = self.outgoing.waker.borrow_mut().take() {
            waker.wake();
        }
    }
    fn poll_event(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.incoming.frames.borrow().is_empty() {
            return Poll::Ready(());
        }
        *self.incoming.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn cable(loss: u64, seed: u64) -> (Box<dyn Nic>, Box<dyn Nic>) {
    let lanes = (Rc::new(Lane::default()), Rc::new(Lane::default()));
    let end = |number, incoming: &Rc<Lane>, outgoing: &Rc<Lane>| {
        let (incoming, outgoing) = (incoming.clone(), outgoing.clone());
        let rng = RefCell::new(Rng(seed ^ number as u64));
        Box::new(Cable { mac: [2, 0, 0, 0, 0, number], incoming, outgoing, loss, rng })
    };
    (end(1, &lanes.0, &lanes.1), end(2, &lanes.1, &lanes.0))
}

/// Time that passes when nobody has anything to do.
#[derive(Clone, Default)]
struct World {
    now: Rc<Cell<u64>>,
    due: Rc<RefCell<Vec<Option<u64>>>>,
    stacks: Rc<RefCell<Vec<Rc<Stack>>>>,
}

impl World {
    fn stack(&self, nic: Box<dyn Nic>, address: &str, tasks: &mut Tasks<'_>) -> Rc<Stack> {
        let addressing = Addressing::parse(address).expect("an address");
        let stack = Stack::new(nic, addressing, 7, self.now.get());
        let index = self.stacks.borrow().len();
        self.stacks.borrow_mut().push(stack.clone());
        self.due.borrow_mut().push(None);
        let (world, running) = (self.clone(), stack.clone());
        tasks.spawn(100, async move {
            loop {
                let next = running.poll(world.now.get());
                world.due.borrow_mut()[index] = next;
                std::future::poll_fn(|cx| running.poll_event(cx)).await;
            }
        });
        stack
    }

    /// Runs until `done`, or for `limit` nanoseconds.
    fn run(&self, tasks: &mut Tasks<'_>, limit: u64, done: impl Fn() -> bool) {
        let end = self.now.get() + limit;
        loop {
            tasks.run(1_000_000);
            let next = self.due.borrow().iter().flatten().min().copied();
            match next {
                Some(next) if !done() && next <= end => {
                    self.now.set(self.now.get().max(next));
                    for stack in &*self.stacks.borrow() {
                        stack.inner.borrow_mut().kick();
                    }
                }
                _ => return,
            }
        }
    }
}

const SECOND: u64 = 1_000_000_000;

fn endpoint(last: u8, port: u16) -> IpEndpoint {
    IpEndpoint::new(IpAddress::v4(10, 0, 0, last), port)
}

async fn echo(stack: Rc<Stack>, port: u16, backlog: usize) {
    let listener = TcpListener::bind(&stack, port, backlog, Buffers::default()).expect("a free port");
    loop {
        let stream = listener.accept().await;
        let mut buffer = [0; 700];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => break,
                Ok(count) => stream.write_all(&buffer[..count]).await.expect("open"),
                Err(_) => break,
            }
        }
        let _ = stream.close().await;
    }
}

/// Sends `bytes`, reads as many back, and compares.
async fn visit(stack: Rc<Stack>, bytes: Vec<u8>, done: Rc<Cell<u32>>) {
    let stream = TcpStream::connect(&stack, endpoint(1, 7), Buffers { receive: 2000, send: 3000 }).await;
    let stream = stream.expect("connected");
    let (mut sent, mut got, mut buffer) = (0, vec![], [0; 1000]);
    while got.len() < bytes.len() {
        if sent < bytes.len() {
            sent += stream.write(&bytes[sent..bytes.len().min(sent + 900)]).await.expect("open");
        } else {
            stream.shutdown();
        }
        if sent - got.len() > 1500 || sent == bytes.len() {
            let count = stream.read(&mut buffer).await.expect("open");
            assert!(count > 0, "ended early");
            got.extend_from_slice(&buffer[..count]);
        }
    }
    assert!(got == bytes, "other bytes than were sent");
    stream.close().await.expect("orderly");
    done.set(done.get() + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Data survives lost and damaged frames, and every buffer is given back.
    #[test]
    fn tcp_over_a_bad_cable(seed: u64, loss in prop::sample::select(vec![0u64, 50, 12]), len in 1usize..20_000) {
        let mut tasks = Tasks::new(seed);
        let world = World::default();
        let (one, two) = cable(loss, seed);
        let server = world.stack(one, "10.0.0.1", &mut tasks);
        let client = world.stack(two, "10.0.0.2", &mut tasks);
        tasks.spawn(1, echo(server.clone(), 7, 8));
        tasks.run(1_000_000); // the server listens before the first call
        let done = Rc::new(Cell::new(0));
        let mut rng = Rng(seed);
        let bytes: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
        tasks.spawn(0, visit(client.clone(), bytes, done.clone()));
        world.run(&mut tasks, 1000 * SECOND, || done.get() == 1);
        prop_assert_eq!(done.get(), 1);
        world.run(&mut tasks, 120 * SECOND, || false);
        prop_assert_eq!(client.inner.borrow().sockets.iter().count(), 0, "the client's socket stays");
        prop_assert_eq!(server.inner.borrow().sockets.iter().count(), 2, "only the reserve is left");
        if loss == 0 { prop_assert_eq!(server.bad_checksums() + client.bad_checksums(), 0); }
    }
}

/// smoltcp resets a connection that no socket listens for: a burst of clients that arrives before
/// any task has run used to lose all but as many as there were listeners.
#[test]
fn a_burst_of_connections_is_all_accepted() {
    let mut tasks = Tasks::new(5);
    let world = World::default();
    let (one, two) = cable(0, 5);
    let server = world.stack(one, "10.0.0.1", &mut tasks);
    let client = world.stack(two, "10.0.0.2", &mut tasks);
    let accepted = Rc::new(Cell::new(0));
    let (stack, count) = (server.clone(), accepted.clone());
    tasks.spawn(1, async move {
        let listener = TcpListener::bind(&stack, 7, 64, Buffers::default()).expect("a free port");
        let mut streams = vec![];
        loop {
            streams.push(listener.accept().await);
            count.set(count.get() + 1);
        }
    });
    let connected = Rc::new(RefCell::new(vec![]));
    for _ in 0..64 {
        let (stack, connected) = (client.clone(), connected.clone());
        tasks.spawn(0, async move {
            let stream = TcpStream::connect(&stack, endpoint(1, 7), Buffers::default()).await;
            connected.borrow_mut().push(stream);
        });
    }
    world.run(&mut tasks, 10 * SECOND, || false);
    assert_eq!(accepted.get(), 64);
    assert!(connected.borrow().iter().all(Result::is_ok));
    connected.borrow_mut().clear();
    tasks.kill(1);
    world.run(&mut tasks, 100 * SECOND, || false);
    for stack in [server, client] {
        assert_eq!(stack.inner.borrow().sockets.iter().count(), 0);
    }
}

#[test]
fn errors_have_names() {
    let mut tasks = Tasks::new(5);
    let world = World::default();
    let (one, two) = cable(0, 5);
    let server = world.stack(one, "10.0.0.1", &mut tasks);
    let client = world.stack(two, "10.0.0.2", &mut tasks);
    let listener = TcpListener::bind(&server, 80, 1, Buffers::default()).expect("a free port");
    assert_eq!(TcpListener::bind(&server, 80, 1, Buffers::default()).err(), Some(TcpError::Port));
    assert_eq!(TcpListener::bind(&server, 0, 1, Buffers::default()).err(), Some(TcpError::Port));
    let outcomes = Rc::new(RefCell::new(vec![]));
    for (address, port) in [(1, 81), (1, 80)] {
        let (stack, outcomes) = (client.clone(), outcomes.clone());
        tasks.spawn(0, async move {
            match TcpStream::connect(&stack, endpoint(address, port), Buffers::default()).await {
                Err(error) => outcomes.borrow_mut().push(error),
                Ok(stream) => {
                    let read = stream.read(&mut [0; 9]).await;
                    outcomes.borrow_mut().push(read.expect_err("reset"));
                    assert_eq!(stream.write(b"x").await, Err(TcpError::Closed));
                }
            }
        });
    }
    world.run(&mut tasks, SECOND, || false);
    drop(listener);
    world.run(&mut tasks, SECOND, || false);
    assert_eq!(*outcomes.borrow(), [TcpError::Refused, TcpError::Closed]);
}

#[test]
fn datagrams_come_and_go() {
    let mut tasks = Tasks::new(5);
    let world = World::default();
    let (one, two) = cable(0, 5);
    let server = world.stack(one, "10.0.0.1", &mut tasks);
    let client = world.stack(two, "10.0.0.2", &mut tasks);
    tasks.spawn(1, async move {
        let socket = UdpSocket::bind(&server, 53, 4, 4000).expect("a free port");
        assert_eq!(UdpSocket::bind(&server, 53, 4, 4000).err(), Some(UdpError::Port));
        let mut buffer = [0; 2000];
        loop {
            let (count, from) = socket.recv_from(&mut buffer).await;
            socket.send_to(&buffer[..count], from).await.expect("sent");
        }
    });
    let done = Rc::new(Cell::new(false));
    let flag = done.clone();
    tasks.spawn(0, async move {
        let socket = UdpSocket::bind(&client, 0, 4, 4000).expect("any port");
        assert!(socket.port() >= 0xc000);
        let mut buffer = [0; 2000];
        for len in [1, 2, 100, 1400] {
            socket.send_to(&vec![len as u8; len], endpoint(1, 53)).await.expect("sent");
            let (count, from) = socket.recv_from(&mut buffer).await;
            assert_eq!((count, from), (len, endpoint(1, 53)));
            assert_eq!(buffer[..count], vec![len as u8; len]);
        }
        assert_eq!(socket.send_to(&[0; 5000], endpoint(1, 53)).await, Err(UdpError::TooLarge));
        flag.set(true);
    });
    world.run(&mut tasks, 10 * SECOND, || done.get());
    assert!(done.get());
}

/// What a DHCP server as small as can be does with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    /// Leases this address (its last byte) to whoever asks, for 600 seconds.
    Lease(u8),
    /// Offers this one, and then refuses it.
    Refuse(u8),
    Silent,
}

/// A server in a changing mood, and what it has been asked.
async fn dhcp_server(server: Rc<Stack>, mood: Rc<Cell<Mood>>, asked: Rc<RefCell<Vec<DhcpMessageType>>>) {
    let ours = Ipv4Address::new(10, 0, 0, 1);
    let socket = UdpSocket::bind(&server, 67, 4, 4000).expect("a free port");
    let mut buffer = [0; 1500];
    loop {
        let (count, _) = socket.recv_from(&mut buffer).await;
        let packet = DhcpPacket::new_checked(&buffer[..count]).expect("a packet");
        let request = DhcpRepr::parse(&packet).expect("a request");
        asked.borrow_mut().push(request.message_type);
        let (kind, last) = match (request.message_type, mood.get()) {
            (_, Mood::Silent) => continue,
            (DhcpMessageType::Discover, Mood::Lease(last) | Mood::Refuse(last)) => {
                (DhcpMessageType::Offer, last)
            }
            (_, Mood::Lease(last)) => (DhcpMessageType::Ack, last),
            (_, Mood::Refuse(last)) => (DhcpMessageType::Nak, last),
        };
        let reply = DhcpRepr {
            message_type: kind,
            your_ip: Ipv4Address::new(10, 0, 0, last),
            server_identifier: Some(ours),
            router: Some(ours),
            subnet_mask: Some(Ipv4Address::new(255, 255, 255, 0)),
            lease_duration: Some(600),
            requested_ip: None,
            client_identifier: None,
            parameter_request_list: None,
            max_size: None,
            ..request
        };
        let mut out = vec![0; reply.buffer_len()];
        reply.emit(&mut DhcpPacket::new_unchecked(&mut out)).expect("emitted");
        let everybody = IpEndpoint::new(IpAddress::v4(255, 255, 255, 255), DHCP_CLIENT_PORT);
        socket.send_to(&out, everybody).await.expect("sent");
    }
}

/// An address is asked for until there is one, kept as long as the server renews it, and given up
/// when the server refuses it or the lease ends.
#[test]
fn an_address_comes_by_dhcp_and_goes_with_its_lease() {
    let mut tasks = Tasks::new(5);
    let world = World::default();
    let (one, two) = cable(0, 5);
    let server = world.stack(one, "10.0.0.1", &mut tasks);
    let client = world.stack(two, "dhcp", &mut tasks);
    let (mood, asked) = (Rc::new(Cell::new(Mood::Silent)), Rc::new(RefCell::new(vec![])));
    tasks.spawn(1, dhcp_server(server, mood.clone(), asked.clone()));
    let seen = Rc::new(RefCell::new(vec![]));
    let (stack, told) = (client.clone(), seen.clone());
    tasks.spawn(0, async move {
        let mut known = None;
        loop {
            known = stack.readdressed(known).await;
            told.borrow_mut().push(known.map(|address| std::format!("{address}")));
        }
    });
    // Nobody answers: it asks on.
    world.run(&mut tasks, 300 * SECOND, || false);
    assert!(client.address().is_none() && asked.borrow().len() > 5);
    // An offer that is refused when it is asked for, again and again: not a storm of requests.
    asked.borrow_mut().clear();
    mood.set(Mood::Refuse(66));
    world.run(&mut tasks, 100 * SECOND, || false);
    assert!(client.address().is_none() && asked.borrow().contains(&DhcpMessageType::Request));
    assert!(asked.borrow().len() < 20, "{:?}", asked.borrow());
    // A lease, renewed every time: the address stays through many of them.
    mood.set(Mood::Lease(77));
    world.run(&mut tasks, 100 * SECOND, || client.address().is_some());
    asked.borrow_mut().clear();
    world.run(&mut tasks, 6000 * SECOND, || false);
    assert!(asked.borrow().iter().all(|kind| *kind == DhcpMessageType::Request));
    assert!((10..=40).contains(&asked.borrow().len()), "{}", asked.borrow().len());
    assert_eq!(*seen.borrow(), [Some("10.0.0.77/24 via 10.0.0.1".into())]);
    // The server falls silent: the lease ends; later there is another one.
    mood.set(Mood::Silent);
    world.run(&mut tasks, 700 * SECOND, || false);
    assert_eq!(client.address(), None);
    mood.set(Mood::Lease(78));
    world.run(&mut tasks, 700 * SECOND, || client.address().is_some());
    // It is refused when it is to be renewed: it is not used any more.
    mood.set(Mood::Refuse(78));
    world.run(&mut tasks, 400 * SECOND, || false);
    assert_eq!(client.address(), None);
    let expected = ["10.0.0.77/24 via 10.0.0.1", "", "10.0.0.78/24 via 10.0.0.1", ""];
    let expected: Vec<_> = expected.map(|text| (!text.is_empty()).then(|| text.into())).into();
    assert_eq!(*seen.borrow(), expected);
}

/// What one guest's backend gives to another's, as a bridge would.
#[derive(Default)]
struct Across(RefCell<Option<Rc<GuestBackend>>>);

type GuestBackend = Backend<Peer, Page, Rc<Bell>, Rc<Across>>;

impl FrameSink for Across {
    fn frame(&self, frame: Frame<'_>) {
        if let Some(other) = &*self.0.borrow() {
            other.frame(frame);
        }
    }
    fn flush(&self) {
        if let Some(other) = &*self.0.borrow() {
            other.flush();
        }
    }
}

impl Clock for World {
    fn now(&self) -> u64 {
        self.now.get()
    }
    async fn sleep_until(&self, _: u64) {}
}

fn guest(
    world: &World,
    number: u8,
    accepts: Accepts,
    pages: (usize, usize),
    tasks: &mut Tasks<'_>,
) -> (Rc<Interface<Granted, Bell>>, Rc<GuestBackend>, Rc<Across>) {
    let grants = Grants::new();
    let nic = Rc::new(Interface::new([2, 0, 0, 0, 0, number], grants.pages(pages.0), grants.pages(pages.1)));
    let (tx, rx) = (FrontRing::new(grants.grant()), FrontRing::new(grants.grant()));
    let shared: (Page, Page) = (tx.memory().share(), rx.memory().share());
    let (front_bell, back_bell) = Bell::pair();
    let across = Rc::new(Across::default());
    let scratch = Rc::new(RefCell::new(Scratch::new()));
    let backend =
        Backend::new(Peer(grants), shared.0, shared.1, back_bell, across.clone(), accepts, None, scratch);
    let backend = Rc::new(backend.expect("fresh rings"));
    let (running, clock) = (backend.clone(), world.clone());
    tasks.spawn(50, async move {
        running.run(&clock).await;
    });
    let offer = Offer { blank_ipv4: accepts.blank_ipv4, blank_ipv6: accepts.blank_ipv6 };
    nic.connect(tx, rx, front_bell, offer);
    (nic, backend, across)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The whole way: a service in one guest, a client in another, both drivers' halves between,
    /// with every mixture of checksum offload, and rings as small as they can be.
    #[test]
    fn two_guests_talk(
        seed: u64, blank: (bool, bool), small: bool, visitors in 1u32..6, len in 1usize..6000,
    ) {
        let mut tasks = Tasks::new(seed);
        let world = World::default();
        let pages = if small { (2, 1) } else { (32, 16) };
        let accepts = |blank| Accepts { blank_ipv4: blank, blank_ipv6: blank, ..Accepts::default() };
        let (nic1, back1, across1) = guest(&world, 1, accepts(blank.0), pages, &mut tasks);
        let (nic2, back2, across2) = guest(&world, 2, accepts(blank.1), pages, &mut tasks);
        *across1.0.borrow_mut() = Some(back2.clone());
        *across2.0.borrow_mut() = Some(back1.clone());
        let server = world.stack(Box::new(nic1), "10.0.0.1", &mut tasks);
        let client = world.stack(Box::new(nic2), "10.0.0.2", &mut tasks);
        tasks.spawn(1, echo(server.clone(), 7, 16));
        tasks.run(1_000_000); // the server listens before the first call
        let done = Rc::new(Cell::new(0));
        let mut rng = Rng(seed);
        for _ in 0..visitors {
            let bytes: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
            tasks.spawn(0, visit(client.clone(), bytes, done.clone()));
        }
        world.run(&mut tasks, 600 * SECOND, || done.get() == visitors);
        prop_assert_eq!(done.get(), visitors);
        prop_assert_eq!(server.bad_checksums() + client.bad_checksums(), 0);
        // Two Rc cycles: cut them, for the tests' memory.
        across1.0.borrow_mut().take();
        across2.0.borrow_mut().take();
    }
}
