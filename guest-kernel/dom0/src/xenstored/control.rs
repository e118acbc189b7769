//! CONTROL: what `xenstore-control` asks, as far as it makes sense here.

use super::error::Error;
use super::quota::Quota;
use super::server::Server;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use shared_abi::DomId;

/// Runs one command. The answer is text, ended by a zero.
pub(super) fn run(server: &mut Server, payload: &[u8]) -> Result<Vec<u8>, Error> {
    let text =
        core::str::from_utf8(payload.strip_suffix(b"\0").unwrap_or(payload)).map_err(|_| Error::EINVAL)?;
    let words: Vec<&str> = text.split('\0').collect();
    let answer = match words.as_slice() {
        ["help"] => String::from("check\nhelp\nmemreport\nquota\nquota <name> <value>\nquota <domid>"),
        ["check"] => check(server)?,
        ["memreport"] => memreport(server),
        ["quota"] => quotas(server),
        ["quota", domain] => domain_usage(server, DomId(domain.parse().map_err(|_| Error::EINVAL)?))?,
        ["quota", name, value] => {
            let quota = Quota::from_name(name).ok_or(Error::EINVAL)?;
            server.quotas.set(quota, value.parse().map_err(|_| Error::EINVAL)?);
            String::from("OK")
        }
        _ => return Err(Error::EINVAL),
    };
    Ok(format!("{answer}\0").into_bytes())
}

fn quotas(server: &Server) -> String {
    let mut text = String::new();
    for quota in Quota::ALL {
        let _ = writeln!(text, "{:<18}: {:8}", quota.name(), server.quotas.get(quota));
    }
    text
}

fn domain_usage(server: &Server, domain: DomId) -> Result<String, Error> {
    let conn = server.conn_of(domain).ok_or(Error::ENOENT)?;
    let (nodes, watches) = (server.store.usage(domain).nodes, server.watches.usage(conn).count);
    let (id, memory) = (domain.0, server.memory(conn));
    Ok(format!("Domain {id}:\nnodes     : {nodes:8}\nwatches   : {watches:8}\nmemory    : {memory:8}\n"))
}

fn memreport(server: &Server) -> String {
    let mut text = String::new();
    for domain in server.introduced() {
        let bytes = server.conn_of(domain).map_or(0, |conn| server.memory(conn));
        let _ = writeln!(text, "dom{}: {bytes} bytes", domain.0);
    }
    text
}

/// Every node is listed by its parent, and every listed child exists.
fn check(server: &Server) -> Result<String, Error> {
    let store = &server.store;
    let sound = store.iter().all(|(path, node)| {
        let listed = path.above().is_none_or(|parent| {
            store.get(&parent).is_some_and(|above| above.children.contains(path.leaf()))
        });
        listed && node.children.iter().all(|name| store.get(&path.child(name)).is_some())
    });
    if sound { Ok(String::from("OK")) } else { Err(Error::EIO) }
}
