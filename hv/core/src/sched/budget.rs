//! Caps: a vcpu with a cap may use so many nanoseconds of each period, and is parked for the
//! rest of a period it has used up. Debt (a slice that overran) is carried into the next.

use core::sync::atomic::Ordering::Relaxed;

use super::entity::Entity;

/// Length of a cap's period, ns.
pub const PERIOD: u64 = 10_000_000;

/// What `cap` percent is of a period.
fn quota(cap: u32) -> i64 {
    (PERIOD / 100 * u64::from(cap)) as i64
}

/// Fills the budget for the periods that began since the last time.
pub fn refill(entity: &Entity, now: u64) {
    let (cap, at) = (entity.cap(), entity.refill_at.load(Relaxed));
    if cap == 0 || now < at {
        return;
    }
    let quota = quota(cap);
    let periods = (now - at) / PERIOD + 1;
    let filled = if at == 0 || periods > 1000 {
        quota
    } else {
        entity.budget.load(Relaxed).saturating_add(quota.saturating_mul(periods as i64)).min(quota)
    };
    entity.budget.store(filled, Relaxed);
    entity.refill_at.store(if at == 0 { now + PERIOD } else { at + periods * PERIOD }, Relaxed);
}

/// Takes `ns` of use from the budget.
pub fn spend(entity: &Entity, ns: u64) {
    if entity.cap() != 0 {
        let left = entity.budget.load(Relaxed).saturating_sub_unsigned(ns);
        entity.budget.store(left, Relaxed);
    }
}

/// When the vcpu must stop: `None` when it has no cap, 0 when it is over.
pub fn left(entity: &Entity) -> Option<u64> {
    (entity.cap() != 0).then(|| entity.budget.load(Relaxed).max(0) as u64)
}

/// When a vcpu that is over may run again. Deep debt takes several periods.
pub fn resumes_at(entity: &Entity) -> u64 {
    let debt = entity.budget.load(Relaxed).min(0).unsigned_abs();
    let quota = quota(entity.cap()).max(1) as u64;
    entity.refill_at.load(Relaxed).saturating_add((debt / quota).saturating_mul(PERIOD))
}
