//! A TCP frame that stands for many: cut into the frames that a wire takes.
//!
//! A guest hands over up to 64 KiB at once and says how much goes into each segment (`gso` of
//! `io/netif.h`); another guest takes it as it is, and only what leaves for a wire is cut. The frame
//! is a guest's: nothing in it is believed that was not compared with the frame's own length.

use super::checksum::{self, Segment};
use super::frame::MAX_FRAME;
use core::num::NonZeroU16;

/// The longest frame that stands for many: as long as `size` in a ring's slot can say.
pub const LARGE_FRAME: usize = 0xffff;
/// Most frames that one may stand for: with the usual 536 bytes and more in a segment it takes
/// fewer. A smaller segment only makes work, for whoever has to cut.
pub const MOST_SEGMENTS: usize = 256;

const FIN: u8 = 1;
const PSH: u8 = 8;
const CWR: u8 = 0x80;

/// A frame that stands for many.
pub struct Large<'a> {
    frame: &'a [u8],
    segment: Segment,
    /// Where the payload begins.
    payload: usize,
    size: usize,
}

impl<'a> Large<'a> {
    /// Looks at a frame whose sender says that it is to be cut into segments of `size` bytes. `None`
    /// if that cannot be: it is no whole TCP packet, or a segment would not fit into a frame.
    pub fn parse(frame: &'a [u8], size: NonZeroU16) -> Option<Large<'a>> {
        let segment = checksum::locate(frame)?;
        let header = usize::from(*frame.get(segment.start + 12)? >> 4) * 4;
        let (payload, size) = (segment.start + header, usize::from(size.get()));
        let good = !segment.udp
            && header >= 20
            && payload <= segment.end
            && payload + size <= MAX_FRAME
            && (segment.end - payload).div_ceil(size) <= MOST_SEGMENTS;
        good.then_some(Large { frame, segment, payload, size })
    }

    /// Whether it is of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.segment.ipv6
    }

    /// How many frames it stands for.
    pub fn count(&self) -> usize {
        (self.segment.end - self.payload).div_ceil(self.size).max(1)
    }

