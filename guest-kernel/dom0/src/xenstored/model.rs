//! xenstored against a naive oracle: random operations by dom0 and two guests, some of them in transactions
//! that overlap, with watches. After each one, reply, events and the whole tree must be the oracle's.
//!
//! The oracle keeps a list of nodes, scans it for everything, and decides conflicts from a log of all changes:
//! a commit fails if and only if a node that the transaction has looked at changed after that look.

use super::conns::ConnId;
use super::path::Path;
use super::perms::Who;
use super::quota::Quota;
use super::server::{Host, Server};
use super::store::{RELEASE_DOMAIN, Store};
use super::wire::Message;
use super::{Client, Error};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};
use core::cell::RefCell;
use proptest::prelude::*;
use shared_abi::DomId;
use shared_abi::io::xs_wire;

/// Collects log lines, and is short of memory when told; introducing always works.
#[derive(Clone, Default)]
pub(crate) struct FakeHost(Rc<RefCell<Vec<String>>>, Rc<core::cell::Cell<bool>>);

impl FakeHost {
    /// What was logged.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.borrow().clone()
    }
}

impl Host for FakeHost {
    fn introduce(&mut self, _: DomId, _: u64, _: u32, _: ConnId) -> Result<(), Error> {
        Ok(())
    }
    fn release(&mut self, _: DomId) {}
    fn is_short_of_memory(&self) -> bool {
        self.1.get()
    }
    fn log(&mut self, line: core::fmt::Arguments<'_>) {
        self.0.borrow_mut().push(line.to_string());
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Rec {
    value: String,
    perms: Vec<(u16, char)>,
    children: BTreeSet<String>,
}

impl Rec {
    fn allows(&self, who: u16, right: char) -> bool {
        let entry = self.perms[1..].iter().find(|(domain, _)| *domain == who).unwrap_or(&self.perms[0]);
        who == 0 || who == self.perms[0].0 || (right != 'o' && (entry.1 == 'b' || entry.1 == right))
    }
}

type Tree = Vec<(String, Rec)>;

fn above(path: &str) -> Option<String> {
    if path == "/" {
        return None;
    }
    let cut = path.rfind('/').unwrap();
    Some(if cut == 0 { "/".into() } else { path[..cut].into() })
}

fn under(path: &str, top: &str) -> bool {
    path == top || top == "/" || path.starts_with(&format!("{top}/"))
}

fn leaf(path: &str) -> String {
    path.rsplit('/').next().unwrap().into()
}

/// `top` and what its children lists lead to.
fn reach(tree: &Tree, top: &str) -> Vec<String> {
    let below = find(tree, top).into_iter().flat_map(|rec| rec.children.iter());
    let mut all = vec![top.to_string()];
    all.extend(below.flat_map(|name| reach(tree, &format!("{}/{name}", top.trim_end_matches('/')))));
    all
}

fn find_mut<'a>(tree: &'a mut Tree, path: &str) -> &'a mut Rec {
    &mut tree.iter_mut().find(|(name, _)| name == path).unwrap().1
}

fn find<'a>(tree: &'a Tree, path: &str) -> Option<&'a Rec> {
    tree.iter().find(|(name, _)| name == path).map(|(_, rec)| rec)
}

/// What one operation did: nodes looked at, nodes whose record changed, events (path, exact, perms before).
#[derive(Default)]
struct Effects {
    looked: Vec<String>,
    changed: Vec<String>,
    events: Vec<(String, bool, Option<Rec>)>,
}

#[derive(Clone, Debug)]
enum Op {
    Read(String),
    List(String),
    Write(String, String),
    Mkdir(String),
    Rm(String),
    GetPerms(String),
    SetPerms(String, Vec<(u16, char)>),
}

