//! The heads of answers.

use crate::date;
use alloc::format;
use alloc::string::String;
use core::fmt::{self, Write};

/// The statuses that this server answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "their names are those of RFC 9110")]
pub enum Status {
    Ok,
    PartialContent,
    MovedPermanently,
    NotModified,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    ContentTooLarge,
    UriTooLong,
    RangeNotSatisfiable,
    FieldsTooLarge,
    InternalError,
    NotImplemented,
    VersionNotSupported,
}

impl Status {
    /// Every status, in the order of the enum.
    pub const ALL: [Status; 15] = [
        Status::Ok,
        Status::PartialContent,
        Status::MovedPermanently,
        Status::NotModified,
        Status::BadRequest,
        Status::NotFound,
        Status::MethodNotAllowed,
        Status::RequestTimeout,
        Status::ContentTooLarge,
        Status::UriTooLong,
        Status::RangeNotSatisfiable,
        Status::FieldsTooLarge,
        Status::InternalError,
        Status::NotImplemented,
        Status::VersionNotSupported,
    ];

    /// The number and the words of the status line.
    pub fn line(self) -> (u16, &'static str) {
        match self {
            Status::Ok => (200, "OK"),
            Status::PartialContent => (206, "Partial Content"),
            Status::MovedPermanently => (301, "Moved Permanently"),
            Status::NotModified => (304, "Not Modified"),
            Status::BadRequest => (400, "Bad Request"),
            Status::NotFound => (404, "Not Found"),
            Status::MethodNotAllowed => (405, "Method Not Allowed"),
            Status::RequestTimeout => (408, "Request Timeout"),
            Status::ContentTooLarge => (413, "Content Too Large"),
            Status::UriTooLong => (414, "URI Too Long"),
            Status::RangeNotSatisfiable => (416, "Range Not Satisfiable"),
            Status::FieldsTooLarge => (431, "Request Header Fields Too Large"),
            Status::InternalError => (500, "Internal Server Error"),
            Status::NotImplemented => (501, "Not Implemented"),
            Status::VersionNotSupported => (505, "HTTP Version Not Supported"),
        }
    }
}

/// The head of an answer under way.
pub struct Head(String);

impl Head {
    /// A head with the status line and `Date`; `now` is in seconds since 1970.
    pub fn new(status: Status, now: u64) -> Self {
        let (code, reason) = status.line();
        let mut head = Head(String::with_capacity(320));
        head.0.push_str("HTTP/1.1 ");
        head.write(format_args!("{code} {reason}\r\n"));
        head.field("Server", "Oxen-web").field("Date", date::format(now));
        if status == Status::MethodNotAllowed {
            head.field("Allow", "GET, HEAD");
        }
        head
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.0.write_fmt(text);
    }

    /// Adds a header field.
    pub fn field(&mut self, name: &str, value: impl fmt::Display) -> &mut Self {
        self.write(format_args!("{name}: {value}\r\n"));
        self
    }

    /// Ends the head. A connection that will be closed says so.
    pub fn end(mut self, keep_alive: bool) -> String {
        if !keep_alive {
            self.field("Connection", "close");
        }
        self.0.push_str("\r\n");
        self.0
    }
}

/// The page that goes with a status that has no other content.
pub fn page(status: Status) -> String {
    let (code, reason) = status.line();
    format!("<!doctype html>\n<title>{code} {reason}</title>\n<h1>{code} {reason}</h1>\n")
}
