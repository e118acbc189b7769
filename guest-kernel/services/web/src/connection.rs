//! One connection: requests in, answers out, in order.
//!
//! Requests that were sent together (pipelining) wait in the buffer and are answered one after the
//! other. Every wait has an end: a client that says nothing, half a head, or does not take its
//! answer, loses its connection.

use crate::conditional::{entity_tag, not_modified, range_applies};
use crate::files::{Files, OpenFile};
use crate::metrics::{Machine, Metrics};
use crate::range::{self, Part};
use crate::request::{self, HEAD_LIMIT, Method, Request};
use crate::response::{Head, Status, page};
use crate::{date, media, path};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use guest_kernel::executor::timeout;
use guest_kernel::fs::FsError;
use guest_kernel::net::{Stream, TcpError};

/// How long a connection may be idle between requests.
const IDLE: Duration = Duration::from_secs(30);
/// How long a request's head may take, and a piece of body or answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a file that are in memory at a time.
const PIECE: usize = 16 << 10;
/// Bytes to read at a time.
const READ: usize = 1024;

/// What all connections share.
pub struct Server<F> {
    /// The volume's files.
    pub files: F,
    /// Counters.
    pub metrics: Rc<Metrics>,
    /// Asks the machine about itself.
    pub machine: fn(&Metrics) -> Machine,
    /// The time in seconds since 1970.
    pub clock: fn() -> u64,
}

/// Serves a connection to its end.
pub async fn serve<F: Files>(server: &Server<F>, stream: &impl Stream) {
    let metrics = &server.metrics;
    metrics.connections.add(1);
    metrics.open.set(metrics.open.get() + 1);
    // Whoever waited for the end has it: the reason makes no difference.
    let _ = Connection { server, stream, input: Vec::new() }.run().await;
    metrics.open.set(metrics.open.get() - 1);
}

struct Connection<'s, F, S> {
    server: &'s Server<F>,
    stream: &'s S,
    /// Bytes that have come and are not answered yet.
    input: Vec<u8>,
}

