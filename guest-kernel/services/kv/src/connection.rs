//! One connection: requests in, replies out, in order.
//!
//! All requests that have come are run, then what they changed is waited for, then all replies are
//! sent: a pipeline of any length costs one flush, which it shares with other connections.

use crate::commands::{Next, Session, run};
use crate::resp::{Parsed, Replies, parse};
use crate::server::{Server, count};
use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;
use guest_kernel::block::BlockDevice;
use guest_kernel::executor::{timeout, yield_now};
use guest_kernel::net::{Stream, TcpError};

/// How long a client may take to accept a reply.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes to read at a time.
const READ: usize = 4096;
/// Replies are sent when they have this many bytes.
const OUTPUT: usize = 32 << 10;

/// Serves a connection to its end.
pub async fn serve<D: BlockDevice>(server: &Server<D>, stream: &impl Stream) {
    let counters = &server.counters;
    count(&counters.connections);
    counters.open.set(counters.open.get() + 1);
    let session = Session::new(counters.connections.get());
    let mut connection = Connection { server, stream, session, input: Vec::new(), output: Output::default() };
    // Whoever waited for the end has it: the reason makes no difference.
    let _ = connection.run().await;
    counters.input.set(counters.input.get() - connection.input.capacity());
    counters.open.set(counters.open.get() - 1);
}

/// Replies that are not sent yet.
#[derive(Default)]
struct Output {
    replies: Replies,
    /// Those that say that something was changed.
    changes: Vec<Range<usize>>,
    /// The commit they wait for.
    commit: Option<u64>,
}

struct Connection<'s, D, S> {
    server: &'s Server<D>,
    stream: &'s S,
    session: Session,
    input: Vec<u8>,
    output: Output,
}

impl<D: BlockDevice, S: Stream> Connection<'_, D, S> {
    async fn run(&mut self) -> Result<(), TcpError> {
        loop {
            if self.fill().await? == 0 {
                return Ok(());
            }
            let quit = self.process().await?;
            self.send().await?;
            if quit {
                return Ok(());
            }
        }
    }

    /// Reads what has come. All connections' input has one budget.
    async fn fill(&mut self) -> Result<usize, TcpError> {
        let mut piece = [0; READ];
        let count = self.stream.read(&mut piece).await?;
        let before = self.input.capacity();
        self.input.extend_from_slice(&piece[..count]);
        self.account(before);
        if self.server.counters.input.get() > self.server.limits.input {
            let limit = self.server.limits.input;
            self.output
                .replies
                .error(format_args!("ERR all clients together have sent more than {limit} bytes"));
            self.send().await?;
            return Err(TcpError::Closed);
        }
        Ok(count)
    }

    fn account(&self, before: usize) {
        let input = &self.server.counters.input;
        input.set(input.get() + self.input.capacity() - before);
    }

    /// Runs every whole request. True if the connection is to end.
    async fn process(&mut self) -> Result<bool, TcpError> {
        let input = core::mem::take(&mut self.input);
        let mut done = 0;
        let result = self.run_all(&input, &mut done).await;
        let before = input.capacity();
        self.input = input;
        self.input.drain(..done);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        let counter = &self.server.counters.input;
        counter.set(counter.get() + self.input.capacity() - before);
        result
    }

    async fn run_all(&mut self, input: &[u8], done: &mut usize) -> Result<bool, TcpError> {
        loop {
            let args = match parse(&input[*done..], self.server.limits.request) {
                Parsed::Partial => return Ok(false),
                Parsed::Error(text) => {
                    self.output.replies.error(text);
                    return Ok(true);
                }
                Parsed::Request(args, length) => {
                    *done += length;
                    args
                }
            };
            if args.is_empty() {
                continue;
            }
            let start = self.output.replies.0.len();
            let next = loop {
                match run(self.server, &mut self.session, &args, &mut self.output.replies) {
                    Next::Frozen => self.server.journal.thawed().await,
                    next => break next,
                }
            };
            match next {
                Next::Wait(commit) => {
                    self.output.changes.push(start..self.output.replies.0.len());
                    self.output.commit = Some(commit);
                }
                Next::Quit => return Ok(true),
                Next::Continue | Next::Frozen => {}
            }
            if self.output.replies.0.len() >= OUTPUT {
                self.send().await?;
                // A long pipeline must not keep the others waiting.
                yield_now().await;
            }
        }
    }

    /// Sends the replies, once what they say is true.
    async fn send(&mut self) -> Result<(), TcpError> {
        let Output { mut replies, changes, commit } = core::mem::take(&mut self.output);
        if let Some(commit) = commit
            && self.server.journal.committed(commit).await.is_err()
        {
            replies = failed(&replies, &changes);
        }
        if replies.0.is_empty() {
            return Ok(());
        }
        timeout(PATIENCE, self.stream.write_all(&replies.0)).await.map_err(|_| TcpError::Closed)?
    }
}

/// The replies with an error in the place of each in `changes`.
fn failed(replies: &Replies, changes: &[Range<usize>]) -> Replies {
    let (mut told, mut at) = (Replies::default(), 0);
    for change in changes {
        told.0.extend_from_slice(&replies.0[at..change.start]);
        told.error("MISCONF the log could not be written: this change may be lost");
        at = change.end;
    }
    told.0.extend_from_slice(&replies.0[at..]);
    told
}
