//! Event channels: the life of a port, and what is refused on the way.

use crate::answer;
use crate::raw::{call, fill, nr, word};

const DOMID_SELF: u64 = 0x7ff0;
const NOBODY: u64 = 77;

const BIND_INTERDOMAIN: usize = 0;
const BIND_VIRQ: usize = 1;
const CLOSE: usize = 3;
const SEND: usize = 4;
const STATUS: usize = 5;
const ALLOC_UNBOUND: usize = 6;
const BIND_IPI: usize = 7;
const BIND_VCPU: usize = 8;
const UNMASK: usize = 9;
const RESET: usize = 10;

fn op(operation: usize, words: &[u64]) -> i64 {
    fill(words);
    call(nr::EVENT_CHANNEL_OP, [operation, crate::raw::buffer(0), 0, 0, 0])
}

fn alloc_unbound(own: u64, remote: u64) -> i64 {
    op(ALLOC_UNBOUND, &[own | (remote << 16)])
}

/// Every question about event channels.
pub fn ask() {
    answer(format_args!("alloc_unbound for nobody"), alloc_unbound(NOBODY, DOMID_SELF));
    answer(format_args!("alloc_unbound"), alloc_unbound(DOMID_SELF, DOMID_SELF));
    let port = word(0) >> 32;
    answer(format_args!("send to an unbound port"), op(SEND, &[port]));
    answer(format_args!("status of an unbound port"), op(STATUS, &[DOMID_SELF | (port << 32)]));
    answer(format_args!("  says"), (word(1) & 0xffff_ffff).cast_signed());
    answer(format_args!("bind to it"), op(BIND_INTERDOMAIN, &[DOMID_SELF | (port << 32)]));
    let other = word(1) & 0xffff_ffff;
    answer(format_args!("bind to it again"), op(BIND_INTERDOMAIN, &[DOMID_SELF | (port << 32)]));
    answer(format_args!("status of a bound port"), op(STATUS, &[DOMID_SELF | (other << 32)]));
    answer(format_args!("  says"), (word(1) & 0xffff_ffff).cast_signed());
    answer(format_args!("send to a bound port"), op(SEND, &[port]));
    answer(format_args!("unmask it"), op(UNMASK, &[port]));
    answer(format_args!("bind it to vcpu 0"), op(BIND_VCPU, &[port]));
    answer(format_args!("bind it to no vcpu"), op(BIND_VCPU, &[port | (9999 << 32)]));
    answer(format_args!("close"), op(CLOSE, &[port]));
    answer(format_args!("close again"), op(CLOSE, &[port]));
    answer(format_args!("send with the other end closed"), op(SEND, &[other]));
    answer(format_args!("status with the other end closed"), op(STATUS, &[DOMID_SELF | (other << 32)]));
    answer(format_args!("  says"), (word(1) & 0xffff_ffff).cast_signed());
    answer(format_args!("close the other"), op(CLOSE, &[other]));
    for port in [0, 1, 4095, 4096, 0xffff_ffff] {
        answer(format_args!("close of port {port}"), op(CLOSE, &[port]));
        answer(format_args!("send to port {port}"), op(SEND, &[port]));
        answer(format_args!("unmask of port {port}"), op(UNMASK, &[port]));
        answer(format_args!("bind_vcpu of port {port}"), op(BIND_VCPU, &[port]));
        answer(format_args!("status of port {port}"), op(STATUS, &[DOMID_SELF | (port << 32)]));
    }
    virqs();
    reset_of_another();
    exhaust();
}