impl Op {
    fn message(&self, transaction: u32) -> Message {
        let (kind, payload) = match self {
            Op::Read(path) => (xs_wire::XS_READ, format!("{path}\0")),
            Op::List(path) => (xs_wire::XS_DIRECTORY, format!("{path}\0")),
            Op::Write(path, value) => (xs_wire::XS_WRITE, format!("{path}\0{value}")),
            Op::Mkdir(path) => (xs_wire::XS_MKDIR, format!("{path}\0")),
            Op::Rm(path) => (xs_wire::XS_RM, format!("{path}\0")),
            Op::GetPerms(path) => (xs_wire::XS_GET_PERMS, format!("{path}\0")),
            Op::SetPerms(path, perms) => (xs_wire::XS_SET_PERMS, format!("{path}\0{}", wire(perms))),
        };
        Message { kind, request: 7, transaction, payload: payload.into_bytes() }
    }
}

fn wire(perms: &[(u16, char)]) -> String {
    perms.iter().map(|(domain, letter)| format!("{letter}{domain}\0")).collect()
}

/// The operation on `tree` as `who`; an error leaves the tree alone.
fn apply(tree: &mut Tree, who: u16, op: &Op, fx: &mut Effects) -> Result<String, &'static str> {
    let (path, right) = match op {
        Op::Read(path) | Op::List(path) | Op::GetPerms(path) => (path, 'r'),
        Op::Write(path, _) | Op::Mkdir(path) | Op::Rm(path) => (path, 'w'),
        Op::SetPerms(path, _) => (path, 'o'),
    };
    if matches!(op, Op::Rm(_)) && path == "/" {
        return Err("EINVAL");
    }
    fx.looked.push(path.clone());
    let here = find(tree, path).cloned();
    let refusal = match &here {
        Some(rec) => (!rec.allows(who, right)).then_some("EACCES"),
        None => {
            let mut at = path.clone();
            loop {
                at = above(&at).unwrap();
                fx.looked.push(at.clone());
                if let Some(rec) = find(tree, &at) {
                    break Some(if rec.allows(who, right) { "ENOENT" } else { "EACCES" });
                }
            }
        }
    };
    let ok = || Ok("OK\0".to_string());
    match (op, refusal) {
        (Op::Rm(_), Some("ENOENT")) if find(tree, &above(path).unwrap()).is_some() => ok(),
        (Op::Write(_, _) | Op::Mkdir(_), Some("ENOENT")) => {
            let mut missing = vec![path.clone()];
            let base = loop {
                let up = above(missing.last().unwrap()).unwrap();
                if find(tree, &up).is_some() {
                    break up;
                }
                missing.push(up);
            };
            let mut perms = find(tree, &base).unwrap().perms.clone();
            if who != 0 {
                perms[0].0 = who;
            }
            for node in &missing {
                let value = match op {
                    Op::Write(_, value) if node == path => value.clone(),
                    _ => String::new(),
                };
                tree.push((node.clone(), Rec { value, perms: perms.clone(), children: BTreeSet::new() }));
            }
            for node in &missing {
                find_mut(tree, &above(node).unwrap()).children.insert(leaf(node));
            }
            fx.changed.extend(missing);
            fx.changed.push(base);
            fx.events.push((path.clone(), false, None));
            ok()
        }
        (_, Some(error)) => Err(error),
        (Op::Read(_), None) => Ok(here.unwrap().value),
        (Op::GetPerms(_), None) => Ok(wire(&here.unwrap().perms)),
        (Op::List(_), None) => {
            let names: Vec<String> = here.unwrap().children.iter().map(|name| format!("{name}\0")).collect();
            Ok(names.concat())
        }
        (Op::Mkdir(_), None) => ok(),
        (Op::Write(_, value), None) => {
            find_mut(tree, path).value = value.clone();
            fx.changed.push(path.clone());
            fx.events.push((path.clone(), false, None));
            ok()
        }
        (Op::Rm(_), None) => {
            fx.looked.push(above(path).unwrap());
            if find(tree, &above(path).unwrap()).is_none() {
                return Err("EINVAL"); // Only where a transaction sees nodes of different times.
            }
            let doomed = reach(tree, path);
            for name in &doomed {
                fx.looked.push(name.clone());
                if let Some(rec) = find(tree, name) {
                    fx.changed.push(name.clone());
                    fx.events.push((name.clone(), name != path, Some(rec.clone())));
                }
            }
            tree.retain(|(name, _)| !doomed.contains(name));
            find_mut(tree, &above(path).unwrap()).children.remove(&leaf(path));
            fx.changed.push(above(path).unwrap());
            ok()
        }
        (Op::SetPerms(_, perms), None) => {
            let old = here.unwrap();
            if who != 0 && perms[0].0 != old.perms[0].0 {
                return Err("EPERM");
            }
            find_mut(tree, path).perms = perms.clone();
            fx.changed.push(path.clone());
            fx.events.push((path.clone(), false, Some(old)));
            ok()
        }
    }
}

