//! Restates `sched.h`: what a vcpu tells the scheduler, and why a domain stopped.

use crate::{DomId, GuestAddr};

abi_constants! {
    "`sched_op` command.": u32 {
        SCHEDOP_YIELD = 0,
        SCHEDOP_BLOCK = 1,
        SCHEDOP_SHUTDOWN = 2,
        SCHEDOP_POLL = 3,
        SCHEDOP_REMOTE_SHUTDOWN = 4,
        SCHEDOP_SHUTDOWN_CODE = 5,
        SCHEDOP_WATCHDOG = 6,
        SCHEDOP_PIN_OVERRIDE = 7,
    }
    "Why a domain stopped.": u32 {
        SHUTDOWN_POWEROFF = 0,
        SHUTDOWN_REBOOT = 1,
        SHUTDOWN_SUSPEND = 2,
        SHUTDOWN_CRASH = 3,
        SHUTDOWN_WATCHDOG = 4,
        SHUTDOWN_SOFT_RESET = 5,
        SHUTDOWN_MAX = 5,
    }
}

abi_structs! {
    /// Stop the calling domain.
    pub struct SchedShutdown("struct sched_shutdown", 4) {
        reason: u32,
    }

    /// Block until one of the ports is pending or the time has come.
    pub struct SchedPoll("struct sched_poll", 24) {
        ports: GuestAddr,
        nr_ports: u32,
        _pad: u32,
        /// System time in nanoseconds; 0: none.
        timeout: u64,
    }

    /// Say that another domain has stopped.
    pub struct SchedRemoteShutdown("struct sched_remote_shutdown", 8) {
        domain_id: DomId,
        _pad: u16,
        reason: u32,
    }

    /// Start, poke or stop a watchdog.
    pub struct SchedWatchdog("struct sched_watchdog", 8) {
        id: u32,
        /// Seconds; 0 stops it.
        timeout: u32,
    }

    /// Bind the calling vcpu to a physical CPU; a negative number undoes it.
    pub struct SchedPinOverride("struct sched_pin_override", 4) {
        pcpu: i32,
    }
}
