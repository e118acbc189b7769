//! TCP and UDP checksums in whole Ethernet frames (RFC 1071), over IPv4 and IPv6.
//!
//! Frames come from other guests, so nothing about them is believed: whatever is not plainly an
//! unfragmented TCP or UDP packet inside the frame is left alone. Sums are taken over native-endian
//! words, which gives the same bytes as big-endian ones and needs no swapping.

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where a packet's transport segment lies.
pub(super) struct Segment {
    /// Offset of the IP header in the frame.
    pub(super) network: usize,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Offset of the checksum field in the frame.
    field: usize,
    pub(super) udp: bool,
    pub(super) ipv6: bool,
    /// Sum of the pseudo-header.
    pseudo: u64,
}

/// Finds the TCP or UDP segment of a frame.
pub(super) fn locate(frame: &[u8]) -> Option<Segment> {
    let mut network = 14;
    let mut ethertype = be16(frame, 12)?;
    if ethertype == 0x8100 {
        network = 18;
        ethertype = be16(frame, 16)?;
    }
    let ip = frame.get(network..)?;
    let (header, length, protocol, addresses) = match ethertype {
        0x0800 => {
            let header = usize::from(ip.first()? & 0xf) * 4;
            let fragment = be16(ip, 6)? & 0x3fff;
            if ip[0] >> 4 != 4 || header < 20 || fragment != 0 {
                return None;
            }
            (header, usize::from(be16(ip, 2)?), *ip.get(9)?, ip.get(12..20)?)
        }
        0x86dd => {
            if ip.first()? >> 4 != 6 {
                return None;
            }
            (40, 40 + usize::from(be16(ip, 4)?), *ip.get(6)?, ip.get(8..40)?)
        }
        _ => return None,
    };
    let segment = ip.get(header..length)?;
    let (field, least, udp) = match protocol {
        TCP => (16, 20, false),
        UDP => (6, 8, true),
        _ => return None,
    };
    if segment.len() < least {
        return None;
    }
    let start = network + header;
    let length = (segment.len() as u32).to_be_bytes();
    let pseudo = sum(addresses) + sum(&length) + sum(&[0, protocol]);
    let (end, field, ipv6) = (start + segment.len(), start + field, ethertype == 0x86dd);
    Some(Segment { network, start, end, field, udp, ipv6, pseudo })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// The sum of the bytes as 16-bit words, folded to 33 bits: a sum of some of these does not overflow.
///
/// It is taken over 64-bit words with the carry put back in, which is the same modulo 2^16 - 1.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mut total = u64::from_ne_bytes(last);
    for word in words {
        let (more, carry) = total.overflowing_add(u64::from_ne_bytes(*word));
        total = more + u64::from(carry);
    }
    (total & 0xffff_ffff) + (total >> 32)
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    total as u16
}

/// The checksum of the frame's TCP or UDP segment, and the offset of its field, whatever stands there
/// now. `None` if it has none to compute.
pub fn compute(frame: &[u8]) -> Option<(usize, [u8; 2])> {
    let segment = locate(frame)?;
    // The field is at an even offset: what is before it and what is behind it are whole words.
    let before = sum(&frame[segment.start..segment.field]);
    let value = !fold(segment.pseudo + before + sum(&frame[segment.field + 2..segment.end]));
    // A UDP checksum of zero would say that there is none.
    let value = if segment.udp && value == 0 { 0xffff } else { value };
    Some((segment.field, value.to_ne_bytes()))
}

/// Fills the checksum of the frame's TCP or UDP segment in. False if it has none to compute.
pub fn fill(frame: &mut [u8]) -> bool {
    let Some((field, value)) = compute(frame) else { return false };
    frame[field..field + 2].copy_from_slice(&value);
    true
}

/// Prepares a frame whose checksum somebody else will fill in: puts the pseudo-header's sum into
/// the field, as Linux expects of a blank one. False if there is nothing to prepare.
pub fn prepare(frame: &mut [u8]) -> bool {
    let Some(segment) = locate(frame) else { return false };
    let value = fold(segment.pseudo);
    frame[segment.field..segment.field + 2].copy_from_slice(&value.to_ne_bytes());
    true
}