/// A transaction of the oracle: what it has copied from the tree (None: not there), when it first looked.
#[derive(Default)]
struct Open {
    id: u32,
    looks: BTreeMap<String, usize>,
    copies: BTreeMap<String, Option<Rec>>,
    written: BTreeSet<String>,
    events: BTreeMap<String, (bool, Option<Rec>)>,
}

#[derive(Default)]
struct Oracle {
    tree: Tree,
    /// Every change of a record since the start, in order.
    log: Vec<String>,
    open: BTreeMap<usize, Open>,
}

impl Oracle {
    /// The tree as the transaction sees it, if that sees all of `self.tree` now: its copies over the rest.
    fn seen(&self, open: &Open) -> Tree {
        let mut tree: Tree =
            self.tree.iter().filter(|(name, _)| !open.copies.contains_key(name)).cloned().collect();
        tree.extend(open.copies.iter().filter_map(|(name, rec)| Some((name.clone(), rec.clone()?))));
        tree
    }
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("/".to_string()),
        20 => prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|parts| format!("/{}", parts.join("/"))),
    ]
}

fn perms() -> impl Strategy<Value = Vec<(u16, char)>> {
    prop::collection::vec((0u16..3, prop::sample::select(vec!['n', 'r', 'w', 'b'])), 1..4)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => path().prop_map(Op::Read),
        1 => path().prop_map(Op::List),
        3 => (path(), "[xyz]{0,2}").prop_map(|(path, value)| Op::Write(path, value)),
        1 => path().prop_map(Op::Mkdir),
        1 => path().prop_map(Op::Rm),
        1 => path().prop_map(Op::GetPerms),
        2 => (path(), perms()).prop_map(|(path, perms)| Op::SetPerms(path, perms)),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    /// Connection, whether in its transaction if it has one, operation.
    Do(usize, bool, Op),
    Start(usize),
    End(usize, bool),
    Watch(usize, String),
    Unwatch(usize, String),
}

fn step() -> impl Strategy<Value = Step> {
    let conn = 0usize..4;
    prop_oneof![
        20 => (conn.clone(), any::<bool>(), op()).prop_map(|(conn, inside, op)| Step::Do(conn, inside, op)),
        3 => conn.clone().prop_map(Step::Start),
        3 => (conn.clone(), prop::bool::weighted(0.8)).prop_map(|(conn, commit)| Step::End(conn, commit)),
        1 => (conn.clone(), path()).prop_map(|(conn, path)| Step::Watch(conn, path)),
        1 => (conn, path()).prop_map(|(conn, path)| Step::Unwatch(conn, path)),
    ]
}

fn dump(store: &Store) -> BTreeMap<String, (String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    store
        .iter()
        .filter(|(path, _)| !path.is_special() && !under(path.as_str(), "/tool"))
        .map(|(path, node)| (path.as_str().into(), (text(node.value.clone()), text(node.perms.to_wire()))))
        .collect()
}

fn call(
    server: &mut Server,
    conn: ConnId,
    kind: u32,
    transaction: u32,
    payload: &str,
) -> Result<String, String> {
    let reply = server.call(conn, &Message { kind, request: 7, transaction, payload: payload.into() });
    let text = String::from_utf8(reply.payload).unwrap();
    if reply.kind == xs_wire::XS_ERROR { Err(text.trim_end_matches('\0').into()) } else { Ok(text) }
}

