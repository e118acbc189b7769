//! `set_timer_op`: the vcpu's single-shot timer, in system time.

use crate::domain::Current;
use crate::error::HcResult;
use crate::run;

/// `set_timer_op(deadline)`: VIRQ_TIMER at that system time; 0 stops the timer.
pub fn set_timer_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    run::set_timer(cur.vcpu, a[0] as i64);
    Ok(0)
}
