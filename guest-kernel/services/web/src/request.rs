//! A request's head, and what is wrong with it.

use crate::response::Status;

/// The longest head that is read, in bytes.
pub const HEAD_LIMIT: usize = 8192;
/// The most header fields in a head.
const FIELDS: usize = 64;
/// The longest body that is read over, in bytes: no resource here takes one.
pub const BODY_LIMIT: u64 = 65_536;

/// What a client wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Send it.
    Get,
    /// Say what `Get` would, without the body.
    Head,
}

/// A request. Its fields are the header's values as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What to do.
    pub method: Method,
    /// With what, not decoded.
    pub target: &'a str,
    /// The client would send another request on this connection.
    pub keep_alive: bool,
    /// Bytes of body that follow the head.
    pub body: u64,
    /// `Range`
    pub range: Option<&'a str>,
    /// `If-Range`
    pub if_range: Option<&'a str>,
    /// `If-None-Match`
    pub if_none_match: Option<&'a str>,
    /// `If-Modified-Since`
    pub if_modified_since: Option<&'a str>,
}

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head<'a> {
    /// Not a whole head yet.
    Partial,
    /// A request whose head has this many bytes.
    Complete(Request<'a>, usize),
    /// Something to answer with this status, and then to close the connection: where the next
    /// request would begin is not certain.
    Bad(Status),
}

/// Reads the head at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Head<'_> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_LIMIT => match interpret(&parsed) {
            Ok(request) => Head::Complete(request, length),
            Err(status) => Head::Bad(status),
        },
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_LIMIT => Head::Partial,
        // Too long: by its first line alone, or by its fields?
        Ok(_) if parsed.version.is_none() => Head::Bad(Status::UriTooLong),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Head::Bad(Status::FieldsTooLarge),
        Err(httparse::Error::Version) => Head::Bad(Status::VersionNotSupported),
        Err(_) => Head::Bad(Status::BadRequest),
    }
}

fn interpret<'a>(parsed: &httparse::Request<'_, 'a>) -> Result<Request<'a>, Status> {
    let (method, target) = (parsed.method.unwrap_or(""), parsed.path.unwrap_or(""));
    let modern = parsed.version == Some(1);
    let mut request = Request {
        method: Method::Get,
        target,
        keep_alive: modern,
        body: 0,
        range: None,
        if_range: None,
        if_none_match: None,
        if_modified_since: None,
    };
    let (mut hosts, mut length) = (0, None);
    for field in parsed.headers.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        // A value that is not text matches nothing that is looked for here.
        let value = core::str::from_utf8(field.value).unwrap_or("").trim();
        if is("host") {
            hosts += 1;
        } else if is("connection") {
            for option in value.split(',').map(str::trim) {
                if option.eq_ignore_ascii_case("close") {
                    request.keep_alive = false;
                } else if option.eq_ignore_ascii_case("keep-alive") && !modern {
                    request.keep_alive = true;
                }
            }
        } else if is("transfer-encoding") {
            return Err(Status::NotImplemented);
        } else if is("content-length") {
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let this = value.parse::<u64>().ok().filter(|_| digits).ok_or(Status::BadRequest)?;
            if length.is_some_and(|other| other != this) {
                return Err(Status::BadRequest);
            }
            length = Some(this);
        } else if is("range") {
            request.range = Some(value);
        } else if is("if-range") {
            request.if_range = Some(value);
        } else if is("if-none-match") {
            request.if_none_match = Some(value);
        } else if is("if-modified-since") {
            request.if_modified_since = Some(value);
        }
    }
    if hosts > 1 || (modern && hosts == 0) {
        return Err(Status::BadRequest);
    }
    request.body = length.unwrap_or(0);
    request.method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS" | "TRACE" | "CONNECT" => {
            return Err(Status::MethodNotAllowed);
        }
        _ => return Err(Status::NotImplemented),
    };
    if request.body > BODY_LIMIT {
        return Err(Status::ContentTooLarge);
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;

    fn bad(text: &str) -> Status {
        match parse(text.as_bytes()) {
            Head::Bad(status) => status,
            other => panic!("{text:?} is {other:?}"),
        }
    }

    #[test]
    fn reads_what_matters() {
        let text = "HEAD /x HTTP/1.1\r\nhost: a\r\nRange: bytes=1-2\r\nIf-None-Match: \"t\"\r\nConnection: x, close\r\n\r\nrest";
        let Head::Complete(request, length) = parse(text.as_bytes()) else { panic!("not complete") };
        assert_eq!(&text[length..], "rest");
        assert_eq!((request.method, request.target, request.keep_alive), (Method::Head, "/x", false));
        assert_eq!((request.range, request.if_none_match), (Some("bytes=1-2"), Some("\"t\"")));
        for (head, keep) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
        ] {
            let Head::Complete(request, _) = parse(head.as_bytes()) else { panic!("not complete") };
            assert_eq!(request.keep_alive, keep, "{head}");
        }
    }

    #[test]
    fn refuses_each_thing_by_its_status() {
        assert_eq!(bad("GET / HTTP/1.1\r\n\r\n"), Status::BadRequest);
        assert_eq!(bad("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), Status::BadRequest);
        assert_eq!(bad("POST / HTTP/1.1\r\nHost: a\r\n\r\n"), Status::MethodNotAllowed);
        assert_eq!(bad("BREW / HTTP/1.1\r\nHost: a\r\n\r\n"), Status::NotImplemented);
        assert_eq!(
            bad("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Status::NotImplemented
        );
        assert_eq!(bad("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"), Status::BadRequest);
        assert_eq!(
            bad("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            Status::BadRequest
        );
        assert_eq!(
            bad("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"),
            Status::ContentTooLarge
        );
        assert_eq!(bad("GET / HTTP/3.0\r\nHost: a\r\n\r\n"), Status::VersionNotSupported);
        assert_eq!(bad("\u{16}\u{3}\u{1}"), Status::BadRequest);
        assert_eq!(bad(&format!("GET /{}", "a".repeat(HEAD_LIMIT))), Status::UriTooLong);
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(HEAD_LIMIT));
        assert_eq!(bad(&long), Status::FieldsTooLarge);
        assert_eq!(bad(&format!("GET / HTTP/1.1\r\n{}\r\n", "X: a\r\n".repeat(65))), Status::FieldsTooLarge);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        /// However a head is cut into pieces, it is partial until its last byte has come.
        #[test]
        fn a_head_is_partial_until_it_is_whole(cut in 0usize..60) {
            let text = b"GET /a/b HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n";
            let cut = cut.min(text.len());
            prop_assert_eq!(parse(&text[..cut]) == Head::Partial, cut < text.len());
        }
    }
}
