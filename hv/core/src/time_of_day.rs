//! The wall clock: read from the CMOS clock at boot, set by the control domain, shown in each domain's
//! shared_info.

use crate::domain;
use crate::time::wallclock::{Cmos, Rtc, WallClock};
use core::mem::offset_of;
use core::sync::atomic::Ordering::Relaxed;
use hv_machine::lock::{Mutex, rank};
use hv_machine::ram::Page;
use hv_machine::x86_64::{clock, port};
use shared_abi::DomId;
use shared_abi::xen::SharedInfo;

static CLOCK: Mutex<Option<WallClock>> = Mutex::new(rank::DOMAIN, None);
static CMOS: Mutex<()> = Mutex::new(rank::PORT, ());

/// Reads one register of the CMOS.
pub fn cmos_read(index: u8) -> u8 {
    let _held = CMOS.lock();
    port::outb(0x70, index & 0x7f);
    port::inb(0x71)
}

/// Writes one register of the CMOS.
pub fn cmos_write(index: u8, value: u8) {
    let _held = CMOS.lock();
    port::outb(0x70, index & 0x7f);
    port::outb(0x71, value);
}

/// The machine's own clock.
struct Machine;

impl Cmos for Machine {
    fn register(&self, index: u8) -> u8 {
        cmos_read(index)
    }
    fn now(&self) -> u64 {
        clock::now()
    }
}

/// Reads the clock, which has no more than seconds: it is taken to be in the middle of one. `century`: the register of
/// the century, 0 for none.
pub fn init(century: u8) {
    let (rtc, at) = Rtc::settled(&Machine, century);
    set(rtc.epoch_seconds().unwrap_or(0), 500_000_000, at);
}

/// Sets the wall clock: what it showed at a system time (`XENPF_settime`). Every domain sees it.
pub fn set(seconds: u64, nanoseconds: u32, at: u64) {
    *CLOCK.lock() = Some(WallClock::new(seconds, nanoseconds, at));
    let mut next = DomId(0);
    while let Some(d) = domain::next_from(next) {
        publish(&d.shared.page(), d.time_offset.load(Relaxed));
        next = DomId(d.id.0 + 1);
    }
}

/// Writes the clock into a domain's shared_info, by its version protocol.
pub fn publish(page: &Page<'_>, offset: i64) {
    let Some(now) = *CLOCK.lock() else { return };
    let (sec, nsec, sec_hi) = now.fields(offset);
    let at = offset_of!(SharedInfo, wc_version);
    let version = page.load_u32(at) & !1;
    page.store_u32(at, version | 1);
    page.store_u32(offset_of!(SharedInfo, wc_sec), sec);
    page.store_u32(offset_of!(SharedInfo, wc_nsec), nsec);
    page.store_u32(offset_of!(SharedInfo, wc_sec_hi), sec_hi);
    page.store_u32(at, version.wrapping_add(2));
}
