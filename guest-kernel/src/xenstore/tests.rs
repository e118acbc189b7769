//! The client against a small daemon of the tests' own, in process and over a ring.

use super::*;
use crate::executor::{block_on, sleep, yield_now};
use crate::memory::Pages;
use crate::start::Ring;
use core::time::Duration;
use guest_machine::shared_info::raise;
use proptest::prelude::*;
use shared_abi::io::ring::bytes;
use std::boxed::Box;
use std::vec;

/// A flat store: nodes, watches by prefix, and transactions that fail `conflicts` times.
#[derive(Default)]
pub(crate) struct Daemon {
    pub nodes: BTreeMap<String, Vec<u8>>,
    watches: Vec<(String, String)>,
    conflicts: u32,
    started: u32,
}

impl Daemon {
    fn handle(&mut self, message: Message) -> Vec<Message> {
        let parts: Vec<String> = message.payload.split(|b| *b == 0).map(|s| text(s.to_vec())).collect();
        let path = parts[0].clone();
        let mut out = vec![];
        let reply = match message.kind {
            XS_READ => self.nodes.get(&path).cloned().ok_or(Errno::ENOENT),
            XS_WRITE => {
                self.nodes.insert(path.clone(), message.payload[path.len() + 1..].to_vec());
                for (prefix, token) in &self.watches {
                    if path.starts_with(prefix.as_str()) {
                        out.push(event(&path, token));
                    }
                }
                Ok(b"OK\0".to_vec())
            }
            XS_DIRECTORY => {
                let below = format!("{path}/");
                let names = self.nodes.keys().filter_map(|node| node.strip_prefix(&below)?.split('/').next());
                let mut names: Vec<&str> = names.collect();
                names.dedup();
                let payload: String = names.iter().flat_map(|name| [name, "\0"]).collect();
                match payload.len() {
                    0 => Err(Errno::ENOENT),
                    1..=XENSTORE_PAYLOAD_MAX => Ok(payload.into_bytes()),
                    _ => Err(Errno::E2BIG),
                }
            }
            XS_DIRECTORY_PART => {
                let below = format!("{path}/");
                let names = self.nodes.keys().filter_map(|node| node.strip_prefix(&below));
                let all: String = names.flat_map(|name| [name, "\0"]).collect();
                let offset: usize = parts[1].parse().expect("an offset");
                let whole = all[offset..].split_inclusive('\0').scan(0, |sum, name| {
                    *sum += name.len();
                    (*sum < 1000).then_some(name)
                });
                let whole: String = whole.collect();
                let last = if offset + whole.len() == all.len() { "\0" } else { "" };
                if self.conflicts > 0 && offset > 0 {
                    self.conflicts -= 1;
                    self.started += 1;
                }
                Ok(format!("{}\0{whole}{last}", self.started).into_bytes())
            }
            XS_RM => self.nodes.remove(&path).map(|_| b"OK\0".to_vec()).ok_or(Errno::ENOENT),
            XS_WATCH => {
                self.watches.push((path.clone(), parts[1].clone()));
                out.push(event(&path, &parts[1]));
                Ok(b"OK\0".to_vec())
            }
            XS_UNWATCH => {
                self.watches.retain(|(p, t)| (p, t) != (&path, &parts[1]));
                Ok(b"OK\0".to_vec())
            }
            XS_TRANSACTION_START => {
                self.started += 1;
                Ok(format!("{}\0", self.started).into_bytes())
            }
            XS_TRANSACTION_END if self.conflicts > 0 => {
                self.conflicts -= 1;
                Err(Errno::EAGAIN)
            }
            XS_TRANSACTION_END => Ok(b"OK\0".to_vec()),
            _ => Err(Errno::ENOSYS),
        };
        let (kind, payload) = match reply {
            Ok(payload) => (message.kind, payload),
            Err(errno) => (XS_ERROR, format!("{}\0", errno.name()).into_bytes()),
        };
        // The reply first: a watch's own event follows the reply to the watch.
        out.insert(0, Message { kind, payload, ..message });
        out
    }
}

fn event(path: &str, token: &str) -> Message {
    let payload = format!("{path}\0{token}\0").into_bytes();
    Message { kind: XS_WATCH_EVENT, request: 0, transaction: 0, payload }
}