    /// Gives each of the frames it stands for, in order. Their checksums are blank.
    pub fn cut(&self, mut each: impl FnMut(&[u8])) {
        let Segment { network, start, ipv6, .. } = self.segment;
        let (header, payload) = self.frame[..self.segment.end].split_at(self.payload);
        let mut buffer = [0; MAX_FRAME];
        buffer[..header.len()].copy_from_slice(header);
        let sequence = be32(header, start + 4);
        let (id, flags) = (be16(header, network + 4), header[start + 13]);
        let last = self.count() - 1;
        for number in 0..=last {
            let part = &payload[number * self.size..payload.len().min((number + 1) * self.size)];
            let frame = &mut buffer[..header.len() + part.len()];
            frame[header.len()..].copy_from_slice(part);
            let length = (frame.len() - network) as u16;
            if ipv6 {
                put(frame, network + 4, &(length - 40).to_be_bytes());
            } else {
                put(frame, network + 2, &length.to_be_bytes());
                put(frame, network + 4, &id.wrapping_add(number as u16).to_be_bytes());
                checksum::fill_ipv4_header(&mut frame[network..start]);
            }
            // At most 64 KiB in all.
            put(frame, start + 4, &sequence.wrapping_add((number * self.size) as u32).to_be_bytes());
            let not_here = if number == last { 0 } else { FIN | PSH } | if number == 0 { 0 } else { CWR };
            frame[start + 13] = flags & !not_here;
            checksum::prepare(frame);
            each(frame);
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from(be16(bytes, at)) << 16 | u32::from(be16(bytes, at + 2))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::checksum;
    use super::*;
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::*;
    use std::vec;
    use std::vec::Vec;

    /// A frame of one TCP packet, its checksum blank.
    pub(crate) fn tcp_frame(v6: bool, vlan: bool, control: u8, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let (ethernet, network) = (if vlan { 18 } else { 14 }, if v6 { 40 } else { 20 });
        let mut frame = vec![0u8; ethernet + network + 32 + payload.len()];
        if vlan {
            frame[12..16].copy_from_slice(&[0x81, 0, 0, 5]);
        }
        frame[ethernet - 2..ethernet].copy_from_slice(&if v6 { [0x86, 0xdd] } else { [8, 0] });
        let (src, dst) = if v6 {
            (IpAddress::v6(1, 2, 3, 4, 5, 6, 7, 8), IpAddress::v6(0xfd00, 2, 3, 4, 5, 6, 7, 9))
        } else {
            (IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2))
        };
        let transport = 32 + payload.len();
        let caps = ChecksumCapabilities::default();
        IpRepr::new(src, dst, IpProtocol::Tcp, transport, 64).emit(&mut frame[ethernet..], &caps);
        let tcp = &mut frame[ethernet + network..];
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        // A header with twelve bytes of options, as with time stamps.
        (tcp[12], tcp[13]) = (8 << 4, control);
        tcp[32..].copy_from_slice(payload);
        checksum::prepare(&mut frame);
        frame
    }

    proptest! {
        /// What is cut is what smoltcp would have sent one by one: each frame is right by its parsers,
        /// and together they carry the payload.
        #[test]
        fn the_pieces_are_whole_and_carry_everything(
            v6: bool, vlan: bool, control: u8, sequence: u32, size in 1u16..1424, len in 0usize..20_000,
        ) {
            let payload: Vec<u8> = (0..len).map(|at| at as u8 ^ (at >> 8) as u8).collect();
            let frame = tcp_frame(v6, vlan, control, sequence, &payload);
            let Some(large) = Large::parse(&frame, NonZeroU16::new(size).unwrap()) else {
                prop_assert!(len.div_ceil(size.into()) > MOST_SEGMENTS);
                return Ok(());
            };
            prop_assert_eq!(large.is_ipv6(), v6);
            let (mut got, mut count) = (vec![], 0);
            let mut seen = 0u8;
            large.cut(|piece| {
                let mut piece = piece.to_vec();
                assert!(piece.len() <= MAX_FRAME && checksum::fill(&mut piece) && checksum::verify(&piece));
                let at = if vlan { 18 } else { 14 };
                let (tcp, src, dst) = if v6 {
                    let ip = Ipv6Packet::new_checked(&piece[at..]).unwrap();
                    assert_eq!(ip.total_len(), piece.len() - at);
                    (ip.payload().to_vec(), IpAddress::from(ip.src_addr()), IpAddress::from(ip.dst_addr()))
                } else {
                    let ip = Ipv4Packet::new_checked(&piece[at..]).unwrap();
                    assert!(ip.verify_checksum() && ip.ident() == count as u16);
                    assert_eq!(usize::from(ip.total_len()), piece.len() - at);
                    (ip.payload().to_vec(), IpAddress::from(ip.src_addr()), IpAddress::from(ip.dst_addr()))
                };
                let tcp = TcpPacket::new_checked(tcp.as_slice()).unwrap();
                assert!(tcp.verify_checksum(&src, &dst));
                assert_eq!(tcp.seq_number().0 as u32, sequence.wrapping_add(got.len() as u32));
                let tcp = tcp.into_inner();
                let flags = tcp[13];
                seen |= flags;
                count += 1;
                let last = count == large.count();
                assert_eq!(flags & (FIN | PSH), if last { control & (FIN | PSH) } else { 0 });
                assert_eq!(flags & CWR, if count == 1 { control & CWR } else { 0 });
                got.extend_from_slice(&tcp[32..]);
            });
            prop_assert_eq!(count, large.count());
            prop_assert_eq!((got, seen), (payload, control));
        }

        /// Whatever a guest says and sends: no panic, and nothing longer than a frame.
        #[test]
        fn anything_is_cut_or_refused(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200), v6: bool, size in 1u16.., cut in 0usize..300, at in 0usize..70, byte: u8,
        ) {
            let mut frame = tcp_frame(v6, false, 0, 0, &[7; 200]);
            frame[at] = byte;
            for bytes in [&mut bytes, &mut frame] {
                bytes.truncate(cut);
                if let Some(large) = Large::parse(bytes, NonZeroU16::new(size).unwrap()) {
                    let mut count = 0;
                    large.cut(|piece| {
                        assert!(piece.len() <= MAX_FRAME);
                        count += 1;
                    });
                    prop_assert_eq!(count, large.count());
                }
            }
        }
    }
}
