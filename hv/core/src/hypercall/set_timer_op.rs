//! `set_timer_op`: the vcpu's single-shot timer, in system time.

use crate::domain::Current;
use crate::error::HcResult;
use crate::run;

/// `set_timer_op(deadline)`: VIRQ_TIMER at that system time; 0 stops the timer.
pub fn set_timer_op(cur: &mut Current<'_>, a: &mut [u64; 6]) -> HcResult {
    // A deadline that looks negative is a kernel's "never" gone wrong: as Xen, remind it in a while.
    let deadline = match a[0] {
        0 => u64::MAX,
        d if (d as i64) < 0 => hv_machine::x86_64::clock::now() + 100_000_000,
        d => d,
    };
    run::set_singleshot(cur.vcpu, deadline);
    Ok(0)
}
