//! Time as a PV guest sees it: the wall clock, timers, and how long a vcpu was in which state.
//!
//! Everything is computation over values passed in: nothing here reads a clock. System time is
//! nanoseconds since the hypervisor's boot.
//!
//! | file | concept |
//! | --- | --- |
//! | `wallclock` | the RTC's registers → seconds since 1970 |
//! | `queue` | a CPU's pending timers, by deadline |
//! | `vcpu_timer` | a vcpu's single-shot and periodic timers |
//! | `watchdog` | a domain's watchdogs |
//! | `runstate` | running, runnable, blocked, offline: how long, and the guest's copy |

pub mod queue;
pub mod runstate;
pub mod vcpu_timer;
pub mod wallclock;
pub mod watchdog;

pub use queue::TimerQueue;
pub use runstate::{Runstate, State};
pub use vcpu_timer::VcpuTimer;
pub use watchdog::Watchdogs;
