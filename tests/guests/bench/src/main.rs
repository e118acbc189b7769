//! A guest that counts what each hypercall costs.
//!
//! Run under QEMU's instruction counting, where a nanosecond is an instruction, it prints how many each
//! operation took inside the hypervisor: what the guest itself runs around it is taken off (own.rs).
//! `xtask bench` runs it on Oxen and on Xen and compares.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[allow(unsafe_code, reason = "the calls that are measured, and what the hypervisor enters")]
mod own;
#[allow(unsafe_code, dead_code, reason = "the raw call is what is measured")]
#[path = "../../conformance/src/raw.rs"]
mod raw;
#[allow(unsafe_code, reason = "the counter since power-on is not Xen's time, which starts at its boot")]
mod tsc;

use core::mem::offset_of;
use core::sync::atomic::Ordering::Relaxed;
use guest_kernel::events::EventChannel;
use guest_kernel::grants::SharedPage;
use guest_kernel::memory::{Pages, m2p};
use guest_kernel::share::GrantedPage;
use guest_kernel::time::Instant;
use guest_kernel::{System, println};
use own::{Page, call};
use raw::{buffer, fill, nr, word};
use shared_abi::xen::{SharedInfo, VcpuInfo};

const SELF: usize = 0x7ff0;
/// Where a guest's frames are mapped (images/guest.ld).
const VIRT_BASE: usize = 0xffff_ffff_8000_0000;
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const ACCESSED_DIRTY: u64 = 0x60;
const ROUNDS: u64 = 256;

guest_kernel::main! {
    async fn main(_sys: System) {
        println!("time power-on to dom0's first line: {}", tsc::read());
        if let Err(what) = run() {
            println!("bench failed: {what}");
        }
        println!("bench end");
    }
}

/// Prints what one of `per` operations in a call of `f` takes in the hypervisor.
fn row(name: &str, per: u64, f: impl FnMut() -> i64) -> Result<(), &'static str> {
    row_with(name, per, 0, f)
}

/// The same, where the guest runs `more` instructions of its own that the loop without hypercalls doesn't.
fn row_with(name: &str, per: u64, more: u64, mut f: impl FnMut() -> i64) -> Result<(), &'static str> {
    let mut failed = f();
    let mut rounds = || {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            failed |= f();
        }
        (Instant::now() - start).as_nanos() as u64
    };
    let with = rounds();
    own::use_page(Page::Local)?;
    let without = rounds() + ROUNDS * more;
    own::use_page(Page::Hypercalls)?;
    if failed < 0 {
        println!("row {name}: error {failed}");
        return Err("a call was refused");
    }
    let inside = with.checked_sub(without).ok_or("a loop took less with hypercalls than without")?;
    let all = ROUNDS * per;
    println!("row {name}: {}", (inside + all / 2) / all);
    Ok(())
}

fn run() -> Result<(), &'static str> {
    own::use_page(Page::Hypercalls)?;
    row("null hypercall", 1, || call(nr::XEN_VERSION, [0, 0, 0, 0, 0]))?;
    row("xen_version with a copy-out", 1, || call(nr::XEN_VERSION, [6, buffer(0), 0, 0, 0]))?;
    events()?;
    tables()?;
    grants()
}

fn events() -> Result<(), &'static str> {
    let no = "an event channel was refused";
    let here = EventChannel::alloc_unbound(shared_abi::DomId(SELF as u16)).map_err(|_| no)?;
    let there =
        EventChannel::bind_interdomain(shared_abi::DomId(SELF as u16), here.port()).map_err(|_| no)?;
    let port = here.port().0 as usize;
    let pending = own::shared(offset_of!(SharedInfo, evtchn_pending) + port / 64 * 8);
    let selector = own::shared(offset_of!(SharedInfo, vcpu_info) + offset_of!(VcpuInfo, evtchn_pending_sel));
    // The bytes evtchn_upcall_pending and evtchn_upcall_mask, and nothing else.
    let upcall = own::shared(offset_of!(SharedInfo, vcpu_info));
    let send = |masked: u64| {
        fill_one(u64::from(there.port().0));
        upcall.store(masked << 8, Relaxed);
        let r = call(nr::EVENT_CHANNEL_OP, [4, buffer(0), 0, 0, 0]);
        // Each send is to be a new event.
        pending.store(0, Relaxed);
        selector.store(0, Relaxed);
        r
    };
    let masked = row("evtchn_send, upcalls masked", 1, || send(1));
    if own::upcalls_here(true) != 0 {
        return Err("an upcall handler was refused");
    }
    let unmasked = row_with("evtchn_send with upcall and iret", 1, own::UPCALL, || send(0));
    upcall.store(1 << 8, Relaxed);
    own::upcalls_here(false);
    masked.and(unmasked)?;
    row("evtchn alloc + close", 1, || {
        fill_one(SELF as u64 | (SELF as u64) << 16);
        let r = call(nr::EVENT_CHANNEL_OP, [6, buffer(0), 0, 0, 0]);
        let port = word(0) >> 32;
        fill_one(port);
        r | call(nr::EVENT_CHANNEL_OP, [3, buffer(0), 0, 0, 0])
    })
}

