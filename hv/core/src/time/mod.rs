//! Time as a PV guest sees it: the scale from TSC ticks to nanoseconds, the records a guest
//! computes its clock from, the wall clock, timers, and how long a vcpu was in which state.
//!
//! Everything is computation over values passed in: nothing here reads a clock. System time is
//! nanoseconds since the hypervisor's boot.
//!
//! | file | concept |
//! | --- | --- |
//! | `scale` | TSC frequency → `tsc_to_system_mul` and `tsc_shift`, both directions |
//! | `version` | the odd/even protocol of records the guest reads while they change |
//! | `wallclock` | the RTC's registers → seconds since 1970 |
//! | `queue` | a CPU's pending timers, by deadline |
//! | `vcpu_timer` | a vcpu's single-shot and periodic timers |
//! | `runstate` | running, runnable, blocked, offline: how long, and the guest's copy |

pub mod queue;
pub mod runstate;
pub mod scale;
pub mod vcpu_timer;
pub mod version;
pub mod wallclock;

pub use queue::TimerQueue;
pub use runstate::{Runstate, State};
pub use scale::TscScale;
pub use vcpu_timer::VcpuTimer;
