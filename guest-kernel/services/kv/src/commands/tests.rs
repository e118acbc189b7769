use super::*;
use crate::faulty::FaultyDisk;
use crate::journal::Journal;
use crate::resp::{Parsed, parse};
use crate::server::{Counters, Limits};
use crate::store::Store;
use core::cell::RefCell;
use guest_kernel::executor::block_on;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::thread_local;

thread_local! {
    static NOW: core::cell::Cell<u64> = const { core::cell::Cell::new(1_000_000) };
}

fn server(sectors: usize, memory: usize) -> Server<FaultyDisk> {
    NOW.set(1_000_000);
    block_on(async move {
        let disk = FaultyDisk::new(std::vec![0; sectors * 512], u64::MAX);
        let (journal, _, _) = Journal::open(disk, 1).await.expect("an empty volume");
        Server {
            store: RefCell::new(Store::default()),
            journal,
            limits: Limits { memory, request: 100_000, input: 1_000_000 },
            counters: Counters::default(),
            clock: || NOW.get(),
            started: 1_000_000,
            port: 6379,
        }
    })
}

/// What the server replies to a line of words.
fn say(server: &Server<FaultyDisk>, line: &str) -> String {
    let line = format!("{line}\r\n");
    let Parsed::Request(args, _) = parse(line.as_bytes(), 1_000_000) else { panic!("{line}") };
    let mut out = Replies::default();
    run(server, &mut Session::default(), &args, &mut out);
    String::from_utf8(out.0).expect("text")
}