fn events(server: &mut Server, conn: ConnId) -> BTreeSet<String> {
    core::iter::from_fn(|| server.take_output(conn))
        .map(|event| String::from_utf8(event.payload).unwrap())
        .collect()
}

/// The domain of each connection: dom0 has two.
const WHO: [u16; 4] = [0, 1, 2, 0];

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_the_oracle(steps in prop::collection::vec(step(), 1..90)) {
        let mut server = Server::new(Box::new(FakeHost::default()));
        let conns = WHO.map(|domain| server.connect(if domain == 0 { Who::DOM0 } else { Who::guest(DomId(domain)) }));
        let mut oracle = Oracle::default();
        let mut watches: Vec<(usize, String)> = Vec::new();
        oracle.tree.push(("/".into(), Rec { value: "".into(), perms: vec![(0, 'n')], children: BTreeSet::new() }));
        // Only the root's listing would show what xenstored itself has put there.
        call(&mut server, conns[0], xs_wire::XS_RM, 0, "/tool\0").unwrap();

        for step in steps {
            let mut heard: Vec<(String, bool, Option<Rec>)> = Vec::new();
            let mut expected_events: Vec<BTreeSet<String>> = vec![BTreeSet::new(); WHO.len()];
            match step {
                Step::Do(conn, inside, op) => {
                    let mut fx = Effects::default();
                    let open = oracle.open.remove(&conn);
                    let (expected, id) = match open {
                        Some(mut open) if inside => {
                            let mut tree = oracle.seen(&open);
                            let expected = apply(&mut tree, WHO[conn], &op, &mut fx);
                            for path in &fx.looked {
                                open.looks.entry(path.clone()).or_insert(oracle.log.len());
                                open.copies.entry(path.clone()).or_insert_with(|| find(&oracle.tree, path).cloned());
                            }
                            for path in &fx.changed {
                                open.copies.insert(path.clone(), find(&tree, path).cloned());
                                open.written.insert(path.clone());
                            }
                            open.events.extend(fx.events.into_iter().map(|(path, exact, rec)| (path, (exact, rec))));
                            let id = open.id;
                            oracle.open.insert(conn, open);
                            (expected, id)
                        }
                        other => {
                            oracle.open.extend(other.map(|open| (conn, open)));
                            let expected = apply(&mut oracle.tree, WHO[conn], &op, &mut fx);
                            oracle.log.extend(fx.changed);
                            heard = fx.events;
                            (expected, 0)
                        }
                    };
                    let message = op.message(id);
                    let reply = server.call(conns[conn], &message);
                    let text = String::from_utf8(reply.payload).unwrap();
                    match expected {
                        Ok(expected) => prop_assert_eq!((reply.kind, text), (message.kind, expected), "{:?}", op),
                        Err(error) => prop_assert_eq!((reply.kind, text), (xs_wire::XS_ERROR, format!("{error}\0")), "{:?}", op),
                    }
                }
                Step::Start(conn) if !oracle.open.contains_key(&conn) => {
                    let id = call(&mut server, conns[conn], xs_wire::XS_TRANSACTION_START, 0, "\0").unwrap();
                    let open = Open { id: id.trim_end_matches('\0').parse().unwrap(), ..Open::default() };
                    oracle.open.insert(conn, open);
                }
                Step::Start(_) => {}
                Step::End(conn, commit) => {
                    let Some(open) = oracle.open.remove(&conn) else { continue };
                    let arg = if commit { "T\0" } else { "F\0" };
                    let reply = call(&mut server, conns[conn], xs_wire::XS_TRANSACTION_END, open.id, arg);
                    let conflict = open.looks.iter().any(|(path, at)| oracle.log[*at..].contains(path));
                    if commit && conflict {
                        prop_assert_eq!(reply, Err("EAGAIN".to_string()));
                    } else {
                        prop_assert_eq!(reply, Ok("OK\0".to_string()));
                    }
                    if commit && !conflict {
                        for path in open.written {
                            oracle.tree.retain(|(name, _)| *name != path);
                            oracle.tree.extend(open.copies[&path].clone().map(|rec| (path.clone(), rec)));
                            oracle.log.push(path);
                        }
                        heard = open.events.into_iter().map(|(path, (exact, rec))| (path, exact, rec)).collect();
                    }
                }
                Step::Watch(conn, path) => {
                    let expected = if watches.contains(&(conn, path.clone())) { Err("EEXIST".to_string()) } else { Ok("OK\0".into()) };
                    let reply = call(&mut server, conns[conn], xs_wire::XS_WATCH, 0, &format!("{path}\0t{path}\0"));
                    prop_assert_eq!(&reply, &expected);
                    if expected.is_ok() {
                        expected_events[conn].insert(format!("{path}\0t{path}\0"));
                        watches.push((conn, path));
                    }
                }
                Step::Unwatch(conn, path) => {
                    let known = watches.iter().position(|watch| *watch == (conn, path.clone()));
                    let reply = call(&mut server, conns[conn], xs_wire::XS_UNWATCH, 0, &format!("{path}\0t{path}\0"));
                    prop_assert_eq!(reply.is_ok(), known.is_some());
                    known.map(|at| watches.remove(at));
                }
            }
            for (path, exact, before) in heard {
                for (conn, watched) in &watches {
                    let matches = if exact { path == *watched } else { under(&path, watched) };
                    let now = find(&oracle.tree, &path);
                    let reads = |rec: &Rec| rec.allows(WHO[*conn], 'r');
                    let parent = above(&path).and_then(|parent| find(&oracle.tree, &parent).cloned());
                    let may = before.as_ref().is_some_and(reads)
                        || now.is_some_and(reads)
                        || ((before.is_some() || now.is_some()) && parent.as_ref().is_some_and(reads));
                    if matches && may {
                        expected_events[*conn].insert(format!("{path}\0t{watched}\0"));
                    }
                }
            }
            for (conn, expected) in expected_events.iter().enumerate() {
                prop_assert_eq!(&events(&mut server, conns[conn]), expected, "events of connection {}", conn);
            }
            let expected: BTreeMap<_, _> =
                oracle.tree.iter().map(|(path, rec)| (path.clone(), (rec.value.clone(), wire(&rec.perms)))).collect();
            prop_assert_eq!(dump(&server.store), expected);
            for domain in 0..3u16 {
                let owned = server.store.iter().filter(|(_, node)| node.perms.owner() == DomId(domain)).count();
                prop_assert_eq!(server.store.usage(DomId(domain)).nodes, owned);
            }
        }
        prop_assert_eq!(call(&mut server, conns[0], xs_wire::XS_CONTROL, 0, "check\0"), Ok("OK\0".to_string()));
    }

    /// Any message of a guest: no panic, and dom0 is still served and its nodes are untouched.
    #[test]
    fn any_message_is_answered(
        messages in prop::collection::vec((0u32..24, 0u32..3, "[/a@0-9.\\x00rwT-]{0,24}"), 1..60),
    ) {
        let mut server = Server::new(Box::new(FakeHost::default()));
        let dom0 = server.connect(Who::DOM0);
        server.introduce(1, 5, 5).unwrap();
        let guest = server.conn_of(DomId(1)).unwrap();
        call(&mut server, dom0, xs_wire::XS_WRITE, 0, "/local/domain/1\0").unwrap();
        call(&mut server, dom0, xs_wire::XS_SET_PERMS, 0, "/local/domain/1\0n1\0").unwrap();
        call(&mut server, dom0, xs_wire::XS_WRITE, 0, "/vm/secret\0kept").unwrap();
        for (kind, transaction, payload) in messages {
            server.handle(guest, &Message { kind, request: 9, transaction, payload: payload.into_bytes() });
            let mut replies = 0;
            while let Some(message) = server.take_output(guest) {
                replies += usize::from(message.kind != xs_wire::XS_WATCH_EVENT);
                prop_assert!(message.payload.len() <= super::wire::PAYLOAD_MAX);
            }
            prop_assert_eq!(replies, 1);
        }
        prop_assert_eq!(call(&mut server, dom0, xs_wire::XS_READ, 0, "/vm/secret\0"), Ok("kept".to_string()));
        prop_assert_eq!(call(&mut server, dom0, xs_wire::XS_CONTROL, 0, "check\0"), Ok("OK\0".to_string()));
    }
}