/// A domain's ports are closed by another while its control domain has it paused.
fn reset_of_another() {
    const CREATE: u64 = 1;
    const DESTROY: u64 = 2;
    const PAUSE: u64 = 3;
    const UNPAUSE: u64 = 4;
    const VCPUS: u64 = 15;
    let domctl = |command: u64, id: u64, words: &[u64]| {
        let mut op = [0; 18];
        (op[0], op[1]) = (command | 0x15 << 32, id);
        op[2..2 + words.len()].copy_from_slice(words);
        fill(&op);
        call(nr::DOMCTL, [crate::raw::buffer(0), 0, 0, 0, 0])
    };
    // ssidref, handle and flags; iommu options, vcpus; ports, grant frames; maptrack frames, grants of version 1.
    let config = [0, 0, 0, 4 << 32, 1023 | 4 << 32, 16 | 1 << 32];
    let created = domctl(CREATE, 0, &config);
    answer(format_args!("another domain"), created);
    if created != 0 {
        return;
    }
    let id = word(1) & 0xffff;
    answer(format_args!("another domain's vcpus"), domctl(VCPUS, id, &[4]));
    for step in ["paused from the start", "unpaused", "paused again"] {
        answer(format_args!("a port of another's, {step}"), alloc_unbound(id, DOMID_SELF));
        let port = word(0) >> 32;
        answer(format_args!("reset of another, {step}"), op(RESET, &[id]));
        answer(format_args!("its port after that, {step}"), op(STATUS, &[id | (port << 32)]));
        answer(format_args!("  says"), (word(1) & 0xffff_ffff).cast_signed());
        let next = if step == "unpaused" { PAUSE } else { UNPAUSE };
        answer(format_args!("what follows {step}"), domctl(next, id, &[]));
    }
    answer(format_args!("another domain destroyed"), domctl(DESTROY, id, &[]));
    answer(format_args!("reset of nobody"), op(RESET, &[NOBODY]));
}

fn virqs() {
    // VIRQ_DEBUG is per vcpu, VIRQ_DOM_EXC global
    for virq in [1, 3] {
        answer(format_args!("bind virq {virq}"), op(BIND_VIRQ, &[virq]));
        let port = word(1) & 0xffff_ffff;
        answer(format_args!("bind virq {virq} again"), op(BIND_VIRQ, &[virq]));
        answer(format_args!("status of virq {virq}"), op(STATUS, &[DOMID_SELF | (port << 32)]));
        answer(format_args!("  says"), (word(1) & 0xffff_ffff).cast_signed());
        answer(format_args!("send to virq {virq}"), op(SEND, &[port]));
        answer(format_args!("bind_vcpu of virq {virq}"), op(BIND_VCPU, &[port]));
        answer(format_args!("close virq {virq}"), op(CLOSE, &[port]));
    }
    answer(format_args!("bind virq 24"), op(BIND_VIRQ, &[24]));
    answer(format_args!("bind virq 0xffffffff"), op(BIND_VIRQ, &[0xffff_ffff]));
    answer(format_args!("bind virq at no vcpu"), op(BIND_VIRQ, &[1 | (9999 << 32)]));
    answer(format_args!("bind global virq at no vcpu"), op(BIND_VIRQ, &[3 | (9999 << 32)]));
    answer(format_args!("bind ipi at no vcpu"), op(BIND_IPI, &[9999]));
    answer(format_args!("bind ipi"), op(BIND_IPI, &[0]));
    let port = word(0) >> 32;
    answer(format_args!("send ipi"), op(SEND, &[port]));
    answer(format_args!("bind_vcpu of ipi"), op(BIND_VCPU, &[port]));
    answer(format_args!("close ipi"), op(CLOSE, &[port]));
}

/// All ports taken, then given back: the same number again.
fn exhaust() {
    for round in 0..2 {
        let mut last = 0;
        let mut count = 0;
        let refused = loop {
            let result = alloc_unbound(DOMID_SELF, DOMID_SELF);
            if result != 0 || count > 5000 {
                break result;
            }
            last = word(0) >> 32;
            count += 1;
        };
        answer(format_args!("ports until refused, round {round}"), count);
        answer(format_args!("  refused with"), refused);
        for port in 1..=last {
            op(CLOSE, &[port]);
        }
    }
}
