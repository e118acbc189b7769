//! The two rings of `io/netif.h`, and its flags as [`Checksum`] values.

use super::frame::Checksum;
use crate::ring::RingKind;
use shared_abi::io::netif::{
    NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED, NETTXF_CSUM_BLANK, NETTXF_DATA_VALIDATED, NetifRxRequest,
    NetifRxResponse, NetifTxRequest, NetifTxResponse,
};

/// Packets from the frontend.
pub struct Transmit;

impl RingKind for Transmit {
    type Request = NetifTxRequest;
    type Response = NetifTxResponse;
}

/// Packets to the frontend.
pub struct Receive;

impl RingKind for Receive {
    type Request = NetifRxRequest;
    type Response = NetifRxResponse;
}

/// What a transmitted packet's flags say. A blank checksum is also valid (`io/netif.h` sets both).
pub fn from_tx_flags(flags: u16) -> Checksum {
    if flags & NETTXF_CSUM_BLANK != 0 {
        Checksum::Blank
    } else if flags & NETTXF_DATA_VALIDATED != 0 {
        Checksum::Valid
    } else {
        Checksum::Unknown
    }
}

/// The flags of a packet to transmit.
pub fn to_tx_flags(checksum: Checksum) -> u16 {
    match checksum {
        Checksum::Unknown => 0,
        Checksum::Valid => NETTXF_DATA_VALIDATED,
        Checksum::Blank | Checksum::PerSegment(_) => NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED,
    }
}

/// What a received packet's flags say.
pub fn from_rx_flags(flags: u16) -> Checksum {
    if flags & NETRXF_CSUM_BLANK != 0 {
        Checksum::Blank
    } else if flags & NETRXF_DATA_VALIDATED != 0 {
        Checksum::Valid
    } else {
        Checksum::Unknown
    }
}

/// The flags of a packet for a frontend to receive.
pub fn to_rx_flags(checksum: Checksum) -> u16 {
    match checksum {
        Checksum::Unknown => 0,
        Checksum::Valid => NETRXF_DATA_VALIDATED,
        Checksum::Blank | Checksum::PerSegment(_) => NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED,
    }
}