/// Puts one word at the buffer's beginning.
fn fill_one(v: u64) {
    raw::set(0, v);
}

fn address(pages: &Pages, i: usize) -> Result<usize, &'static str> {
    m2p(pages.mfn(i)).map(|pfn| VIRT_BASE + pfn * 4096).ok_or("a frame without a number")
}

fn tables() -> Result<(), &'static str> {
    let pages = Pages::new(2).map_err(|_| "no memory")?;
    let (table, data) = (pages.mfn(0).0, pages.mfn(1).0);
    let at = address(&pages, 0)?;
    let entry = |flags: u64| (data << 12) | PRESENT | USER | ACCESSED_DIRTY | flags;
    let own = |flags: u64| (table << 12) | PRESENT | USER | ACCESSED_DIRTY | flags;
    let va = |address: usize, entry: u64| call(nr::UPDATE_VA_MAPPING, [address, entry as usize, 2, 0, 0]);
    if va(at, own(0)) != 0 {
        return Err("a mapping was refused");
    }
    fill(&[0, table]);
    if call(nr::MMUEXT_OP, [buffer(0), 1, 0, SELF, 0]) != 0 {
        return Err("a pin was refused");
    }
    let mut odd = 0;
    row("mmu_update, one entry", 1, || {
        odd ^= WRITE;
        raw::set(0, table << 12);
        raw::set(1, entry(odd));
        call(nr::MMU_UPDATE, [buffer(0), 1, 0, SELF, 0])
    })?;
    row("mmu_update, each of 64", 64, || {
        odd ^= WRITE;
        for i in 0..64 {
            raw::set(2 * i, (table << 12) + 8 * i as u64);
            raw::set(2 * i + 1, entry(odd));
        }
        call(nr::MMU_UPDATE, [buffer(0), 64, 0, SELF, 0])
    })?;
    fill(&[]);
    for i in 0..64 {
        raw::set(0, (table << 12) + 8 * i);
        raw::set(1, 0);
        call(nr::MMU_UPDATE, [buffer(0), 1, 0, SELF, 0]);
    }
    row("pin + unpin of an L1", 1, || {
        fill(&[4, table, 0, 0, table, 0]);
        raw::set(3, 0);
        call(nr::MMUEXT_OP, [buffer(0), 2, 0, SELF, 0])
    })?;
    fill(&[4, table]);
    call(nr::MMUEXT_OP, [buffer(0), 1, 0, SELF, 0]);
    va(at, own(WRITE));
    row("update_va_mapping", 1, || {
        odd ^= WRITE;
        va(at, own(odd))
    })?;
    va(at, own(WRITE));
    row("multicall, each of 16", 16, || {
        for i in 0..16 {
            raw::set(8 * i, nr::XEN_VERSION as u64);
            raw::set(8 * i + 2, 0);
            raw::set(8 * i + 3, 0);
        }
        call(nr::MULTICALL, [buffer(0), 16, 0, 0, 0])
    })?;
    row("set_timer_op", 1, || call(15, [1 << 45, 0, 0, 0, 0]))?;
    call(15, [0, 0, 0, 0, 0]);
    Ok(())
}

fn grants() -> Result<(), &'static str> {
    let me = shared_abi::DomId(0);
    let page = SharedPage::new(me).map_err(|_| "a grant was refused")?;
    let gref = u64::from(page.gref().0);
    let spare = Pages::new(1).map_err(|_| "no memory")?;
    let (hole, frame) = (address(&spare, 0)?, spare.mfn(0).0);
    let back = (frame << 12) | PRESENT | USER | ACCESSED_DIRTY | WRITE;
    row("grant copy 4 KiB by ref", 1, || {
        // source by reference, destination by frame
        fill_words(&[gref, 0, frame, SELF as u64, 4096 | 1 << 16]);
        call(nr::GRANT_TABLE_OP, [5, buffer(0), 1, 0, 0])
    })?;
    call(nr::UPDATE_VA_MAPPING, [hole, 0, 2, 0, 0]);
    let r = row("grant map + unmap", 1, || {
        fill_words(&[hole as u64, 2 | gref << 32, 0, 0]);
        let r = call(nr::GRANT_TABLE_OP, [0, buffer(0), 1, 0, 0]);
        let handle = word(2) >> 32;
        fill_words(&[hole as u64, 0, handle]);
        r | call(nr::GRANT_TABLE_OP, [1, buffer(0), 1, 0, 0])
    });
    call(nr::UPDATE_VA_MAPPING, [hole, back as usize, 2, 0, 0]);
    r
}

fn fill_words(words: &[u64]) {
    for (i, w) in words.iter().enumerate() {
        raw::set(i, *w);
    }
}