fn guest_with_home(host: &FakeHost) -> (Server, ConnId, ConnId) {
    let mut server = Server::new(Box::new(host.clone()));
    let dom0 = server.connect(Who::DOM0);
    server.introduce(1, 5, 5).unwrap();
    let guest = server.conn_of(DomId(1)).unwrap();
    call(&mut server, dom0, xs_wire::XS_MKDIR, 0, "/local/domain/1\0").unwrap();
    call(&mut server, dom0, xs_wire::XS_SET_PERMS, 0, "/local/domain/1\0n1\0").unwrap();
    (server, dom0, guest)
}

#[test]
fn each_quota_stops_a_guest_and_is_named_once_in_the_log() {
    let host = FakeHost::default();
    let (mut server, dom0, guest) = guest_with_home(&host);
    for (quota, value) in
        [(Quota::Nodes, 4), (Quota::Watches, 2), (Quota::Transactions, 2), (Quota::TransactionNodes, 3)]
    {
        server.quotas.set(quota, value);
    }
    let mut go = |kind, transaction, payload: &str| call(&mut server, guest, kind, transaction, payload);
    for name in ["a", "b", "c"] {
        go(xs_wire::XS_WRITE, 0, &format!("{name}\0x")).unwrap();
    }
    assert_eq!(go(xs_wire::XS_WRITE, 0, "d\0x"), Err("ENOSPC".into()));
    assert_eq!(go(xs_wire::XS_WRITE, 0, "e/f\0x"), Err("ENOSPC".into()));
    assert_eq!(go(xs_wire::XS_READ, 0, "e\0"), Err("ENOENT".into()));
    assert_eq!(go(xs_wire::XS_WRITE, 0, "a\0y"), Ok("OK\0".into()));
    let big = "x".repeat(2048);
    assert_eq!(go(xs_wire::XS_WRITE, 0, &format!("a\0{big}")), Err("ENOSPC".into()));
    assert_eq!(go(xs_wire::XS_READ, 0, "a\0"), Ok("y".into()));
    assert_eq!(go(xs_wire::XS_SET_PERMS, 0, "a\0n1\0r2\0r3\0r4\0r5\0r6\0"), Err("ENOSPC".into()));
    for path in ["a", "b"] {
        go(xs_wire::XS_WATCH, 0, &format!("{path}\0t\0")).unwrap();
    }
    assert_eq!(go(xs_wire::XS_WATCH, 0, "c\0t\0"), Err("E2BIG".into()));
    assert_eq!(go(xs_wire::XS_TRANSACTION_START, 0, "\0"), Ok("1\0".into()));
    assert_eq!(go(xs_wire::XS_TRANSACTION_START, 0, "\0"), Ok("2\0".into()));
    assert_eq!(go(xs_wire::XS_TRANSACTION_START, 0, "\0"), Err("ENOSPC".into()));
    for path in ["a", "b", "c"] {
        go(xs_wire::XS_READ, 1, &format!("{path}\0")).unwrap();
    }
    assert_eq!(go(xs_wire::XS_READ, 1, "/\0"), Err("ENOSPC".into()));
    assert_eq!(go(xs_wire::XS_WRITE, 0, &format!("{}\0x", "p".repeat(2049))), Err("EINVAL".into()));
    // Over and over, in turns: a guest does not fill the log with it.
    for _ in 0..10 {
        assert!(go(xs_wire::XS_WATCH, 0, "c\0t\0").is_err() && go(xs_wire::XS_WRITE, 0, "d\0x").is_err());
    }
    call(&mut server, dom0, xs_wire::XS_WRITE, 0, &format!("/big\0{big}")).unwrap();

    let log = host.0.borrow().join("\n");
    for quota in [
        Quota::Nodes,
        Quota::NodeSize,
        Quota::NodePermissions,
        Quota::Watches,
        Quota::Transactions,
        Quota::TransactionNodes,
        Quota::PathLength,
    ] {
        assert_eq!(log.matches(&format!("\"{}\"", quota.name())).count(), 1, "{log}");
    }
}