#[test]
fn replies_are_redis_replies() {
    let server = server(4096, 1 << 20);
    for (line, reply) in [
        ("PING", "+PONG\r\n"),
        ("ping hi", "$2\r\nhi\r\n"),
        ("SET a 1", "+OK\r\n"),
        ("GET a", "$1\r\n1\r\n"),
        ("GET none", "$-1\r\n"),
        ("INCR a", ":2\r\n"),
        ("DECRBY a 5", ":-3\r\n"),
        ("SET t text", "+OK\r\n"),
        ("INCR t", "-ERR value is not an integer or out of range\r\n"),
        ("SET m 9223372036854775807", "+OK\r\n"),
        ("INCR m", "-ERR increment or decrement would overflow\r\n"),
        ("APPEND t s", ":5\r\n"),
        ("STRLEN t", ":5\r\n"),
        ("SET a 5 NX", "$-1\r\n"),
        ("SET b 5 XX", "$-1\r\n"),
        ("SET a 6 XX GET", "$2\r\n-3\r\n"),
        ("SET a 7 NX XX", "-ERR syntax error\r\n"),
        ("SET a 7 EX 0", "-ERR invalid expire time in 'set' command\r\n"),
        ("SET a 7 EX x", "-ERR value is not an integer or out of range\r\n"),
        ("SET a 7 PX 1500", "+OK\r\n"),
        ("PTTL a", ":1500\r\n"),
        ("SET a 8 KEEPTTL", "+OK\r\n"),
        ("TTL a", ":2\r\n"),
        ("PERSIST a", ":1\r\n"),
        ("TTL a", ":-1\r\n"),
        ("TTL none", ":-2\r\n"),
        ("EXPIRE none 1", ":0\r\n"),
        ("EXPIRE a -1", ":1\r\n"),
        ("EXISTS a t t", ":2\r\n"),
        ("MSET x 1 y 2", "+OK\r\n"),
        ("MSET x 1 y", "-ERR wrong number of arguments for 'mset' command\r\n"),
        ("MGET x none y", "*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n"),
        ("SETNX x 3", ":0\r\n"),
        ("GETSET x 3", "$1\r\n1\r\n"),
        ("RENAME none x", "-ERR no such key\r\n"),
        ("RENAME x z", "+OK\r\n"),
        ("TYPE z", "+string\r\n"),
        ("TYPE x", "+none\r\n"),
        ("DEL z y none", ":2\r\n"),
        ("KEYS [mt]", "*2\r\n"),
        ("DBSIZE", ":2\r\n"),
        ("SELECT 0", "+OK\r\n"),
        ("SELECT 1", "-ERR DB index is out of range\r\n"),
        ("HELLO 3", "-NOPROTO unsupported protocol version\r\n"),
        ("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        ("COMMAND COUNT", ":41\r\n"),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("NOPE a b", "-ERR unknown command 'NOPE', with args beginning with: 'a' 'b' \r\n"),
        ("FLUSHALL", "+OK\r\n"),
        ("DBSIZE", ":0\r\n"),
        ("SCAN 0", "*2\r\n$1\r\n0\r\n*0\r\n"),
        ("SCAN x", "-ERR invalid cursor\r\n"),
    ] {
        let got = say(&server, line);
        assert!(got == reply || (line.starts_with("KEYS") && got.starts_with(reply)), "{line}: {got:?}");
    }
    assert!(say(&server, "INFO").contains("redis_version:"));
    assert!(!say(&server, "INFO server").contains("# Clients"));
}

#[test]
fn a_full_memory_and_a_full_volume_refuse_writes_and_name_the_limit() {
    let small = server(4096, 1000);
    assert_eq!(say(&small, "SET a 1"), "+OK\r\n");
    let large = format!("SET b {}", "x".repeat(1000));
    assert_eq!(
        say(&small, &large),
        "-OOM command not allowed when used memory > 'maxmemory' (1000 bytes).\r\n"
    );
    assert_eq!(say(&small, "GET a"), "$1\r\n1\r\n");
    let small = server(48, 1 << 20);
    assert!(say(&small, &format!("SET b {}", "x".repeat(8000))).starts_with("-ERR the volume is full"));
    assert_eq!(say(&small, "SET a 1"), "+OK\r\n");
    assert_eq!(say(&small, "DEL a"), ":1\r\n");
}

/// A model of the commands over a map, and what of it the log gives back.
#[derive(Clone, Debug)]
enum Step {
    Set(u8, u16),
    SetEx(u8, u16, u64),
    Del(u8),
    Append(u8),
    Rename(u8, u8),
    Persist(u8),
    Expire(u8, i64),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 0u8..6;
    let step = prop_oneof![
        (key(), any::<u16>()).prop_map(|(key, value)| Step::Set(key, value)),
        (key(), any::<u16>(), 1u64..50).prop_map(|(key, value, ms)| Step::SetEx(key, value, ms)),
        key().prop_map(Step::Del),
        key().prop_map(Step::Append),
        (key(), key()).prop_map(|(from, to)| Step::Rename(from, to)),
        key().prop_map(Step::Persist),
        (key(), -5i64..50).prop_map(|(key, ms)| Step::Expire(key, ms)),
        (1u64..30).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn commands_do_what_the_model_does(steps in steps()) {
        let server = server(4096, 1 << 20);
        let mut model: BTreeMap<u8, (String, Option<u64>)> = BTreeMap::new();
        for step in steps {
            let now = NOW.get();
            match step {
                Step::Set(key, value) => {
                    say(&server, &format!("SET {key} {value}"));
                    model.insert(key, (value.to_string(), None));
                }
                Step::SetEx(key, value, ms) => {
                    say(&server, &format!("SET {key} {value} PX {ms}"));
                    model.insert(key, (value.to_string(), Some(now + ms)));
                }
                Step::Del(key) => {
                    let gone = model.remove(&key).is_some();
                    prop_assert_eq!(say(&server, &format!("DEL {key}")), format!(":{}\r\n", u8::from(gone)));
                }
                Step::Append(key) => {
                    say(&server, &format!("APPEND {key} x"));
                    model.entry(key).or_insert((String::new(), None)).0.push('x');
                }
                Step::Rename(from, to) => {
                    say(&server, &format!("RENAME {from} {to}"));
                    if let Some(value) = model.remove(&from) {
                        model.insert(to, value);
                    }
                }
                Step::Persist(key) => {
                    say(&server, &format!("PERSIST {key}"));
                    if let Some((_, at)) = model.get_mut(&key) {
                        *at = None;
                    }
                }
                Step::Expire(key, ms) => {
                    say(&server, &format!("PEXPIRE {key} {ms}"));
                    if let Some((_, at)) = model.get_mut(&key) {
                        *at = Some(now.saturating_add_signed(ms));
                    }
                }
                Step::Pass(ms) => NOW.set(now + ms),
            }
            model.retain(|_, (_, at)| at.is_none_or(|at| NOW.get() < at));
            for key in 0..6u8 {
                let meant = match model.get(&key) {
                    Some((value, _)) => format!("${}\r\n{value}\r\n", value.len()),
                    None => "$-1\r\n".to_string(),
                };
                prop_assert_eq!(say(&server, &format!("GET {key}")), meant);
            }
            prop_assert_eq!(say(&server, "DBSIZE"), format!(":{}\r\n", model.len()));
        }
        // The log tells the same story.
        let meant: Vec<(Vec<u8>, String)> =
            model.iter().map(|(key, (value, _))| (key.to_string().into_bytes(), value.clone())).collect();
        let found = block_on(async move {
            server.journal.commit(&server.store, 2, NOW.get()).await.expect("a whole disk");
            let (_, store, _) = Journal::open(server.journal.into_disk(), 3).await.expect("a log");
            let mut found: Vec<_> = store
                .live(NOW.get())
                .map(|(key, entry)| (key.to_vec(), String::from_utf8(entry.value.to_vec()).expect("text")))
                .collect();
            found.sort();
            found
        });
        prop_assert_eq!(found, meant);
    }

    #[test]
    fn any_arguments_are_answered(words in prop::collection::vec("(SET|GET|SCAN|MSET|EXPIRE|CLIENT|CONFIG|HELLO|INFO|SETEX|COUNT|MATCH|EX|-?[0-9]{1,20}|[a-z*?\\[]{0,5})", 1..7)) {
        let server = server(4096, 1 << 20);
        let args: Vec<Cow<'_, [u8]>> = words.iter().map(|word| Cow::Borrowed(word.as_bytes())).collect();
        let mut out = Replies::default();
        run(&server, &mut Session::default(), &args, &mut out);
        prop_assert!(out.0.ends_with(b"\r\n"));
    }
}
