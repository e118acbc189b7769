//! Commands on values.

use super::{Call, NOT_INTEGER, Outcome, SYNTAX, bad_expiry};
use crate::op::Op;
use crate::resp::integer;
use alloc::format;
use alloc::vec::Vec;
use guest_kernel::block::BlockDevice;

pub(super) fn get<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    call.reply_value(&args[1]);
    Ok(())
}

pub(super) fn mget<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    call.out.array(args.len() - 1);
    for key in &args[1..] {
        call.reply_value(key);
    }
    Ok(())
}

/// `SET key value [NX|XX] [GET] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL]`
pub(super) fn set<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    let (key, value) = (&args[1], &args[2]);
    let (mut nx, mut xx, mut get, mut keep, mut expires) = (false, false, false, false, None);
    let mut index = 3;
    while index < args.len() {
        let option = args[index].to_ascii_uppercase();
        match option.as_slice() {
            b"NX" if !xx => nx = true,
            b"XX" if !nx => xx = true,
            b"GET" => get = true,
            b"KEEPTTL" if expires.is_none() => keep = true,
            b"EX" | b"PX" | b"EXAT" | b"PXAT" if expires.is_none() && !keep && index + 1 < args.len() => {
                index += 1;
                expires = Some(moment(call, index, &option)?.filter(|&at| at > 0).ok_or(bad_expiry(b"set"))?);
            }
            _ => return Err(SYNTAX),
        }
        index += 1;
    }
    let old = call.entry(key);
    if get {
        call.out.bulk_or_nil(old.as_ref().map(|entry| &*entry.value));
    }
    if (nx && old.is_some()) || (xx && old.is_none()) {
        if !get {
            call.out.nil();
        }
        return Ok(());
    }
    let expires = if keep { old.and_then(|entry| entry.expires) } else { expires };
    if !get {
        call.out.simple("OK");
    }
    store(call, key, value, expires);
    Ok(())
}

/// Sets a key, or deletes it if its time is over already.
fn store<D: BlockDevice>(call: &mut Call<'_, D>, key: &[u8], value: &[u8], expires: Option<u64>) {
    match expires {
        Some(at) if at <= call.now => call.apply(Op::Delete { key }),
        _ => call.apply(Op::Set { key, value, expires }),
    }
}

/// The moment that an argument means with a unit; `None` if it is not positive or too late.
fn moment<D: BlockDevice>(
    call: &Call<'_, D>,
    index: usize,
    unit: &[u8],
) -> Result<Option<u64>, alloc::borrow::Cow<'static, str>> {
    let number = call.integer(index)?;
    let scale = if unit.starts_with(b"EX") { 1000 } else { 1 };
    let base = if unit.ends_with(b"AT") { 0 } else { call.now as i64 };
    let at = number.checked_mul(scale).filter(|_| number > 0).and_then(|ms| ms.checked_add(base));
    Ok(at.map(|at| at as u64))
}

/// `SETEX key s value`, `PSETEX key ms value`
pub(super) fn setex<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    let unit: &[u8] = if args[0].len() == 5 { b"EX" } else { b"PX" };
    let at = moment(call, 2, unit)?.ok_or_else(|| bad_expiry(&args[0]))?;
    call.apply(Op::Set { key: &args[1], value: &args[3], expires: Some(at) });
    call.out.simple("OK");
    Ok(())
}

pub(super) fn setnx<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    let new = !call.exists(&args[1]);
    if new {
        call.apply(Op::Set { key: &args[1], value: &args[2], expires: None });
    }
    call.out.integer(i64::from(new));
    Ok(())
}

pub(super) fn getset<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    call.reply_value(&args[1]);
    call.apply(Op::Set { key: &args[1], value: &args[2], expires: None });
    Ok(())
}

pub(super) fn getdel<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    call.reply_value(&args[1]);
    if call.exists(&args[1]) {
        call.apply(Op::Delete { key: &args[1] });
    }
    Ok(())
}

pub(super) fn mset<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    if args.len().is_multiple_of(2) {
        return Err("ERR wrong number of arguments for 'mset' command".into());
    }
    for pair in args[1..].chunks_exact(2) {
        call.apply(Op::Set { key: &pair[0], value: &pair[1], expires: None });
    }
    call.out.simple("OK");
    Ok(())
}

pub(super) fn append<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let args = call.args;
    let old = call.entry(&args[1]);
    let expires = old.as_ref().and_then(|entry| entry.expires);
    let mut value = old.map_or_else(Vec::new, |entry| entry.value.into_vec());
    value.extend_from_slice(&args[2]);
    call.out.integer(value.len() as i64);
    call.apply(Op::Set { key: &args[1], value: &value, expires });
    Ok(())
}

pub(super) fn strlen<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let length = call.server.store.borrow().get(call.arg(1), call.now).map_or(0, |entry| entry.value.len());
    call.out.integer(length as i64);
    Ok(())
}

pub(super) fn incr<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    add(call, 1)
}

pub(super) fn decr<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    add(call, -1)
}

pub(super) fn incrby<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let by = call.integer(2)?;
    add(call, by)
}

pub(super) fn decrby<D: BlockDevice>(call: &mut Call<'_, D>) -> Outcome {
    let by = call.integer(2)?.checked_neg().ok_or("ERR decrement would overflow")?;
    add(call, by)
}

fn add<D: BlockDevice>(call: &mut Call<'_, D>, by: i64) -> Outcome {
    let args = call.args;
    let old = call.entry(&args[1]);
    let expires = old.as_ref().and_then(|entry| entry.expires);
    let number = old.map_or(Some(0), |entry| integer(&entry.value)).ok_or(NOT_INTEGER)?;
    let number = number.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
    call.apply(Op::Set { key: &args[1], value: format!("{number}").as_bytes(), expires });
    call.out.integer(number);
    Ok(())
}