#[test]
fn memory_is_bounded_in_transactions_and_in_unread_events() {
    let host = FakeHost::default();
    let (mut server, dom0, guest) = guest_with_home(&host);
    server.quotas.set(Quota::Memory, 20_000);
    call(&mut server, guest, xs_wire::XS_TRANSACTION_START, 0, "\0").unwrap();
    let value = "x".repeat(1500);
    let refused =
        (0..40).find_map(|n| call(&mut server, guest, xs_wire::XS_WRITE, 1, &format!("n{n}\0{value}")).err());
    assert_eq!(refused, Some("ENOMEM".into()));
    call(&mut server, guest, xs_wire::XS_TRANSACTION_END, 1, "F\0").unwrap();

    server.handle(
        guest,
        &Message { kind: xs_wire::XS_WATCH, request: 1, transaction: 0, payload: b"data\0t\0".to_vec() },
    );
    for n in 0..2000 {
        call(&mut server, dom0, xs_wire::XS_WRITE, 0, &format!("/local/domain/1/data/{n}\0x")).unwrap();
        call(&mut server, dom0, xs_wire::XS_WRITE, 0, "/local/domain/1/data/0\0x").unwrap();
    }
    assert!(!server.is_open(guest));
    assert_eq!(server.output_len(guest), 0);
    assert!(host.0.borrow().iter().filter(|line| line.contains("watch events")).count() == 1);
    assert_eq!(call(&mut server, dom0, xs_wire::XS_READ, 0, "/local/domain/1/data/7\0"), Ok("x".into()));
}

