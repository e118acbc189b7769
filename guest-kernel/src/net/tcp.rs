//! TCP for tasks: listeners and streams.

use super::stack::{Stack, tcp_socket};
use crate::wait::WaitList;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{RecvError, Socket, State};
use smoltcp::wire::IpEndpoint;

/// Listening sockets kept ready for the next connections.
const RESERVE: usize = 2;

/// Why a TCP operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpError {
    /// The connection was reset, timed out, or has been closed on this side.
    Closed,
    /// The other side does not accept.
    Refused,
    /// The port is in use, or zero.
    Port,
    /// There is no way to the address.
    Unreachable,
}

impl fmt::Display for TcpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TcpError::Closed => "connection closed",
            TcpError::Refused => "connection refused",
            TcpError::Port => "port in use",
            TcpError::Unreachable => "address unreachable",
        })
    }
}

impl core::error::Error for TcpError {}

/// What a service does with a connection: a [`TcpStream`], or in its tests whatever stands for a client.
#[allow(async_fn_in_trait, reason = "one executor per vcpu: futures are never sent across threads")]
pub trait Stream {
    /// Waits for bytes; 0 at their end.
    async fn read(&self, to: &mut [u8]) -> Result<usize, TcpError>;
    /// Writes all of `from`.
    async fn write_all(&self, from: &[u8]) -> Result<(), TcpError>;
}

impl Stream for TcpStream {
    async fn read(&self, to: &mut [u8]) -> Result<usize, TcpError> {
        TcpStream::read(self, to).await
    }
    async fn write_all(&self, from: &[u8]) -> Result<(), TcpError> {
        TcpStream::write_all(self, from).await
    }
}

/// Sizes of a connection's buffers in bytes. The receive buffer is what a peer may send unasked;
/// the send buffer divided by the round-trip time is the fastest a stream can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// For data not read yet.
    pub receive: usize,
    /// For data not acknowledged yet.
    pub send: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Buffers { receive: 4096, send: 16384 }
    }
}

/// A port's listening sockets and the connections nobody has taken yet.
pub(super) struct Listening {
    port: u16,
    buffers: Buffers,
    backlog: usize,
    /// Sockets that listen or shake hands.
    sockets: Vec<SocketHandle>,
    ready: VecDeque<SocketHandle>,
    waiting: WaitList,
}

impl Listening {
    /// Moves what has connected to the queue, and listens anew as far as the backlog allows.
    pub(super) fn replenish(&mut self, sockets: &mut SocketSet<'static>) {
        let mut reserve = 0;
        let (ready, waiting) = (&mut self.ready, &mut self.waiting);
        self.sockets.retain(|&handle| match sockets.get::<Socket<'_>>(handle).state() {
            State::Listen => {
                reserve += 1;
                true
            }
            State::SynReceived => true,
            State::Closed => {
                sockets.remove(handle);
                false
            }
            _ => {
                ready.push_back(handle);
                waiting.wake_all();
                false
            }
        });
        while reserve < RESERVE && self.sockets.len() + self.ready.len() < self.backlog {
            let mut socket = tcp_socket(self.buffers.receive, self.buffers.send);
            if socket.listen(self.port).is_err() {
                return;
            }
            self.sockets.push(sockets.add(socket));
            reserve += 1;
        }
    }
}

/// Accepts connections on a port.
pub struct TcpListener {
    stack: Rc<Stack>,
    index: usize,
}

impl TcpListener {
    /// Listens on `port` of all addresses. At most `backlog` connections, each with its buffers,
    /// are open or opening without having been accepted; more are refused.
    pub fn bind(stack: &Rc<Stack>, port: u16, backlog: usize, buffers: Buffers) -> Result<Self, TcpError> {
        let mut inner = stack.inner.borrow_mut();
        if port == 0 || inner.listeners.iter().flatten().any(|listening| listening.port == port) {
            return Err(TcpError::Port);
        }
        let mut listening = Listening {
            port,
            buffers,
            backlog: backlog.max(1),
            sockets: Vec::new(),
            ready: VecDeque::new(),
            waiting: WaitList::new(),
        };
        listening.replenish(&mut inner.sockets);
        let index = match inner.listeners.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                inner.listeners.push(None);
                inner.listeners.len() - 1
            }
        };
        inner.listeners[index] = Some(listening);
        drop(inner);
        Ok(TcpListener { stack: stack.clone(), index })
    }

    /// Waits for a connection. Any number of tasks may wait.
    pub async fn accept(&self) -> TcpStream {
        let handle = poll_fn(|cx| {
            let inner = &mut *self.stack.inner.borrow_mut();
            let Some(listening) = &mut inner.listeners[self.index] else { return Poll::Pending };
            match listening.ready.pop_front() {
                Some(handle) => {
                    listening.replenish(&mut inner.sockets);
                    Poll::Ready(handle)
                }
                None => {
                    listening.waiting.park(cx);
                    Poll::Pending
                }
            }
        })
        .await;
        TcpStream { stack: self.stack.clone(), handle }
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        let inner = &mut *self.stack.inner.borrow_mut();
        if let Some(listening) = inner.listeners[self.index].take() {
            for handle in listening.sockets.into_iter().chain(listening.ready) {
                inner.sockets.get_mut::<Socket<'_>>(handle).abort();
                inner.linger(handle);
            }
        }
    }
}

