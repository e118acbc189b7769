//! Event channels: values out of range and the wrong domain, for each operation.

use crate::answer;
use crate::raw::{buffer, call, fill, nr, word};

fn op(operation: usize, words: &[u64]) -> i64 {
    fill(words);
    call(nr::EVENT_CHANNEL_OP, [operation, buffer(0), 0, 0, 0])
}

const DOMAINS: [u64; 8] = [0x7ff0, 0, 1, 77, 0x7ff1, 0x7ff2, 0x7ff4, 0x7fff];

/// Every question about them.
pub fn ask() {
    for domain in DOMAINS {
        for remote in DOMAINS {
            let result = op(6, &[domain | remote << 16]);
            answer(format_args!("event: alloc_unbound of {domain:#x} for {remote:#x}"), result);
            if result == 0 {
                answer(format_args!("  closed"), op(3, &[word(0) >> 32]));
            }
        }
        for port in [0u64, 1, 4095, 4096, 0xffff_ffff] {
            if domain != 0x7ff0 && domain != 0 {
                answer(
                    format_args!("event: status of {domain:#x} port {port}"),
                    op(5, &[domain | port << 32]),
                );
            }
            answer(
                format_args!("event: interdomain with {domain:#x} port {port}"),
                op(0, &[domain | port << 32]),
            );
        }
        if domain != 0x7ff0 && domain != 0 {
            answer(format_args!("event: reset of {domain:#x}"), op(10, &[domain]));
        }
    }
    bound();
    for pirq in [24u64, 4096, 0xffff_ffff] {
        for flags in [0u64, 1, 2] {
            let result = op(2, &[pirq | flags << 32]);
            answer(format_args!("event: pirq {pirq} flags {flags}"), result);
            if result == 0 {
                op(3, &[word(1) & 0xffff_ffff]);
            }
        }
    }
    for virq in 0..26u64 {
        for vcpu in [0u64, 1, 9999] {
            let result = op(1, &[virq | vcpu << 32]);
            // What this program has bound itself, and what only one may bind, is its own affair.
            answer(format_args!("event: virq {virq} at vcpu {vcpu}"), result);
            if result == 0 {
                op(3, &[word(1) & 0xffff_ffff]);
            }
        }
    }
    for operation in [13, 15] {
        answer(format_args!("event: {operation} of zeros"), op(operation, &[]));
    }
    for operation in [16usize, 99, usize::MAX] {
        answer(format_args!("event: operation {operation:#x}"), op(operation, &[0xffff_ffff]));
    }
}

/// A port that is bound to one of this domain's own.
fn bound() {
    op(6, &[0x7ff0 | 0x7ff0 << 16]);
    let port = word(0) >> 32;
    op(0, &[0x7ff0 | port << 32]);
    let other = word(1) & 0xffff_ffff;
    for vcpu in [0u64, 1, 9999, 0xffff_ffff] {
        answer(format_args!("event: bound port at vcpu {vcpu}"), op(8, &[port | vcpu << 32]));
    }
    answer(format_args!("event: interdomain with a bound port"), op(0, &[0x7ff0 | port << 32]));
    answer(format_args!("event: send to a bound port"), op(4, &[port]));
    answer(format_args!("event: unmask of a bound port"), op(9, &[other]));
    for priority in [0u64, 7, 15, 16] {
        answer(format_args!("event: priority {priority}"), op(13, &[port | priority << 32]));
    }
    answer(format_args!("event: close of one end"), op(3, &[port]));
    answer(format_args!("event: send to the other"), op(4, &[other]));
    answer(format_args!("event: bind to the other"), op(0, &[0x7ff0 | other << 32]));
    answer(format_args!("event: close of the other"), op(3, &[other]));
}
