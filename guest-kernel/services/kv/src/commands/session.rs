//! Commands about the connection and the server.

use super::{COMMANDS, Call, NOT_INTEGER, Outcome, SYNTAX};
use crate::glob;
use crate::resp::integer;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use guest_kernel::block::BlockDevice;

/// What a connection has said about itself.
#[derive(Default)]
pub struct Session {
    /// Its number.
    pub id: u64,
    name: Vec<u8>,
}

impl Session {
    /// A connection's beginning.
    pub fn new(id: u64) -> Self {
        Session { id, name: Vec::new() }
    }
}

pub(super) fn ping<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    match call.args {
        [_] => call.out.simple("PONG"),
        [_, text] => call.out.bulk(text),
        _ => return Err("ERR wrong number of arguments for 'ping' command".into()),
    }
    Ok(())
}

pub(super) fn echo<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    call.out.bulk(&call.args[1]);
    Ok(())
}

pub(super) fn select<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    match integer(call.arg(1)) {
        Some(0) => call.out.simple("OK"),
        Some(_) => return Err("ERR DB index is out of range".into()),
        None => return Err(NOT_INTEGER),
    }
    Ok(())
}

pub(super) fn info<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let all = call.server.info();
    let wanted: Vec<String> =
        call.args[1..].iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let everything = wanted.is_empty()
        || wanted.iter().any(|name| matches!(name.as_str(), "all" | "default" | "everything"));
    let sections: Vec<&str> = all
        .split("\r\n\r\n")
        .filter(|section| {
            let name = section.lines().next().unwrap_or("").trim_start_matches("# ").to_ascii_lowercase();
            everything || wanted.contains(&name)
        })
        .collect();
    call.out.bulk(sections.join("\r\n\r\n").as_bytes());
    Ok(())
}

pub(super) fn command<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    match call.args.get(1) {
        Some(word) if word.eq_ignore_ascii_case(b"COUNT") => call.out.integer(COMMANDS),
        // redis-cli asks for its hints; it does without.
        _ => call.out.array(0),
    }
    Ok(())
}

pub(super) fn config<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    if !call.arg(1).eq_ignore_ascii_case(b"GET") || call.args.len() < 3 {
        return Err(format!(
            "ERR unknown subcommand or wrong number of arguments for '{}'. Try CONFIG GET.",
            String::from_utf8_lossy(call.arg(1))
        )
        .into());
    }
    let memory = format!("{}", call.server.limits.memory);
    let settings = [
        ("save", ""),
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("databases", "1"),
        ("maxmemory", memory.as_str()),
        ("maxmemory-policy", "noeviction"),
    ];
    let asked = |name: &str| {
        call.args[2..].iter().any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
    };
    let found: Vec<_> = settings.into_iter().filter(|(name, _)| asked(name)).collect();
    call.out.array(found.len() * 2);
    for (name, value) in found {
        call.out.bulk(name.as_bytes());
        call.out.bulk(value.as_bytes());
    }
    Ok(())
}

pub(super) fn client<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    match (args[1].to_ascii_uppercase().as_slice(), &args[2..]) {
        (b"ID", []) => call.out.integer(call.session.id as i64),
        (b"GETNAME", []) => {
            let name = Some(&call.session.name[..]).filter(|name| !name.is_empty());
            call.out.bulk_or_nil(name);
        }
        (b"SETNAME", [name]) => {
            if name.len() > 64 || name.iter().any(|byte| !byte.is_ascii_graphic()) {
                return Err("ERR Client names cannot contain spaces, newlines or special characters.".into());
            }
            call.session.name = name.to_vec();
            call.out.simple("OK");
        }
        (b"SETINFO", [_, _]) => call.out.simple("OK"),
        (sub, _) => {
            let sub = String::from_utf8_lossy(sub).into_owned();
            return Err(format!(
                "ERR unknown subcommand or wrong number of arguments for '{sub}'. Try CLIENT HELP."
            )
            .into());
        }
    }
    Ok(())
}

/// `HELLO [2 [SETNAME name]]`
pub(super) fn hello<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    match call.args {
        [_] => {}
        [_, version, rest @ ..] => match (integer(version), rest) {
            (Some(2), []) => {}
            (Some(2), [option, name]) if option.eq_ignore_ascii_case(b"SETNAME") && name.len() <= 64 => {
                call.session.name = name.to_vec();
            }
            (Some(2), _) => return Err(SYNTAX),
            (Some(_), _) => return Err("NOPROTO unsupported protocol version".into()),
            (None, _) => return Err("ERR Protocol version is not an integer or out of range".into()),
        },
        [] => return Err(SYNTAX),
    }
    call.out.array(14);
    for (name, value) in [("server", "redis"), ("version", "7.0.0")] {
        call.out.bulk(name.as_bytes());
        call.out.bulk(value.as_bytes());
    }
    call.out.bulk(b"proto");
    call.out.integer(2);
    call.out.bulk(b"id");
    call.out.integer(call.session.id as i64);
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        call.out.bulk(name.as_bytes());
        call.out.bulk(value.as_bytes());
    }
    call.out.bulk(b"modules");
    call.out.array(0);
    Ok(())
}

pub(super) fn quit<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    call.out.simple("OK");
    Ok(())
}