/// A client and the daemon that it talks to.
pub(crate) fn served() -> (Xenstore, Rc<RefCell<Daemon>>) {
    let (store, mut requests, replies) = in_process();
    let daemon = Rc::new(RefCell::new(Daemon::default()));
    let own = daemon.clone();
    spawn(async move {
        while let Some(message) = requests.receive().await {
            let out = own.borrow_mut().handle(message);
            for message in out {
                replies.send(message).await.unwrap();
            }
        }
    });
    (store, daemon)
}

#[test]
fn reads_writes_and_errors() {
    block_on(async {
        let (store, _) = served();
        assert_eq!(store.read("a").await, Err(Errno::ENOENT));
        assert_eq!(store.try_read("a").await, Ok(None));
        store.write("a", "17").await.unwrap();
        assert_eq!(store.read_parsed::<u32>("a").await, Ok(17));
        store.write("a", "x").await.unwrap();
        assert_eq!(store.read_parsed::<u32>("a").await, Err(Errno::EINVAL));
        assert_eq!(store.write("b", vec![0; 4096]).await, Err(Errno::E2BIG));
        assert_eq!(store.mkdir("b").await, Err(Errno::ENOSYS));
        store.rm("a").await.unwrap();
    });
}

#[test]
fn concurrent_requests_get_their_own_replies() {
    block_on(async {
        let (store, _) = served();
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                let store = store.clone();
                spawn(async move {
                    let path = format!("n/{n}");
                    store.write_display(&path, n).await.unwrap();
                    store.read_parsed::<u32>(&path).await.unwrap()
                })
            })
            .collect();
        for (n, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await, Some(n as u32));
        }
        assert!(store.connection.waiting.borrow().is_empty());
    });
}

#[test]
fn a_watch_fires_at_once_and_on_change_and_ends_with_its_handle() {
    block_on(async {
        let (store, daemon) = served();
        let mut watch = store.watch("dev").await.unwrap();
        assert_eq!(watch.next().await.as_deref(), Some("dev"));
        store.write("dev/0/state", "1").await.unwrap();
        store.write("dev/0/state", "2").await.unwrap();
        store.write("other", "2").await.unwrap();
        assert_eq!(watch.next().await.as_deref(), Some("dev/0/state"));
        sleep(Duration::from_millis(1)).await;
        assert!(!watch.take_all());
        drop(watch);
        sleep(Duration::from_millis(1)).await;
        assert!(daemon.borrow().watches.is_empty());
    });
}

#[test]
fn a_transaction_is_repeated_until_it_fits() {
    block_on(async {
        let (store, daemon) = served();
        daemon.borrow_mut().conflicts = 3;
        let runs = Cell::new(0);
        let result = store
            .transaction(async |t| {
                runs.set(runs.get() + 1);
                t.write("a", "1").await?;
                Ok(t.transaction)
            })
            .await;
        assert_eq!((result, runs.get()), (Ok(4), 4));
        assert_eq!(store.transaction(async |t| t.read("none").await).await, Err(Errno::ENOENT));
    });
}

#[test]
fn a_broken_connection_fails_everybody() {
    block_on(async {
        let (store, requests, replies) = in_process();
        let mut watch_store = store.clone();
        watch_store.transaction = 0;
        let asked = spawn(async move { store.read("a").await });
        yield_now().await;
        drop((requests, replies));
        assert_eq!(asked.await, Some(Err(Errno::EIO)));
        assert_eq!(watch_store.read("a").await, Err(Errno::EIO));
        assert!(watch_store.watch("a").await.is_err());
    });
}

