//! Restates `event_channel.h`: event channel operations, and the layout of the FIFO ABI.

use crate::{DomId, Gfn, Port, VcpuId};

abi_constants! {
    "`event_channel_op` command.": u32 {
        EVTCHNOP_BIND_INTERDOMAIN = 0,
        EVTCHNOP_BIND_VIRQ = 1,
        EVTCHNOP_BIND_PIRQ = 2,
        EVTCHNOP_CLOSE = 3,
        EVTCHNOP_SEND = 4,
        EVTCHNOP_STATUS = 5,
        EVTCHNOP_ALLOC_UNBOUND = 6,
        EVTCHNOP_BIND_IPI = 7,
        EVTCHNOP_BIND_VCPU = 8,
        EVTCHNOP_UNMASK = 9,
        EVTCHNOP_RESET = 10,
        EVTCHNOP_INIT_CONTROL = 11,
        EVTCHNOP_EXPAND_ARRAY = 12,
        EVTCHNOP_SET_PRIORITY = 13,
    }
    "`EvtchnBindPirq::flags`.": u32 {
        BIND_PIRQ__WILL_SHARE = 1,
    }
    "`EvtchnStatus::status`.": u32 {
        EVTCHNSTAT_CLOSED = 0,
        EVTCHNSTAT_UNBOUND = 1,
        EVTCHNSTAT_INTERDOMAIN = 2,
        EVTCHNSTAT_PIRQ = 3,
        EVTCHNSTAT_VIRQ = 4,
        EVTCHNSTAT_IPI = 5,
    }
    "Ports of a domain that uses the shared info page's bitmaps.": u32 {
        EVTCHN_2L_NR_CHANNELS = 64 * 64,
    }
    "A FIFO queue's priority; the lowest number is served first.": u32 {
        EVTCHN_FIFO_PRIORITY_MAX = 0,
        EVTCHN_FIFO_PRIORITY_DEFAULT = 7,
        EVTCHN_FIFO_PRIORITY_MIN = 15,
        EVTCHN_FIFO_MAX_QUEUES = EVTCHN_FIFO_PRIORITY_MIN + 1,
    }
    "A FIFO event word: bit numbers, and the link in the low bits.": u32 {
        EVTCHN_FIFO_PENDING = 31,
        EVTCHN_FIFO_MASKED = 30,
        EVTCHN_FIFO_LINKED = 29,
        EVTCHN_FIFO_BUSY = 28,
        EVTCHN_FIFO_LINK_BITS = 17,
        EVTCHN_FIFO_LINK_MASK = (1 << EVTCHN_FIFO_LINK_BITS) - 1,
        EVTCHN_FIFO_NR_CHANNELS = 1 << EVTCHN_FIFO_LINK_BITS,
    }
}

/// Bits of a word of the 2-level bitmaps, and words of each bitmap.
pub const EVTCHN_2L_WORD_BITS: u32 = 64;

/// The word of `SharedInfo::evtchn_pending` and `evtchn_mask` that holds `port`, and the mask of its
/// bit there; the word's number is also its bit's in `VcpuInfo::evtchn_pending_sel`. `None` for a port
/// beyond the 2-level ABI.
pub const fn two_level_bit(port: Port) -> Option<(usize, u64)> {
    if port.0 >= EVTCHN_2L_NR_CHANNELS {
        return None;
    }
    Some(((port.0 / EVTCHN_2L_WORD_BITS) as usize, 1 << (port.0 % EVTCHN_2L_WORD_BITS)))
}