/// A connection. Dropping it closes it; what was written is still sent.
pub struct TcpStream {
    stack: Rc<Stack>,
    handle: SocketHandle,
}

impl TcpStream {
    /// Connects to `remote`.
    pub async fn connect(stack: &Rc<Stack>, remote: IpEndpoint, buffers: Buffers) -> Result<Self, TcpError> {
        let stream = {
            let inner = &mut *stack.inner.borrow_mut();
            let port = inner.ephemeral_port();
            let mut socket = tcp_socket(buffers.receive, buffers.send);
            socket.connect(inner.interface.context(), remote, port).map_err(|_| TcpError::Unreachable)?;
            let handle = inner.sockets.add(socket);
            inner.kick();
            TcpStream { stack: stack.clone(), handle }
        };
        stream
            .wait(|socket, cx| {
                socket.register_send_waker(cx.waker());
                match socket.state() {
                    State::SynSent | State::SynReceived => Poll::Pending,
                    State::Closed => Poll::Ready(Err(TcpError::Refused)),
                    _ => Poll::Ready(Ok(())),
                }
            })
            .await?;
        Ok(stream)
    }

    async fn wait<R>(&self, mut act: impl FnMut(&mut Socket<'static>, &Context<'_>) -> Poll<R>) -> R {
        poll_fn(|cx| {
            let mut inner = self.stack.inner.borrow_mut();
            act(inner.sockets.get_mut::<Socket<'_>>(self.handle), cx)
        })
        .await
    }

    fn socket<R>(&self, act: impl FnOnce(&mut Socket<'static>) -> R) -> R {
        act(self.stack.inner.borrow_mut().sockets.get_mut::<Socket<'_>>(self.handle))
    }

    /// The other end, while there is one.
    pub fn peer(&self) -> Option<IpEndpoint> {
        self.socket(|socket| socket.remote_endpoint())
    }

    /// Our end, while there is one.
    pub fn local(&self) -> Option<IpEndpoint> {
        self.socket(|socket| socket.local_endpoint())
    }

    /// Waits for data and reads some of it; 0 at its end, or for an empty buffer.
    pub async fn read(&self, to: &mut [u8]) -> Result<usize, TcpError> {
        if to.is_empty() {
            return Ok(0);
        }
        let count = self
            .wait(|socket, cx| match socket.recv_slice(to) {
                Ok(0) => {
                    socket.register_recv_waker(cx.waker());
                    Poll::Pending
                }
                Ok(count) => Poll::Ready(Ok(count)),
                Err(RecvError::Finished) => Poll::Ready(Ok(0)),
                Err(RecvError::InvalidState) => Poll::Ready(Err(TcpError::Closed)),
            })
            .await?;
        // The peer may be waiting to hear that there is room again.
        self.stack.inner.borrow_mut().kick();
        Ok(count)
    }

    /// Waits for room and writes some of `from`.
    pub async fn write(&self, from: &[u8]) -> Result<usize, TcpError> {
        if from.is_empty() {
            return Ok(0);
        }
        let count = self
            .wait(|socket, cx| match socket.send_slice(from) {
                Ok(0) => {
                    socket.register_send_waker(cx.waker());
                    Poll::Pending
                }
                Ok(count) => Poll::Ready(Ok(count)),
                Err(_) => Poll::Ready(Err(TcpError::Closed)),
            })
            .await?;
        self.stack.inner.borrow_mut().kick();
        Ok(count)
    }

    /// Writes all of `from`.
    pub async fn write_all(&self, mut from: &[u8]) -> Result<(), TcpError> {
        while !from.is_empty() {
            let count = self.write(from).await?;
            from = &from[count..];
        }
        Ok(())
    }

    /// Waits until the peer has acknowledged everything written.
    pub async fn flush(&self) -> Result<(), TcpError> {
        self.wait(|socket, cx| {
            if socket.send_queue() == 0 {
                return Poll::Ready(Ok(()));
            }
            if !socket.is_open() {
                return Poll::Ready(Err(TcpError::Closed));
            }
            socket.register_send_waker(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Says that nothing more will be written. Reading goes on.
    pub fn shutdown(&self) {
        self.socket(|socket| socket.close());
        self.stack.inner.borrow_mut().kick();
    }

    /// Ends the connection at once, with a reset.
    pub fn abort(&self) {
        self.socket(|socket| socket.abort());
        self.stack.inner.borrow_mut().kick();
    }

    /// Closes, and waits until the peer has everything, or is gone.
    pub async fn close(self) -> Result<(), TcpError> {
        self.shutdown();
        self.flush().await
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.stack.inner.borrow_mut().linger(self.handle);
    }
}