impl<F: Files, S: Stream> Connection<'_, F, S> {
    async fn run(mut self) -> Result<(), TcpError> {
        loop {
            // A client may send an empty line or two after a request (RFC 9112, section 2.2).
            let blank = self.input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.input.drain(..blank);
            if self.input.is_empty() {
                self.input = Vec::new();
                match timeout(IDLE, self.fill()).await {
                    Ok(Ok(1..)) => continue,
                    _ => return Ok(()),
                }
            }
            let Ok(head) = timeout(PATIENCE, self.head()).await else {
                return self.refuse(Status::RequestTimeout).await;
            };
            let (length, body) = match head? {
                Ok(head) => head,
                Err(status) => return self.refuse(status).await,
            };
            // The head is borrowed from a buffer of its own: the rest can be read meanwhile.
            let rest = self.input.split_off(length);
            let bytes = core::mem::replace(&mut self.input, rest);
            let request::Head::Complete(request, _) = request::parse(&bytes) else { return Ok(()) };
            timeout(PATIENCE, self.skip(body)).await.map_err(|_| TcpError::Closed)??;
            self.answer(&request).await?;
            if !request.keep_alive {
                return Ok(());
            }
        }
    }

    /// Reads what has come into the buffer.
    async fn fill(&mut self) -> Result<usize, TcpError> {
        let mut piece = [0; READ];
        let count = self.stream.read(&mut piece).await?;
        self.server.metrics.bytes_received.add(count as u64);
        self.input.extend_from_slice(&piece[..count]);
        Ok(count)
    }

    /// Waits for a whole head: the lengths of it and of the body.
    async fn head(&mut self) -> Result<Result<(usize, u64), Status>, TcpError> {
        loop {
            // What was pipelined behind a head does not make it long.
            match request::parse(&self.input[..self.input.len().min(HEAD_LIMIT)]) {
                request::Head::Complete(request, length) => return Ok(Ok((length, request.body))),
                request::Head::Bad(status) => return Ok(Err(status)),
                request::Head::Partial => {}
            }
            if self.fill().await? == 0 {
                return Err(TcpError::Closed);
            }
        }
    }

    /// Reads over a body.
    async fn skip(&mut self, mut body: u64) -> Result<(), TcpError> {
        loop {
            let now = body.min(self.input.len() as u64);
            self.input.drain(..now as usize);
            body -= now;
            if body == 0 {
                return Ok(());
            }
            if self.fill().await? == 0 {
                return Err(TcpError::Closed);
            }
        }
    }

    async fn send(&self, bytes: &[u8]) -> Result<(), TcpError> {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.map_err(|_| TcpError::Closed)??;
        self.server.metrics.bytes_sent.add(bytes.len() as u64);
        Ok(())
    }

    fn start(&self, status: Status) -> Head {
        self.server.metrics.answered(status);
        Head::new(status, (self.server.clock)())
    }

    /// Sends a short answer that is in memory.
    async fn short(
        &self,
        mut head: Head,
        (media, text): (&str, String),
        with_body: bool,
        keep_alive: bool,
    ) -> Result<(), TcpError> {
        head.field("Content-Type", media).field("Content-Length", text.len());
        let mut answer = head.end(keep_alive);
        if with_body {
            answer.push_str(&text);
        }
        self.send(answer.as_bytes()).await
    }

    /// Answers what cannot be read as a request; the connection ends.
    async fn refuse(&self, status: Status) -> Result<(), TcpError> {
        self.short(self.start(status), (HTML, page(status)), true, false).await
    }

    async fn error(&self, request: &Request<'_>, status: Status) -> Result<(), TcpError> {
        self.short(self.start(status), (HTML, page(status)), wants_body(request), request.keep_alive).await
    }

    async fn answer(&self, request: &Request<'_>) -> Result<(), TcpError> {
        let Ok(path) = path::parse(request.target) else {
            return self.error(request, Status::BadRequest).await;
        };
        let metrics = &self.server.metrics;
        let generated = match path.name.as_str() {
            "/status.json" => ("application/json", metrics.json(&(self.server.machine)(metrics))),
            "/metrics" => {
                let text = metrics.prometheus(&(self.server.machine)(metrics));
                ("text/plain; version=0.0.4; charset=utf-8", text)
            }
            _ => return self.file(request, path).await,
        };
        let mut head = self.start(Status::Ok);
        head.field("Cache-Control", "no-store");
        self.short(head, generated, wants_body(request), request.keep_alive).await
    }

    async fn file(&self, request: &Request<'_>, mut path: path::Path) -> Result<(), TcpError> {
        let directory = path.is_directory();
        if directory {
            path.name.push_str("index.html");
        }
        match self.server.files.open(&path.name).await {
            Ok(file) => self.content(request, &path.name, &file).await,
            Err(FsError::NotAFile) if !directory => {
                path.name.push('/');
                let mut location = path::encode(&path.name);
                if let Some((_, query)) = request.target.split_once('?') {
                    location.push('?');
                    location.push_str(query);
                }
                let mut head = self.start(Status::MovedPermanently);
                head.field("Location", location);
                let text = page(Status::MovedPermanently);
                self.short(head, (HTML, text), wants_body(request), request.keep_alive).await
            }
            Err(FsError::Disk(_) | FsError::Corrupt | FsError::Feature(_)) => {
                guest_kernel::log::warn!("{}: cannot be read", path.name);
                self.error(request, Status::InternalError).await
            }
            Err(_) => self.error(request, Status::NotFound).await,
        }
    }

    async fn content(&self, request: &Request<'_>, name: &str, file: &F::File) -> Result<(), TcpError> {
        let metadata = file.metadata();
        let tag = entity_tag(&metadata);
        let validators = |head: &mut Head| {
            head.field("ETag", &tag)
                .field("Last-Modified", date::format(u64::from(metadata.modified)))
                .field("Accept-Ranges", "bytes");
        };
        if not_modified(request, &tag, &metadata) {
            let mut head = self.start(Status::NotModified);
            validators(&mut head);
            return self.send(head.end(request.keep_alive).as_bytes()).await;
        }
        // A range is defined for GET alone.
        let wanted = request.range.filter(|_| wants_body(request) && range_applies(request, &tag, &metadata));
        let part = wanted.map_or(Part::Whole, |text| range::parse(text, metadata.size));
        let (status, start, end) = match part {
            Part::Whole => (Status::Ok, 0, metadata.size),
            Part::Bytes { first, last } => (Status::PartialContent, first, last + 1),
            Part::Unsatisfiable => {
                let mut head = self.start(Status::RangeNotSatisfiable);
                head.field("Content-Range", format_args!("bytes */{}", metadata.size));
                let text = page(Status::RangeNotSatisfiable);
                return self.short(head, (HTML, text), true, request.keep_alive).await;
            }
        };
        let mut head = self.start(status);
        validators(&mut head);
        if status == Status::PartialContent {
            head.field("Content-Range", format_args!("bytes {start}-{}/{}", end - 1, metadata.size));
        }
        head.field("Content-Type", media::type_of(name)).field("Content-Length", end - start);
        let head = head.end(request.keep_alive);
        if !wants_body(request) {
            return self.send(head.as_bytes()).await;
        }
        self.stream_file(head.into_bytes(), file, start, end).await
    }

    /// Sends a head and the bytes of `file` from `start` to `end`, in pieces; the first goes along
    /// with the head.
    async fn stream_file(&self, head: Vec<u8>, file: &F::File, start: u64, end: u64) -> Result<(), TcpError> {
        let mut piece = head;
        let mut at = start;
        loop {
            let before = piece.len();
            // Pieces end where blocks of the volume do, so that the next is read without a copy.
            let most = PIECE as u64 - at % 4096;
            let length = most.min(end - at) as usize;
            piece.resize(before + length, 0);
            match file.read_at(at, &mut piece[before..]).await {
                Ok(count) if count == length => {}
                // The length has been promised: only the connection's end can take it back.
                _ => return Err(TcpError::Closed),
            }
            self.send(&piece).await?;
            at += length as u64;
            if at >= end {
                return Ok(());
            }
            piece.clear();
        }
    }
}

const HTML: &str = "text/html; charset=utf-8";

fn wants_body(request: &Request<'_>) -> bool {
    request.method == Method::Get
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
