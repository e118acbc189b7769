//! The commands: looked up by name, checked for their number of arguments, run.
//!
//! A command sees the store at one moment and runs without a wait. What it changes goes through
//! [`Call::apply`], which changes the store and notes the change for the log.

mod keys;
mod session;
mod strings;

use crate::op::Op;
use crate::resp::{Replies, integer};
use crate::server::{Server, count};
use crate::store::Entry;
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use guest_kernel::block::BlockDevice;

pub use session::Session;

/// Bytes that a key or value adds at most besides itself, in memory or in the log.
const GROWTH: usize = 128;

/// Why a command failed, in Redis's words.
type Outcome = Result<(), Cow<'static, str>>;

const SYNTAX: Cow<'static, str> = Cow::Borrowed("ERR syntax error");
const NOT_INTEGER: Cow<'static, str> = Cow::Borrowed("ERR value is not an integer or out of range");

/// What a command does to the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Reads,
    /// Changes it without making it larger.
    Writes,
    /// May make it larger.
    Grows,
}

struct Command<D: BlockDevice> {
    name: &'static str,
    /// Number of arguments with the name; negative for at least that many.
    arity: i8,
    effect: Effect,
    run: fn(&mut Call<'_, D>) -> Outcome,
}

/// One command being run.
struct Call<'a, D> {
    server: &'a Server<D>,
    session: &'a mut Session,
    /// The arguments, with the name.
    args: &'a [Cow<'a, [u8]>],
    out: &'a mut Replies,
    ops: Vec<u8>,
    now: u64,
}

impl<D: BlockDevice> Call<'_, D> {
    fn arg(&self, index: usize) -> &[u8] {
        &self.args[index]
    }

    fn integer(&self, index: usize) -> Result<i64, Cow<'static, str>> {
        integer(self.arg(index)).ok_or(NOT_INTEGER)
    }

    /// Changes the store, in memory and in the log.
    fn apply(&mut self, op: Op<'_>) {
        op.encode(&mut self.ops);
        self.server.store.borrow_mut().apply(&op);
    }

    fn entry(&self, key: &[u8]) -> Option<Entry> {
        self.server.store.borrow().get(key, self.now).cloned()
    }

    fn exists(&self, key: &[u8]) -> bool {
        self.server.store.borrow().get(key, self.now).is_some()
    }

    /// Replies with a key's value.
    fn reply_value(&mut self, key: &[u8]) {
        let store = self.server.store.borrow();
        let value = store.get(key, self.now).map(|entry| &*entry.value);
        let counters = &self.server.counters;
        count(if value.is_some() { &counters.hits } else { &counters.misses });
        self.out.bulk_or_nil(value);
    }
}

/// What running a command asks of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on.
    Continue,
    /// Go on, and send the reply when this commit is done.
    Wait(u64),
    /// The store is being copied: run the command again when it may be changed.
    Frozen,
    /// Send the reply and end the connection.
    Quit,
}

