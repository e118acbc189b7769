//! Restates `io/netif.h`: the split network device's rings, one for each direction.

use crate::GrantRef;

abi_constants! {
    "The slots a packet may take that every backend accepts.": usize {
        XEN_NETIF_NR_SLOTS_MIN = 18,
    }
    "The longest packet to transmit.": u32 {
        XEN_NETIF_MAX_TX_SIZE = 0xffff,
    }
    "`NetifTxRequest::flags`.": u16 {
        /// The checksum is to be filled in (by the wire, or never).
        NETTXF_CSUM_BLANK = 1 << 0,
        NETTXF_DATA_VALIDATED = 1 << 1,
        NETTXF_MORE_DATA = 1 << 2,
        NETTXF_EXTRA_INFO = 1 << 3,
    }
    "`NetifRxResponse::flags`.": u16 {
        NETRXF_DATA_VALIDATED = 1 << 0,
        NETRXF_CSUM_BLANK = 1 << 1,
        NETRXF_MORE_DATA = 1 << 2,
        NETRXF_EXTRA_INFO = 1 << 3,
        NETRXF_GSO_PREFIX = 1 << 4,
    }
    "`NetifExtraInfo::type`.": u8 {
        XEN_NETIF_EXTRA_TYPE_NONE = 0,
        XEN_NETIF_EXTRA_TYPE_GSO = 1,
        XEN_NETIF_EXTRA_TYPE_MCAST_ADD = 2,
        XEN_NETIF_EXTRA_TYPE_MCAST_DEL = 3,
        XEN_NETIF_EXTRA_TYPE_HASH = 4,
        XEN_NETIF_EXTRA_TYPE_MAX = 5,
    }
    "`NetifExtraInfo::flags`.": u8 {
        XEN_NETIF_EXTRA_FLAG_MORE = 1 << 0,
    }
    "`NetifExtraGso::type`.": u8 {
        XEN_NETIF_GSO_TYPE_NONE = 0,
        XEN_NETIF_GSO_TYPE_TCPV4 = 1,
        XEN_NETIF_GSO_TYPE_TCPV6 = 2,
    }
    "A response's `status`; in a received packet's, zero and more are its length.": i16 {
        NETIF_RSP_DROPPED = -2,
        NETIF_RSP_ERROR = -1,
        NETIF_RSP_OKAY = 0,
        /// The slot was not a request (an extra, or padding).
        NETIF_RSP_NULL = 1,
    }
    "`NetifCtrlRequest::type`.": u16 {
        XEN_NETIF_CTRL_TYPE_INVALID = 0,
        XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS = 1,
        XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS = 2,
        XEN_NETIF_CTRL_TYPE_SET_HASH_KEY = 3,
        XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE = 4,
        XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE = 5,
        XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING = 6,
        XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM = 7,
        XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE = 8,
        XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING = 9,
        XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING = 10,
    }
    "`NetifCtrlResponse::status`.": u32 {
        XEN_NETIF_CTRL_STATUS_SUCCESS = 0,
        XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED = 1,
        XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER = 2,
        XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW = 3,
    }
    "A kind of hash over a packet, and how it is computed.": u32 {
        XEN_NETIF_CTRL_HASH_TYPE_IPV4 = 1 << 0,
        XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP = 1 << 1,
        XEN_NETIF_CTRL_HASH_TYPE_IPV6 = 1 << 2,
        XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP = 1 << 3,
        XEN_NETIF_CTRL_HASH_ALGORITHM_NONE = 0,
        XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ = 1,
    }
    "`NetifGref::flags`.": u16 {
        XEN_NETIF_CTRLF_GREF_READONLY = 1 << 0,
    }
}

/// Bytes of a transmit ring's entry.
pub const TX_ENTRY_SIZE: usize = size_of::<NetifTxRequest>();
/// Bytes of a receive ring's entry.
pub const RX_ENTRY_SIZE: usize = size_of::<NetifRxRequest>();
/// Entries of a transmit ring, which is one page.
pub const TX_RING_SIZE: u32 = super::ring::ring_size(crate::PAGE_SIZE, TX_ENTRY_SIZE);
/// Entries of a receive ring, which is one page.
pub const RX_RING_SIZE: u32 = super::ring::ring_size(crate::PAGE_SIZE, RX_ENTRY_SIZE);

abi_structs! {
    /// A piece of a packet to transmit. The first piece's `size` is the whole packet's.
    pub struct NetifTxRequest("struct netif_tx_request", 12) {
        gref: GrantRef,
        offset: u16,
        flags: u16,
        id: u16,
        size: u16,
    }

    /// More about a packet; takes a ring slot of its own, after the first.
    pub struct NetifExtraInfo("struct netif_extra_info", 8) {
        r#type: u8,
        flags: u8,
        /// Union: see `gso`, `mcast`, `hash`.
        u: [u16; 3],
    }

    /// `NetifExtraInfo::u` for segmentation.
    pub struct NetifExtraGso("__typeof__(((struct netif_extra_info *)0)->u.gso)", 6) {
        /// Bytes of each segment's payload.
        size: u16,
        r#type: u8,
        pad: u8,
        features: u16,
    }

    /// `NetifExtraInfo::u` for a multicast filter.
    pub struct NetifExtraMcast("__typeof__(((struct netif_extra_info *)0)->u.mcast)", 6) {
        addr: [u8; 6],
    }

    /// `NetifExtraInfo::u` for a packet's hash.
    pub struct NetifExtraHash("__typeof__(((struct netif_extra_info *)0)->u.hash)", 6) {
        r#type: u8,
        algorithm: u8,
        value: [u8; 4],
    }

    /// What became of a transmitted piece.
    pub struct NetifTxResponse("struct netif_tx_response", 4) {
        id: u16,
        status: i16,
    }

    /// A page to receive into.
    pub struct NetifRxRequest("struct netif_rx_request", 8) {
        id: u16,
        pad: u16,
        gref: GrantRef,
    }

    /// A piece of a received packet.
    pub struct NetifRxResponse("struct netif_rx_response", 8) {
        id: u16,
        offset: u16,
        flags: u16,
        /// Negative: error; else the piece's bytes.
        status: i16,
    }

    /// A request on the control ring.
    pub struct NetifCtrlRequest("struct xen_netif_ctrl_request", 16) {
        id: u16,
        r#type: u16,
        data: [u32; 3],
    }

    /// Its answer.
    pub struct NetifCtrlResponse("struct xen_netif_ctrl_response", 12) {
        id: u16,
        r#type: u16,
        status: u32,
        data: u32,
    }

    /// A grant to map once and use for many packets.
    pub struct NetifGref("struct xen_netif_gref", 8) {
        r#ref: GrantRef,
        flags: u16,
        status: u16,
    }
}

union_views!(NetifExtraInfo.u {
    /// Segmentation.
    gso, set_gso: NetifExtraGso,
    /// A multicast address to add or remove.
    mcast, set_mcast: NetifExtraMcast,
    /// The packet's hash.
    hash, set_hash: NetifExtraHash,
});