#[test]
fn a_released_domain_leaves_nothing_behind() {
    let (mut server, dom0, guest) = guest_with_home(&FakeHost::default());
    call(&mut server, guest, xs_wire::XS_WRITE, 0, "a/b\0x").unwrap();
    call(&mut server, dom0, xs_wire::XS_WRITE, 0, "/shared\0x").unwrap();
    call(&mut server, dom0, xs_wire::XS_SET_PERMS, 0, "/shared\0n0\0b1\0b2\0").unwrap();
    call(&mut server, dom0, xs_wire::XS_WATCH, 0, &format!("{RELEASE_DOMAIN}\0t\0")).unwrap();
    events(&mut server, dom0);
    call(&mut server, dom0, xs_wire::XS_RELEASE, 0, "1\0").unwrap();
    assert_eq!(events(&mut server, dom0), BTreeSet::from([format!("{RELEASE_DOMAIN}\0t\0")]));
    assert_eq!(call(&mut server, dom0, xs_wire::XS_READ, 0, "/local/domain/1/a\0"), Err("ENOENT".into()));
    assert_eq!(call(&mut server, dom0, xs_wire::XS_GET_PERMS, 0, "/shared\0"), Ok("n0\0b2\0".into()));
    assert_eq!(server.store.usage(DomId(1)), Default::default());
    assert_eq!(call(&mut server, dom0, xs_wire::XS_CONTROL, 0, "check\0"), Ok("OK\0".into()));
    assert_eq!(call(&mut server, dom0, xs_wire::XS_IS_DOMAIN_INTRODUCED, 0, "1\0"), Ok("F\0".into()));
}