abi_structs! {
    /// Allocate a port in `dom` that `remote_dom` may bind to.
    pub struct EvtchnAllocUnbound("struct evtchn_alloc_unbound", 8) {
        dom: DomId,
        remote_dom: DomId,
        /// Out.
        port: Port,
    }

    /// Connect to another domain's unbound port.
    pub struct EvtchnBindInterdomain("struct evtchn_bind_interdomain", 12) {
        remote_dom: DomId,
        _pad: u16,
        remote_port: Port,
        /// Out.
        local_port: Port,
    }

    /// Bind a virtual interrupt.
    pub struct EvtchnBindVirq("struct evtchn_bind_virq", 12) {
        virq: u32,
        vcpu: VcpuId,
        /// Out.
        port: Port,
    }

    /// Bind a physical interrupt.
    pub struct EvtchnBindPirq("struct evtchn_bind_pirq", 12) {
        pirq: u32,
        flags: u32,
        /// Out.
        port: Port,
    }

    /// Make a port that notifies a vcpu of the same domain.
    pub struct EvtchnBindIpi("struct evtchn_bind_ipi", 8) {
        vcpu: VcpuId,
        /// Out.
        port: Port,
    }

    /// Close a port.
    pub struct EvtchnClose("struct evtchn_close", 4) {
        port: Port,
    }

    /// Notify the other end.
    pub struct EvtchnSend("struct evtchn_send", 4) {
        port: Port,
    }

    /// Say what a port is.
    pub struct EvtchnStatus("struct evtchn_status", 24) {
        dom: DomId,
        _pad: u16,
        port: Port,
        /// Out: `EVTCHNSTAT_*`.
        status: u32,
        /// Out.
        vcpu: VcpuId,
        /// Out, union: see `unbound`, `interdomain`, `pirq`, `virq`.
        u: [u32; 2],
    }

    /// `EvtchnStatus::u` of an unbound port.
    pub struct EvtchnStatusUnbound("__typeof__(((struct evtchn_status *)0)->u.unbound)", 2) {
        dom: DomId,
    }

    /// `EvtchnStatus::u` of a connected port.
    pub struct EvtchnStatusInterdomain("__typeof__(((struct evtchn_status *)0)->u.interdomain)", 8) {
        dom: DomId,
        _pad: u16,
        port: Port,
    }

    /// Choose the vcpu a port notifies.
    pub struct EvtchnBindVcpu("struct evtchn_bind_vcpu", 8) {
        port: Port,
        vcpu: VcpuId,
    }

    /// Unmask a port, raising it if it is pending.
    pub struct EvtchnUnmask("struct evtchn_unmask", 4) {
        port: Port,
    }

    /// Close all ports.
    pub struct EvtchnReset("struct evtchn_reset", 2) {
        dom: DomId,
    }

    /// Set up a vcpu's FIFO control block.
    pub struct EvtchnInitControl("struct evtchn_init_control", 24) {
        control_gfn: Gfn,
        offset: u32,
        vcpu: VcpuId,
        /// Out.
        link_bits: u8,
        _pad: [u8; 7],
    }

    /// Add a page to the FIFO event array.
    pub struct EvtchnExpandArray("struct evtchn_expand_array", 8) {
        array_gfn: Gfn,
    }

    /// Choose a port's FIFO queue.
    pub struct EvtchnSetPriority("struct evtchn_set_priority", 8) {
        port: Port,
        priority: u32,
    }

    /// The argument of the oldest form of the hypercall, `EVENT_CHANNEL_OP_COMPAT`.
    pub struct EvtchnOp("struct evtchn_op", 28) {
        cmd: u32,
        /// Union: the argument of the command.
        u: [u32; 6],
    }

    /// What a vcpu shares with the hypervisor in the FIFO ABI.
    pub struct EvtchnFifoControlBlock("struct evtchn_fifo_control_block", 72) {
        /// A bit for each queue that has events.
        ready: u32,
        _rsvd: u32,
        head: [u32; EVTCHN_FIFO_MAX_QUEUES as usize],
    }
}

union_views!(EvtchnStatus.u {
    /// Which domain may bind.
    unbound, set_unbound: EvtchnStatusUnbound,
    /// The other end.
    interdomain, set_interdomain: EvtchnStatusInterdomain,
    /// The physical interrupt.
    pirq, set_pirq: u32,
    /// The virtual interrupt.
    virq, set_virq: u32,
});
