//! UDP for tasks.

use super::stack::Stack;
use alloc::rc::Rc;
use alloc::vec;
use core::future::poll_fn;
use core::task::Poll;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, RecvError, SendError, Socket};
use smoltcp::wire::IpEndpoint;

/// Why a UDP operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpError {
    /// The port is in use.
    Port,
    /// There is no way to the address.
    Unreachable,
    /// The datagram is larger than the socket's buffer.
    TooLarge,
}

/// A bound UDP socket.
pub struct UdpSocket {
    stack: Rc<Stack>,
    handle: SocketHandle,
}

impl UdpSocket {
    /// Binds `port` of all addresses, or with 0 any that is free. Up to `packets` datagrams of
    /// `bytes` bytes together wait in each direction; more are dropped.
    pub fn bind(stack: &Rc<Stack>, port: u16, packets: usize, bytes: usize) -> Result<Self, UdpError> {
        let mut inner = stack.inner.borrow_mut();
        let port = if port == 0 { inner.ephemeral_port() } else { port };
        let taken = inner.sockets.iter().any(|(_, socket)| match socket {
            smoltcp::socket::Socket::Udp(socket) => socket.endpoint().port == port,
            _ => false,
        });
        if taken {
            return Err(UdpError::Port);
        }
        let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; packets.max(1)], vec![0; bytes.max(1)]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.bind(port).map_err(|_| UdpError::Port)?;
        let handle = inner.sockets.add(socket);
        drop(inner);
        Ok(UdpSocket { stack: stack.clone(), handle })
    }

    /// The port it is bound to.
    pub fn port(&self) -> u16 {
        self.stack.inner.borrow().sockets.get::<Socket<'_>>(self.handle).endpoint().port
    }

    /// Waits for a datagram; what does not fit into `to` is lost.
    pub async fn recv_from(&self, to: &mut [u8]) -> (usize, IpEndpoint) {
        poll_fn(|cx| {
            let mut inner = self.stack.inner.borrow_mut();
            let socket = inner.sockets.get_mut::<Socket<'_>>(self.handle);
            match socket.recv() {
                Ok((data, from)) => {
                    let count = data.len().min(to.len());
                    to[..count].copy_from_slice(&data[..count]);
                    Poll::Ready((count, from.endpoint))
                }
                Err(RecvError::Exhausted | RecvError::Truncated) => {
                    socket.register_recv_waker(cx.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Waits for room and sends a datagram.
    pub async fn send_to(&self, data: &[u8], to: IpEndpoint) -> Result<(), UdpError> {
        let result = poll_fn(|cx| {
            let mut inner = self.stack.inner.borrow_mut();
            let socket = inner.sockets.get_mut::<Socket<'_>>(self.handle);
            if data.len() > socket.payload_send_capacity() {
                return Poll::Ready(Err(UdpError::TooLarge));
            }
            match socket.send_slice(data, to) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(SendError::Unaddressable) => Poll::Ready(Err(UdpError::Unreachable)),
                Err(SendError::BufferFull) => {
                    socket.register_send_waker(cx.waker());
                    Poll::Pending
                }
            }
        })
        .await;
        self.stack.inner.borrow_mut().kick();
        result
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.stack.inner.borrow_mut().sockets.remove(self.handle);
    }
}
