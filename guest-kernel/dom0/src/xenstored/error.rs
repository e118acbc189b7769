//! Errors as a client sees them: the strings of `xsd_errors` in xen/io/xs_wire.h.

use super::quota::Quota;
use core::fmt;

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::upper_case_acronyms)]
pub enum Error {
    /// A malformed request, path, number or permission.
    EINVAL,
    /// The caller may not do this, or may not know whether the node exists.
    EACCES,
    /// The watch is registered already.
    EEXIST,
    /// No such node, transaction or watch.
    ENOENT,
    /// The other domain's ring could not be mapped.
    EIO,
    /// A request type that this daemon does not know.
    ENOSYS,
    /// A transaction was started inside a transaction.
    EBUSY,
    /// The transaction read something that has changed since: run it again.
    EAGAIN,
    /// The answer exceeds one message.
    E2BIG,
    /// Only a privileged domain may change a node's owner.
    EPERM,
    /// One of the connection's limits; [`Quota::wire`] has the error name the client gets.
    Quota(Quota),
}

impl Error {
    /// The error string on the wire, without the terminating zero.
    pub fn wire(self) -> &'static str {
        match self {
            Error::EINVAL => "EINVAL",
            Error::EACCES => "EACCES",
            Error::EEXIST => "EEXIST",
            Error::ENOENT => "ENOENT",
            Error::EIO => "EIO",
            Error::ENOSYS => "ENOSYS",
            Error::EBUSY => "EBUSY",
            Error::EAGAIN => "EAGAIN",
            Error::E2BIG => "E2BIG",
            Error::EPERM => "EPERM",
            Error::Quota(quota) => quota.wire(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Quota(quota) => write!(f, "{}: xenstore quota \"{}\" reached", quota.wire(), quota.name()),
            other => f.write_str(other.wire()),
        }
    }
}
