//! Properties of the ABI's small computations, against the plainest way to say each.

use proptest::prelude::*;
use shared_abi::event_channel::two_level_bit;
use shared_abi::grant_table::{GrantEntryHeader, GrantEntryV2, GrantEntryV2SubPage, GrantEntryV2Transitive};
use shared_abi::io::ring::bytes;
use shared_abi::io::xenbus::XenbusState;
use shared_abi::xen::{StartInfo, StartInfoConsoleDomu, VcpuTimeInfo, scale_tsc};
use shared_abi::{DomId, Errno, GrantRef, Mfn, Port, pte};
use zerocopy::{FromBytes, IntoBytes};

proptest! {
    #[test]
    fn byte_rings_split_where_a_byte_by_byte_copy_would_go(
        idx: u32, len in 0u32..3000, log in 4u32..12,
    ) {
        let size = 1 << log;
        let (start, first, rest) = bytes::split(idx, len, size);
        let places: Vec<usize> = (0..len.min(size)).map(|i| idx.wrapping_add(i) as usize % size as usize).collect();
        let split: Vec<usize> = (start..start + first).chain(0..rest).collect();
        prop_assert_eq!(places, split);
    }

    #[test]
    fn byte_rings_count_as_unwrapped_indices_do(cons: u32, ahead: u32, log in 4u32..12) {
        let size = 1u32 << log;
        // Half of the claims are within or just beyond the ring.
        for ahead in [ahead, ahead % (size + 2)] {
            let prod = cons.wrapping_add(ahead);
            let valid = ahead <= size;
            prop_assert_eq!(bytes::used(prod, cons, size), valid.then_some(ahead));
            prop_assert_eq!(bytes::free(prod, cons, size), valid.then(|| size - ahead));
        }
    }

    #[test]
    fn ticks_scale_as_shifting_bit_by_bit_would(delta: u64, mul: u32, shift: i8) {
        let mut shifted = delta;
        for _ in 0..shift.unsigned_abs() {
            shifted = if shift < 0 { shifted / 2 } else { shifted.wrapping_mul(2) };
        }
        let expected = (u128::from(shifted) * u128::from(mul)) / (1 << 32);
        prop_assert_eq!(u128::from(scale_tsc(delta, mul, shift)), expected);
    }

    #[test]
    fn page_table_entries_keep_frame_and_flags(frame in 0u64..1 << 40, flags: u64) {
        let flags = flags & !pte::ADDR_MASK;
        let entry = pte::entry(Mfn(frame), flags);
        prop_assert_eq!(pte::mfn(entry), Mfn(frame));
        prop_assert_eq!(entry & !pte::ADDR_MASK, flags);
    }

    #[test]
    fn page_table_indices_make_up_the_address(vaddr: u64) {
        let parts: Vec<u64> = (1..=4).map(|level| pte::index(vaddr, level) as u64).collect();
        let rebuilt = parts.iter().zip(pte::LEVEL_SHIFT).map(|(i, shift)| i << shift).sum::<u64>();
        prop_assert_eq!(rebuilt | vaddr & 0xfff, vaddr & 0xffff_ffff_ffff);
    }

    #[test]
    fn results_that_are_errnos_are_known(number in 0i64..200) {
        let listed = Errno::ALL.iter().copied().find(|e| e.number() == number);
        prop_assert_eq!(Errno::from_number(number), listed);
        let result = Errno::from_result(-number);
        prop_assert_eq!(result.and_then(Result::ok), listed);
        prop_assert_eq!(result.is_none(), number == 0);
    }
}

#[test]
fn any_result_may_be_asked_for_its_errno() {
    assert_eq!(Errno::from_result(i64::MIN), Some(Err(i64::MIN)));
    assert_eq!(Errno::from_result(i64::MAX), None);
    assert_eq!(Errno::from_result(Errno::ENOSYS.neg()), Some(Ok(Errno::ENOSYS)));
}

#[test]
fn every_port_has_its_own_bit() {
    let mut seen = [0u64; 64];
    for port in 0..4096 {
        let (word, bit) = two_level_bit(Port(port)).unwrap();
        assert_eq!(seen[word] & bit, 0, "port {port}");
        assert_eq!((word as u32, bit.trailing_zeros()), (port / 64, port % 64));
        seen[word] |= bit;
    }
    assert_eq!(seen, [u64::MAX; 64]);
    assert_eq!(two_level_bit(Port(4096)), None);
    assert_eq!(two_level_bit(Port(u32::MAX)), None);
}

#[test]
fn a_tsc_before_the_record_counts_as_the_records_own() {
    // 2 GHz: half a nanosecond a tick.
    let record = VcpuTimeInfo {
        tsc_timestamp: 1000,
        system_time: 500,
        tsc_to_system_mul: 1 << 31,
        ..Default::default()
    };
    assert_eq!(record.system_time_at(3000), 1500);
    assert_eq!(record.system_time_at(1000), 500);
    assert_eq!(record.system_time_at(0), 500);
}

/// Xen starts the TSC of a new guest at zero where it emulates it, but stamped the guest's record a
/// moment earlier: minus a little, that is almost 2^64. A guest that took that for a time to come saw
/// its clock stand still for the first second, or for good under instruction counting.
#[test]
fn a_record_from_before_the_tsc_began_counts_from_there() {
    let record = VcpuTimeInfo {
        tsc_timestamp: 0u64.wrapping_sub(1000),
        system_time: 500,
        tsc_to_system_mul: 1 << 31,
        ..Default::default()
    };
    assert_eq!(record.system_time_at(0), 1000);
    assert_eq!(record.system_time_at(3000), 2500);
}

#[test]
fn views_of_unions_read_what_was_written_and_leave_the_rest() {
    let mut info = StartInfo::read_from_bytes(&[0xaa; size_of::<StartInfo>()]).unwrap();
    let domu = StartInfoConsoleDomu { mfn: Mfn(0x1234), evtchn: 7, ..Default::default() };
    info.set_console_domu(domu);
    assert_eq!(info.console_domu(), domu);
    // What the initial domain would read there is the low and high half of the frame number.
    assert_eq!((info.console_dom0().info_off, info.console_dom0().info_size), (0x1234, 0));
    let mut expected = [0xaau8; size_of::<StartInfo>()];
    let at = std::mem::offset_of!(StartInfo, console);
    expected[at..at + 16].copy_from_slice(domu.as_bytes());
    assert_eq!(info.as_bytes(), expected);

    let mut entry = GrantEntryV2::default();
    entry.set_sub_page(GrantEntryV2SubPage { frame: u64::MAX, ..Default::default() });
    let hdr = GrantEntryHeader { flags: 3, domid: DomId(5) };
    entry.set_transitive(GrantEntryV2Transitive { hdr, gref: GrantRef(9), ..Default::default() });
    assert_eq!(entry.hdr(), hdr);
    // The transitive form is 12 bytes; the last four of the frame are still there.
    assert_eq!(entry.full_page().frame, 0xffff_ffff_0000_0009);
}

#[test]
fn states_are_read_as_the_store_writes_them() {
    for (_, state) in XenbusState::ALL {
        assert_eq!(XenbusState::parse(&state.number().to_string()), *state);
    }
    for text in ["", "9", "-1", "4x", "04294967300", "Connected"] {
        assert_eq!(XenbusState::parse(text), XenbusState::Unknown, "{text:?}");
    }
    assert_eq!(XenbusState::parse(" 4\n"), XenbusState::Connected);
}
