//! Restates `errno.h`: the negative results of hypercalls. The numbers are Linux's.

macro_rules! errnos {
    ($( $(#[$meta:meta])* $name:ident = $value:literal ),* $(,)?) => {
        /// Why a hypercall failed. It is returned negated, see [`Errno::neg`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i32)]
        pub enum Errno {
            $( $(#[$meta])* $name = $value, )*
        }

        impl Errno {
            /// Every errno a guest may be given.
            pub const ALL: &[Errno] = &[$( Errno::$name, )*];

            /// The header's name, without its `XEN_` prefix.
            pub const fn name(self) -> &'static str {
                match self {
                    $( Errno::$name => stringify!($name), )*
                }
            }

            /// The errno with this (positive) number.
            pub const fn from_number(number: i64) -> Option<Errno> {
                match number {
                    $( $value => Some(Errno::$name), )*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    /// Operation not permitted
    EPERM = 1,
    /// No such file or directory
    ENOENT = 2,
    /// No such process: most often, no such domain
    ESRCH = 3,
    /// I/O error
    EIO = 5,
    /// No such device or address
    ENXIO = 6,
    /// Argument list too long
    E2BIG = 7,
    /// Not an executable of a known format
    ENOEXEC = 8,
    /// Bad file number
    EBADF = 9,
    /// No child processes
    ECHILD = 10,
    /// Try again
    EAGAIN = 11,
    /// Out of memory
    ENOMEM = 12,
    /// Permission denied
    EACCES = 13,
    /// Bad address: a guest handle could not be followed
    EFAULT = 14,
    /// Device or resource busy
    EBUSY = 16,
    /// Exists already
    EEXIST = 17,
    /// Cross-device link
    EXDEV = 18,
    /// No such device
    ENODEV = 19,
    /// Not a directory
    ENOTDIR = 20,
    /// Is a directory
    EISDIR = 21,
    /// Invalid argument
    EINVAL = 22,
    /// File table overflow
    ENFILE = 23,
    /// Too many open files
    EMFILE = 24,
    /// No space left
    ENOSPC = 28,
    /// Read-only
    EROFS = 30,
    /// Too many links
    EMLINK = 31,
    /// Argument out of the function's domain
    EDOM = 33,
    /// Result not representable
    ERANGE = 34,
    /// Would deadlock
    EDEADLK = 35,
    /// Name too long
    ENAMETOOLONG = 36,
    /// No locks available
    ENOLCK = 37,
    /// Not implemented
    ENOSYS = 38,
    /// Directory not empty
    ENOTEMPTY = 39,
    /// No data available
    ENODATA = 61,
    /// Timer expired
    ETIME = 62,
    /// Not a data message
    EBADMSG = 74,
    /// Value too large for its type
    EOVERFLOW = 75,
    /// Illegal byte sequence
    EILSEQ = 84,
    /// Not a socket
    ENOTSOCK = 88,
    /// Message too large
    EMSGSIZE = 90,
    /// Operation not supported
    EOPNOTSUPP = 95,
    /// Address in use
    EADDRINUSE = 98,
    /// Address not available
    EADDRNOTAVAIL = 99,
    /// No buffer space
    ENOBUFS = 105,
    /// Already connected
    EISCONN = 106,
    /// Not connected
    ENOTCONN = 107,
    /// Timed out
    ETIMEDOUT = 110,
    /// Connection refused
    ECONNREFUSED = 111,
}

impl Errno {
    /// The header's second name for `EAGAIN`.
    pub const EWOULDBLOCK: Errno = Errno::EAGAIN;
    /// The header's second name for `EDEADLK`.
    pub const EDEADLOCK: Errno = Errno::EDEADLK;

    /// The positive number.
    pub const fn number(self) -> i64 {
        self as i64
    }

    /// What the hypercall returns.
    pub const fn neg(self) -> i64 {
        -(self as i64)
    }

    /// The errno that a hypercall's result means: `None` if the result is no failure, `Some(Err(_))`
    /// with the result if it is negative but no errno of this ABI.
    pub const fn from_result(result: i64) -> Option<Result<Errno, i64>> {
        if result >= 0 {
            return None;
        }
        match Self::from_number(result.wrapping_neg()) {
            Some(errno) => Some(Ok(errno)),
            None => Some(Err(result)),
        }
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Errno {}
