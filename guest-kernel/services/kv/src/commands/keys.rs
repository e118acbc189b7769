//! Commands on keys.

use super::{Call, NOT_INTEGER, Outcome, SYNTAX, bad_expiry};
use crate::glob;
use crate::op::Op;
use crate::resp::integer;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::vec::Vec;
use guest_kernel::block::BlockDevice;

pub(super) fn del<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let mut deleted = 0;
    let args = call.args;
    for key in &args[1..] {
        if call.exists(key) {
            call.apply(Op::Delete { key });
            deleted += 1;
        }
    }
    call.out.integer(deleted);
    Ok(())
}

pub(super) fn exists<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let found = call.args[1..].iter().filter(|key| call.exists(key)).count();
    call.out.integer(found as i64);
    Ok(())
}

pub(super) fn kind<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let kind = if call.exists(call.arg(1)) { "string" } else { "none" };
    call.out.simple(kind);
    Ok(())
}

pub(super) fn rename<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    let entry = call.entry(&args[1]).ok_or("ERR no such key")?;
    if args[1] != args[2] {
        call.apply(Op::Delete { key: &args[1] });
        call.apply(Op::Set { key: &args[2], value: &entry.value, expires: entry.expires });
    }
    call.out.simple("OK");
    Ok(())
}

/// `EXPIRE key s`, and with `P` ms, and with `AT` a moment instead of a duration.
pub(super) fn expire<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    let name = args[0].to_ascii_uppercase();
    let number = call.integer(2)?;
    let scale = if name.starts_with(b"P") { 1 } else { 1000 };
    let base = if name.ends_with(b"AT") { 0 } else { call.now as i64 };
    let at =
        number.checked_mul(scale).and_then(|ms| ms.checked_add(base)).ok_or_else(|| bad_expiry(&name))?;
    let Some(entry) = call.entry(&args[1]) else {
        call.out.integer(0);
        return Ok(());
    };
    // A moment that has passed deletes the key.
    match u64::try_from(at).ok().filter(|&at| at > call.now) {
        Some(at) => call.apply(Op::Set { key: &args[1], value: &entry.value, expires: Some(at) }),
        None => call.apply(Op::Delete { key: &args[1] }),
    }
    call.out.integer(1);
    Ok(())
}

/// `TTL key`, `PTTL key`
pub(super) fn ttl<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let entry = call.server.store.borrow().get(call.arg(1), call.now).map(|entry| entry.expires);
    let left = match entry {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => {
            let ms = (at - call.now) as i64;
            if call.arg(0).len() == 4 { ms } else { ms.saturating_add(500) / 1000 }
        }
    };
    call.out.integer(left);
    Ok(())
}

pub(super) fn persist<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    let volatile = call.entry(&args[1]).filter(|entry| entry.expires.is_some());
    if let Some(entry) = &volatile {
        call.apply(Op::Set { key: &args[1], value: &entry.value, expires: None });
    }
    call.out.integer(i64::from(volatile.is_some()));
    Ok(())
}

pub(super) fn keys<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let store = call.server.store.borrow();
    let pattern = call.arg(1);
    let matching = || store.live(call.now).map(|(key, _)| key).filter(|key| glob::matches(pattern, key));
    let count = matching().count();
    let mut all = crate::resp::Replies::default();
    all.array(count);
    matching().for_each(|key| all.bulk(key));
    call.out.0.append(&mut all.0);
    Ok(())
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
pub(super) fn scan<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    let cursor = core::str::from_utf8(&args[1]).ok().and_then(|text| text.parse::<u64>().ok());
    let cursor = cursor.ok_or("ERR invalid cursor")?;
    let (mut pattern, mut count, mut strings) = (None, 10, true);
    for option in args[2..].chunks(2) {
        let [name, value] = option else { return Err(SYNTAX) };
        match name.to_ascii_uppercase().as_slice() {
            b"MATCH" => pattern = Some(value),
            b"COUNT" => count = integer(value).ok_or(NOT_INTEGER)?,
            b"TYPE" => strings = value.eq_ignore_ascii_case(b"string"),
            _ => return Err(SYNTAX),
        }
    }
    let count = usize::try_from(count).ok().filter(|&count| count > 0).ok_or(SYNTAX)?;
    let mut found: Vec<Vec<u8>> = Vec::new();
    let next = call.server.store.borrow().scan(cursor, count, call.now, |key| {
        if strings && pattern.is_none_or(|pattern| glob::matches(pattern, key)) {
            found.push(key.to_owned());
        }
    });
    call.out.array(2);
    call.out.bulk(format!("{next}").as_bytes());
    call.out.array(found.len());
    found.iter().for_each(|key| call.out.bulk(key));
    Ok(())
}

pub(super) fn dbsize<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let count = call.server.store.borrow().live(call.now).count();
    call.out.integer(count as i64);
    Ok(())
}

/// `FLUSHALL [ASYNC|SYNC]`
pub(super) fn flush<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    match &call.args[1..] {
        [] => {}
        [how] if how.eq_ignore_ascii_case(b"ASYNC") || how.eq_ignore_ascii_case(b"SYNC") => {}
        _ => return Err(SYNTAX),
    }
    call.apply(Op::Clear);
    call.out.simple("OK");
    Ok(())
}