/// Computes the checksum of an IPv4 header, options included.
pub(super) fn fill_ipv4_header(header: &mut [u8]) {
    header[10..12].fill(0);
    let value = !fold(sum(header));
    header[10..12].copy_from_slice(&value.to_ne_bytes());
}

/// Whether the frame's TCP or UDP checksum is right; true if there is none to check.
pub fn verify(frame: &[u8]) -> bool {
    let Some(segment) = locate(frame) else { return true };
    if segment.udp && frame[segment.field..segment.field + 2] == [0, 0] {
        return true;
    }
    fold(segment.pseudo + sum(&frame[segment.start..segment.end])) == 0xffff
}

/// Whether the frame is of IPv6: `feature-ipv6-csum-offload` is a promise of its own.
pub fn is_ipv6(frame: &[u8]) -> bool {
    match be16(frame, 12) {
        Some(0x8100) => be16(frame, 16) == Some(0x86dd),
        ethertype => ethertype == Some(0x86dd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::*;
    use std::vec;
    use std::vec::Vec;

    /// A frame made by smoltcp, with the checksum it computes.
    fn frame(v6: bool, udp: bool, payload: &[u8]) -> Vec<u8> {
        let caps = ChecksumCapabilities::default();
        let transport = if udp { 8 } else { 20 } + payload.len();
        let network = if v6 { 40 } else { 20 };
        let mut frame = vec![0u8; 14 + network + transport];
        frame[12..14].copy_from_slice(&if v6 { [0x86, 0xdd] } else { [8, 0] });
        let (src, dst): (IpAddress, IpAddress) = if v6 {
            (IpAddress::v6(1, 2, 3, 4, 5, 6, 7, 8), IpAddress::v6(0xff02, 2, 3, 4, 5, 6, 7, 9))
        } else {
            (IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2))
        };
        let next = if udp { IpProtocol::Udp } else { IpProtocol::Tcp };
        IpRepr::new(src, dst, next, transport, 64).emit(&mut frame[14..], &caps);
        let body = &mut frame[14 + network..];
        if udp {
            let repr = UdpRepr { src_port: 7, dst_port: 9 };
            let mut packet = UdpPacket::new_unchecked(body);
            repr.emit(&mut packet, &src, &dst, payload.len(), |b| b.copy_from_slice(payload), &caps);
        } else {
            body[12] = 5 << 4;
            body[20..].copy_from_slice(payload);
            TcpPacket::new_unchecked(body).fill_checksum(&src, &dst);
        }
        frame
    }

    proptest! {
        /// smoltcp is the oracle.
        #[test]
        fn agrees_with_smoltcp(v6: bool, udp: bool, payload in prop::collection::vec(any::<u8>(), 0..1400), at: prop::sample::Index) {
            let good = frame(v6, udp, &payload);
            prop_assert!(verify(&good));
            prop_assert_eq!(is_ipv6(&good), v6);
            let mut blank = good.clone();
            prop_assert!(prepare(&mut blank));
            prop_assert!(fill(&mut blank));
            prop_assert_eq!(&blank, &good);
            let transport = 14 + if v6 { 40 } else { 20 };
            let mut bad = good.clone();
            let at = transport + at.index(good.len() - transport);
            bad[at] ^= 0x10;
            let zero_udp = udp && bad[transport + 6..transport + 8] == [0, 0];
            prop_assert!(zero_udp || !verify(&bad));
        }

        /// Any bytes, cut anywhere: no panic, and only the two bytes of the field change.
        #[test]
        fn takes_anything(mut bytes in prop::collection::vec(any::<u8>(), 0..80), v6: bool, cut in 0usize..200) {
            for bytes in [&mut bytes, &mut frame(v6, true, &[1, 2, 3])] {
                bytes.truncate(cut);
                let before = bytes.clone();
                let _ = (verify(bytes), fill(bytes), prepare(bytes), is_ipv6(bytes));
                let changed = before.iter().zip(&*bytes).filter(|(a, b)| a != b).count();
                prop_assert!(changed <= 2 && before.len() == bytes.len());
            }
        }
    }
}
