use super::*;
use guest_kernel::executor::{block_on, sleep};
use guest_kernel::fs::{Kind, Metadata};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::format;
use std::string::ToString;

const MODIFIED: u32 = 1_700_000_000;

/// A tree in memory; a name that ends with `/` is a directory.
#[derive(Clone)]
struct Table(Rc<BTreeMap<String, Vec<u8>>>);

struct Entry(Table, String);

impl Files for Table {
    type File = Entry;
    async fn open(&self, path: &str) -> Result<Entry, FsError> {
        if self.0.contains_key(&format!("{path}/")) {
            return Err(FsError::NotAFile);
        }
        self.0.contains_key(path).then(|| Entry(self.clone(), path.into())).ok_or(FsError::NotFound)
    }
}

impl OpenFile for Entry {
    fn metadata(&self) -> Metadata {
        Metadata { kind: Kind::File, size: self.0.0[&self.1].len() as u64, modified: MODIFIED, inode: 12 }
    }
    async fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<usize, FsError> {
        let bytes = &self.0.0[&self.1][offset as usize..];
        let count = to.len().min(bytes.len());
        to[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }
}

/// What a client does: sends pieces, waits between them, and then ends its side or stays silent.
struct Script {
    pieces: RefCell<VecDeque<Vec<u8>>>,
    silent: bool,
    output: RefCell<Vec<u8>>,
}

impl Stream for Script {
    async fn read(&self, to: &mut [u8]) -> Result<usize, TcpError> {
        sleep(Duration::from_millis(1)).await;
        let Some(mut piece) = self.pieces.borrow_mut().pop_front() else {
            if self.silent {
                core::future::pending::<()>().await;
            }
            return Ok(0);
        };
        let rest = piece.split_off(to.len().min(piece.len()));
        to[..piece.len()].copy_from_slice(&piece);
        if !rest.is_empty() {
            self.pieces.borrow_mut().push_front(rest);
        }
        Ok(piece.len())
    }
    async fn write_all(&self, from: &[u8]) -> Result<(), TcpError> {
        self.output.borrow_mut().extend_from_slice(from);
        Ok(())
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn site() -> Table {
    let files = [
        ("/index.html", b"<h1>home</h1>".to_vec()),
        ("/docs/", Vec::new()),
        ("/docs/index.html", b"docs".to_vec()),
        ("/bare/", Vec::new()),
        ("/a b.txt", b"spaced".to_vec()),
        ("/empty", Vec::new()),
        ("/big.bin", pattern(100_000)),
    ];
    Table(Rc::new(files.into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect()))
}

/// Everything the server says to what a client sends.
fn talk(pieces: Vec<Vec<u8>>, silent: bool) -> Vec<u8> {
    block_on(async move {
        let server = Server {
            files: site(),
            metrics: Rc::default(),
            machine: |_| Machine::default(),
            clock: || 784_111_777,
        };
        let client = Script { pieces: RefCell::new(pieces.into()), silent, output: RefCell::default() };
        serve(&server, &client).await;
        assert_eq!(server.metrics.open.get(), 0);
        let output = client.output.borrow();
        assert_eq!(server.metrics.bytes_sent.get(), output.len() as u64);
        output.clone()
    })
}

/// An answer as a client reads it.
#[derive(Debug)]
struct Answer {
    status: u16,
    fields: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Reads answers; those to `HEAD`, by their number, have no body.
fn answers(mut bytes: &[u8], heads: &[usize]) -> Vec<Answer> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = core::str::from_utf8(&bytes[..end]).expect("text");
        bytes = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let status: u16 = lines.next().expect("a status line")[9..12].parse().expect("a status");
        let fields: BTreeMap<String, String> = lines
            .map(|line| line.split_once(": ").expect("a field"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()))
            .collect();
        let none = status == 304 || heads.contains(&all.len());
        let length = if none { 0 } else { fields["content-length"].parse().expect("a length") };
        all.push(Answer { status, fields, body: bytes[..length].to_vec() });
        bytes = &bytes[length..];
    }
    all
}

fn ask(requests: &str) -> Vec<Answer> {
    answers(&talk([requests.as_bytes().to_vec()].into(), false), &[])
}

fn get(path: &str, fields: &str) -> Answer {
    let mut all = ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n"));
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn serves_files_indices_and_redirects() {
    let home = get("/", "");
    assert_eq!((home.status, &home.body[..]), (200, &b"<h1>home</h1>"[..]));
    assert_eq!(home.fields["content-type"], "text/html; charset=utf-8");
    assert_eq!(home.fields["date"], "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(get("/a%20b.txt", "").body, b"spaced");
    assert_eq!(get("/empty", "").status, 200);
    let moved = get("/docs?q=1", "");
    assert_eq!((moved.status, moved.fields["location"].as_str()), (301, "/docs/?q=1"));
    assert_eq!(get("/docs/", "").body, b"docs");
    assert_eq!(get("/big.bin", "").body, pattern(100_000));
    for (path, status) in [("/none", 404), ("/bare/", 404), ("/../etc", 400), ("/%2e%2e/x", 400), ("x", 400)]
    {
        assert_eq!(get(path, "").status, status, "{path}");
    }
    assert_eq!(get("/status.json", "").fields["content-type"], "application/json");
    assert!(String::from_utf8(get("/metrics", "").body).unwrap().contains("web_connections_open 1\n"));
}

#[test]
fn a_client_that_has_it_gets_304() {
    let first = get("/big.bin", "");
    let (tag, date) = (&first.fields["etag"], &first.fields["last-modified"]);
    for (field, status) in [
        (format!("If-None-Match: {tag}\r\n"), 304),
        (format!("If-None-Match: \"x\", W/{tag}\r\n"), 304),
        ("If-None-Match: *\r\n".to_string(), 304),
        (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}\r\n"), 200),
        (format!("If-Modified-Since: {date}\r\n"), 304),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n".to_string(), 200),
    ] {
        assert_eq!(get("/big.bin", &field).status, status, "{field}");
    }
    let range = "Range: bytes=0-0\r\n";
    assert_eq!(get("/big.bin", &format!("{range}If-Range: {tag}\r\n")).status, 206);
    assert_eq!(get("/big.bin", &format!("{range}If-Range: {date}\r\n")).status, 206);
    assert_eq!(get("/big.bin", &format!("{range}If-Range: \"x\"\r\n")).status, 200);
}

#[test]
fn a_head_has_the_length_and_no_body_and_pipelined_requests_keep_their_order() {
    let text = "HEAD /big.bin HTTP/1.1\r\nHost: x\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\
                GET /none HTTP/1.1\r\nHost: x\r\n\r\nGET /docs/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n\
                GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let all = answers(&talk([text.as_bytes().to_vec()].into(), false), &[0]);
    assert_eq!(all.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 404, 200]);
    assert_eq!(all[0].fields["content-length"], "100000");
    assert_eq!(all[3].fields["connection"], "close");
    // More requests at once than the longest head.
    let many = "GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    assert_eq!(ask(&many).len(), 1000);
}

#[test]
fn what_is_no_request_is_answered_and_ends_the_connection() {
    for (text, status) in [
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n", 405),
        ("BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        (&format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(9000)), 414),
        (&format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(9000)), 431),
    ] {
        let all = ask(&format!("{text}GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(all.iter().map(|answer| answer.status).collect::<Vec<_>>(), [status], "{text:.60}");
        assert_eq!(all[0].fields["connection"], "close");
    }
    assert!(!get("/bad%", "").fields.contains_key("connection"));
}

/// The clock of the tests stands still but for sleeps: a client that says nothing is let go, and
/// one that stops in the middle of a head is told why.
#[test]
fn silence_ends_a_connection() {
    assert!(talk(Vec::new(), true).is_empty());
    let all = answers(&talk([b"GET / HT".to_vec()].into(), true), &[]);
    assert_eq!(all[0].status, 408);
    let idle = answers(&talk([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()].into(), true), &[]);
    assert_eq!(idle.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_range_is_the_files_own_bytes(first in 0usize..110_000, length in 1usize..60_000) {
        let bytes = pattern(100_000);
        let last = first + length - 1;
        let answer = get("/big.bin", &format!("Range: bytes={first}-{last}\r\n"));
        if first >= bytes.len() {
            prop_assert_eq!(answer.status, 416);
            prop_assert_eq!(&answer.fields["content-range"], "bytes */100000");
        } else {
            let last = last.min(bytes.len() - 1);
            prop_assert_eq!(answer.status, 206);
            prop_assert_eq!(&answer.fields["content-range"], &format!("bytes {first}-{last}/100000"));
            prop_assert_eq!(&answer.body, &bytes[first..=last]);
        }
    }

    /// The same requests in any pieces get the same answers.
    #[test]
    fn how_bytes_arrive_makes_no_difference(cuts in prop::collection::vec(1usize..40, 0..20)) {
        let text = "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /docs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345GET /a%20b.txt HTTP/1.0\r\n\r\n";
        let mut pieces = Vec::new();
        let mut rest = text.as_bytes();
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            pieces.push(now.to_vec());
            rest = later;
        }
        pieces.push(rest.to_vec());
        pieces.retain(|piece| !piece.is_empty());
        prop_assert_eq!(talk(pieces, false), talk([text.as_bytes().to_vec()].into(), false));
    }

    #[test]
    fn no_bytes_break_it(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..80), 0..6)) {
        talk(pieces, false);
    }

    #[test]
    fn no_text_breaks_it(
        method in "GET|HEAD|POST|G", target in "/[a-z%./]{0,12}", field in "(Range|If-Range|Host|Content-Length|Connection): [a-z0-9=,\"-]{0,12}"
    ) {
        talk([format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n").into_bytes()].into(), false);
    }
}