/// The daemon's end of a ring: takes requests and puts replies `step` bytes at a time.
async fn far_end(page: &'static Pages, port: Port, step: usize) {
    const IN: [usize; 3] = [0, 2048, 2052];
    const OUT: [usize; 3] = [1024, 2056, 2060];
    let (mut daemon, mut incoming, mut out) = (Daemon::default(), vec![], vec![]);
    loop {
        let [at, cons_at, prod_at] = IN;
        let (cons, prod) = (page.load_u32(cons_at), page.load_u32(prod_at));
        let take = prod.wrapping_sub(cons).min(step as u32);
        for n in 0..take {
            incoming.push(page.load_u8(at + (cons.wrapping_add(n) % 1024) as usize));
        }
        page.store_u32(cons_at, cons.wrapping_add(take));
        while let Some(message) = Message::take(&mut incoming).unwrap() {
            out.extend(daemon.handle(message).iter().flat_map(Message::encode));
        }
        let [at, cons_at, prod_at] = OUT;
        let (cons, prod) = (page.load_u32(cons_at), page.load_u32(prod_at));
        let put = bytes::free(prod, cons, 1024).unwrap().min(step as u32).min(out.len() as u32);
        for (n, byte) in out.drain(..put as usize).enumerate() {
            page.store_u8(at + (prod.wrapping_add(n as u32) % 1024) as usize, byte);
        }
        page.store_u32(prod_at, prod.wrapping_add(put));
        if take + put > 0 {
            raise(port);
        }
        sleep(Duration::from_micros(1)).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Values longer than the ring, in pieces of any size, from any starting index.
    #[test]
    fn messages_pass_the_ring_whole(lens in prop::collection::vec(0usize..4000, 1..8), step in 1usize..1025, start: u32) {
        let page: &'static Pages = Box::leak(Box::new(Pages::new(1).unwrap()));
        for at in [2048, 2052, 2056, 2060] { page.store_u32(at, start); }
        let ok = block_on(async move {
            let daemon = spawn(far_end(page, Port(11), step));
            let store = over_ring(Ring { page, port: Port(11) });
            for (n, len) in lens.into_iter().enumerate() {
                let value: Vec<u8> = (0..len).map(|b| (b * 7 + n) as u8).collect();
                store.write("v", &value).await.unwrap();
                if store.read_bytes("v").await.unwrap() != value { return false; }
            }
            daemon.abort();
            true
        });
        prop_assert!(ok);
    }
}

#[test]
fn a_wild_index_breaks_the_connection_and_nothing_else() {
    let page: &'static Pages = Box::leak(Box::new(Pages::new(1).unwrap()));
    block_on(async move {
        let store = over_ring(Ring { page, port: Port(12) });
        let asked = spawn(async move { store.read("a").await });
        yield_now().await;
        page.store_u32(2060, 5000);
        raise(Port(12));
        assert_eq!(asked.await, Some(Err(Errno::EIO)));
    });
}

#[test]
fn permissions_print_as_the_protocol_has_them() {
    let perms = Permissions::readable_by(DomId(3), DomId(0));
    assert_eq!(perms.encode(), b"n3\0r0\0");
    assert_eq!(Permissions::parse(b"n3\0r0\0"), Some(perms));
    for bad in [&b""[..], b"\0", b"x3\0", b"r\0", b"r99999\0"] {
        assert_eq!(Permissions::parse(bad), None);
    }
}

/// A domain with hundreds of devices: its directory does not fit into a message.
#[test]
fn a_long_directory_is_read_in_parts_and_again_if_it_changes() {
    block_on(async {
        for (conflicts, expected) in [(0, Ok(700)), (5, Ok(700)), (100, Err(Errno::EAGAIN))] {
            let (store, daemon) = served();
            for number in 0..700 {
                daemon.borrow_mut().nodes.insert(format!("d/{number:06}"), vec![]);
            }
            daemon.borrow_mut().conflicts = conflicts;
            let names = store.directory("d").await;
            assert_eq!(names.as_ref().map(Vec::len).map_err(|errno| *errno), expected);
            if let Ok(names) = names {
                assert!((0..700).all(|number| names[number] == format!("{number:06}")));
            }
        }
    });
}

proptest! {
    /// Whatever a daemon answers: parsed or refused, and never beyond its end.
    #[test]
    fn any_part_of_a_directory_is_parsed_or_refused(payload in prop::collection::vec(0u8..3, 0..20)) {
        if let Some(part) = DirectoryPart::parse(&payload) {
            prop_assert!(part.generation.len() + part.names.len() < payload.len());
            prop_assert!(part.names.last().is_none_or(|byte| *byte == 0));
        }
    }
}