/// Runs a request of at least one argument and adds its reply to `out`.
pub fn run<D: BlockDevice>(
    server: &Server<D>,
    session: &mut Session,
    args: &[Cow<'_, [u8]>],
    out: &mut Replies,
) -> Next {
    let upper = args[0].to_ascii_uppercase();
    let Some(command) = lookup::<D>(&upper) else {
        let name = String::from_utf8_lossy(&args[0]).chars().take(128).collect::<String>();
        let mut text = format!("ERR unknown command '{name}', with args beginning with: ");
        for arg in args[1..].iter().take(8) {
            let arg: String = String::from_utf8_lossy(arg).chars().take(64).collect();
            text.push_str(&format!("'{arg}' "));
        }
        out.error(text);
        return Next::Continue;
    };
    let arity = usize::from(command.arity.unsigned_abs());
    if args.len() < arity || (command.arity > 0 && args.len() != arity) {
        out.error(format_args!("ERR wrong number of arguments for '{}' command", command.name));
        return Next::Continue;
    }
    if command.effect != Effect::Reads {
        if server.journal.frozen() {
            return Next::Frozen;
        }
        let growth = match command.effect {
            Effect::Grows => args.iter().map(|arg| arg.len() + GROWTH).sum(),
            _ => 0,
        };
        if let Some(refusal) = server.refusal(growth) {
            out.error(refusal);
            return Next::Continue;
        }
    }
    count(&server.counters.commands);
    let now = (server.clock)();
    let start = out.0.len();
    let mut call = Call { server, session, args, out, ops: Vec::new(), now };
    let outcome = (command.run)(&mut call);
    let ops = call.ops;
    if let Err(text) = outcome {
        out.0.truncate(start);
        out.error(text);
    }
    if !ops.is_empty() {
        return Next::Wait(server.journal.append(&ops));
    }
    if command.name == "quit" { Next::Quit } else { Next::Continue }
}

fn lookup<D: BlockDevice>(upper: &[u8]) -> Option<Command<D>> {
    use Effect::{Grows, Reads, Writes};
    let (name, arity, effect, run): (_, _, _, fn(&mut Call<'_, D>) -> Outcome) = match upper {
        b"GET" => ("get", 2, Reads, strings::get),
        b"SET" => ("set", -3, Grows, strings::set),
        b"SETNX" => ("setnx", 3, Grows, strings::setnx),
        b"SETEX" => ("setex", 4, Grows, strings::setex),
        b"PSETEX" => ("psetex", 4, Grows, strings::setex),
        b"GETSET" => ("getset", 3, Grows, strings::getset),
        b"GETDEL" => ("getdel", 2, Writes, strings::getdel),
        b"MGET" => ("mget", -2, Reads, strings::mget),
        b"MSET" => ("mset", -3, Grows, strings::mset),
        b"APPEND" => ("append", 3, Grows, strings::append),
        b"STRLEN" => ("strlen", 2, Reads, strings::strlen),
        b"INCR" => ("incr", 2, Grows, strings::incr),
        b"DECR" => ("decr", 2, Grows, strings::decr),
        b"INCRBY" => ("incrby", 3, Grows, strings::incrby),
        b"DECRBY" => ("decrby", 3, Grows, strings::decrby),
        b"DEL" => ("del", -2, Writes, keys::del),
        b"UNLINK" => ("unlink", -2, Writes, keys::del),
        b"EXISTS" => ("exists", -2, Reads, keys::exists),
        b"TYPE" => ("type", 2, Reads, keys::kind),
        b"RENAME" => ("rename", 3, Grows, keys::rename),
        b"EXPIRE" => ("expire", 3, Writes, keys::expire),
        b"PEXPIRE" => ("pexpire", 3, Writes, keys::expire),
        b"EXPIREAT" => ("expireat", 3, Writes, keys::expire),
        b"PEXPIREAT" => ("pexpireat", 3, Writes, keys::expire),
        b"TTL" => ("ttl", 2, Reads, keys::ttl),
        b"PTTL" => ("pttl", 2, Reads, keys::ttl),
        b"PERSIST" => ("persist", 2, Writes, keys::persist),
        b"KEYS" => ("keys", 2, Reads, keys::keys),
        b"SCAN" => ("scan", -2, Reads, keys::scan),
        b"DBSIZE" => ("dbsize", 1, Reads, keys::dbsize),
        b"FLUSHALL" => ("flushall", -1, Writes, keys::flush),
        b"FLUSHDB" => ("flushdb", -1, Writes, keys::flush),
        b"PING" => ("ping", -1, Reads, session::ping),
        b"ECHO" => ("echo", 2, Reads, session::echo),
        b"SELECT" => ("select", 2, Reads, session::select),
        b"INFO" => ("info", -1, Reads, session::info),
        b"COMMAND" => ("command", -1, Reads, session::command),
        b"CONFIG" => ("config", -2, Reads, session::config),
        b"CLIENT" => ("client", -2, Reads, session::client),
        b"HELLO" => ("hello", -1, Reads, session::hello),
        b"QUIT" => ("quit", -1, Reads, session::quit),
        _ => return None,
    };
    Some(Command { name, arity, effect, run })
}

/// Number of commands, for `COMMAND COUNT`.
const COMMANDS: i64 = 41;

/// The error for an expiry that cannot be.
fn bad_expiry(name: &[u8]) -> Cow<'static, str> {
    let name = String::from_utf8_lossy(name).to_lowercase();
    Cow::Owned(format!("ERR invalid expire time in '{name}' command").to_string())
}

#[cfg(test)]
mod tests;