#[test]
fn a_long_directory_comes_in_parts() {
    let mut server = Server::new(Box::new(FakeHost::default()));
    let dom0 = server.connect(Who::DOM0);
    let names: Vec<String> = (0..600).map(|n| format!("child-{n:05}")).collect();
    for name in &names {
        call(&mut server, dom0, xs_wire::XS_MKDIR, 0, &format!("/d/{name}\0")).unwrap();
    }
    assert_eq!(call(&mut server, dom0, xs_wire::XS_DIRECTORY, 0, "/d\0"), Err("E2BIG".into()));
    let (mut seen, mut offset) = (Vec::new(), 0);
    loop {
        let part =
            call(&mut server, dom0, xs_wire::XS_DIRECTORY_PART, 0, &format!("/d\0{offset}\0")).unwrap();
        let list = part.split_once('\0').unwrap().1;
        offset += list.len();
        let mut piece: Vec<&str> = list.split_terminator('\0').collect();
        let last = piece.last() == Some(&"");
        piece.retain(|name| !name.is_empty());
        seen.extend(piece.into_iter().map(String::from));
        if last {
            break;
        }
    }
    assert_eq!(seen, names);
    let server = Rc::new(RefCell::new(server));
    assert_eq!(Client::new(&server).directory("/d"), Ok(names));
}

#[test]
fn the_client_repeats_a_transaction_that_conflicts() {
    let server = Rc::new(RefCell::new(Server::new(Box::new(FakeHost::default()))));
    let (client, other) = (Client::new(&server), Client::new(&server));
    client.write("/n", "0").unwrap();
    let mut runs = 0;
    client
        .transaction(|client| {
            runs += 1;
            let value: u32 = client.read_text("/n").unwrap().parse().unwrap();
            if runs == 1 {
                other.write("/n", "10")?;
            }
            client.write("/n", (value + 1).to_string())
        })
        .unwrap();
    assert_eq!((runs, client.read_text("/n").unwrap()), (2, "11".into()));
    client.watch("/n", "token").unwrap();
    assert_eq!(client.try_event().unwrap().token, "token");
    assert!(client.directory("/absent").is_err() && client.read_text(Path::root().as_str()).is_some());
}

/// XSA-326 and XSA-349: dom0 hears of what guests do to nodes that it watches. Events for it used to be
/// queued however many there were, so guests that write faster than dom0 reads could fill its memory.
#[test]
fn a_guest_cannot_fill_dom0s_queue_of_events() {
    let (mut server, dom0, guest) = guest_with_home(&FakeHost::default());
    for token in ["a", "b"] {
        call(&mut server, dom0, xs_wire::XS_WATCH, 0, &format!("/local/domain/1\0{token}\0")).unwrap();
    }
    events(&mut server, dom0);
    for _ in 0..3 {
        for n in 0..1000 {
            call(&mut server, guest, xs_wire::XS_WRITE, 0, &format!("state\0{n}")).unwrap();
        }
        assert_eq!(server.output_len(dom0), 2);
        assert_eq!(events(&mut server, dom0).len(), 2);
    }
}

/// A hundred guests that each stay within their quota could still take all of dom0's memory.
#[test]
fn guests_take_no_more_when_dom0_is_short_of_memory() {
    let host = FakeHost::default();
    let (mut server, dom0, guest) = guest_with_home(&host);
    call(&mut server, guest, xs_wire::XS_WRITE, 0, "data\0x").unwrap();
    host.1.set(true);
    for (kind, payload) in [(xs_wire::XS_WRITE, "more\0x"), (xs_wire::XS_WATCH, "data\0t\0")] {
        assert_eq!(call(&mut server, guest, kind, 0, payload), Err("ENOMEM".into()));
    }
    assert_eq!(call(&mut server, guest, xs_wire::XS_READ, 0, "data\0"), Ok("x".into()));
    assert_eq!(call(&mut server, guest, xs_wire::XS_RM, 0, "data\0"), Ok("OK\0".into()));
    assert!(call(&mut server, dom0, xs_wire::XS_WRITE, 0, "/local/domain/1/control\0x").is_ok());
    host.1.set(false);
    assert!(call(&mut server, guest, xs_wire::XS_WRITE, 0, "more\0x").is_ok());
}
