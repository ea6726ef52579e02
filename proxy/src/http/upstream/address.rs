//! What kind of place an address is.
//!
//! IPv6 forms that carry an IPv4 address inside (mapped, compatible, NAT64, 6to4, Teredo, ISATAP) are judged by
//! what they carry. Invariant: an address is public only if every network on its way treats it as globally
//! reachable unicast (IANA special-purpose registries, November 2026).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Class of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// Globally reachable unicast.
    Public,
    /// RFC 1918, unique local and site-local.
    Private,
    /// The machine itself.
    Loopback,
    /// The link.
    LinkLocal,
    /// A cloud's metadata service, which hands out credentials.
    Metadata,
    /// Unspecified, multicast, broadcast: never a destination of TCP.
    Unusable,
    /// Everything else that is not globally reachable: CGNAT, documentation, benchmarking, translation.
    Other,
}

/// Addresses at which clouds answer with credentials or configuration.
const METADATA_V4: [Ipv4Addr; 7] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(169, 254, 0, 23),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];

const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

impl AddressClass {
    /// The class of `address`.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => of_v4(v4),
            IpAddr::V6(v6) => of_v6(v6),
        }
    }

    /// Its name in the record.
    pub fn name(self) -> &'static str {
        match self {
            AddressClass::Public => "public",
            AddressClass::Private => "private",
            AddressClass::Loopback => "loopback",
            AddressClass::LinkLocal => "link-local",
            AddressClass::Metadata => "metadata",
            AddressClass::Unusable | AddressClass::Other => "other",
        }
    }
}

fn of_v4(address: Ipv4Addr) -> AddressClass {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        _ if METADATA_V4.contains(&address) => AddressClass::Metadata,
        (0 | 224..=239, ..) => AddressClass::Unusable,
        _ if address.is_broadcast() => AddressClass::Unusable,
        (127, ..) => AddressClass::Loopback,
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => AddressClass::Private,
        (169, 254, _) => AddressClass::LinkLocal,
        (100, 64..=127, _)
        | (192, 0, 0 | 2)
        | (192, 88, 99)
        | (198, 18..=19, _)
        | (198, 51, 100)
        | (203, 0, 113)
        | (240..=255, ..) => AddressClass::Other,
        _ => AddressClass::Public,
    }
}

fn of_v6(address: Ipv6Addr) -> AddressClass {
    let segments = address.segments();
    if METADATA_V6.contains(&address) {
        return AddressClass::Metadata;
    }
    if address.is_unspecified() || address.is_multicast() {
        return AddressClass::Unusable;
    }
    if address.is_loopback() {
        return AddressClass::Loopback;
    }
    if let Some(inner) = carried(segments) {
        return match of_v4(inner) {
            AddressClass::Public => AddressClass::Other,
            class => class,
        };
    }
    match segments {
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => AddressClass::Private,
        [0xfe80..=0xfebf, ..] => AddressClass::LinkLocal,
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => AddressClass::Other,
        [0x2000..=0x3fff, ..] => AddressClass::Public,
        _ => AddressClass::Other,
    }
}

/// The IPv4 address that a translating or tunnelling IPv6 address leads to.
fn carried(segments: [u16; 8]) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match segments {
        [0, 0, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, 1, .., high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        [0x2001, 0, .., high, low] => Some(v4(!high, !low)),
        [.., 0 | 0x200, 0x5efe, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_range_is_known_to_its_edges() {
        use AddressClass::*;
        for (address, want) in [
            ("1.1.1.1", Public),
            ("8.8.8.8", Public),
            ("0.0.0.0", Unusable),
            ("0.1.2.3", Unusable),
            ("9.255.255.255", Public),
            ("10.0.0.0", Private),
            ("10.255.255.255", Private),
            ("11.0.0.0", Public),
            ("100.63.255.255", Public),
            ("100.64.0.0", Other),
            ("100.100.100.200", Metadata),
            ("100.127.255.255", Other),
            ("100.128.0.0", Public),
            ("127.0.0.1", Loopback),
            ("127.255.255.254", Loopback),
            ("168.63.129.16", Metadata),
            ("169.254.0.1", LinkLocal),
            ("169.254.169.254", Metadata),
            ("169.254.170.2", Metadata),
            ("172.15.255.255", Public),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("172.32.0.0", Public),
            ("192.0.0.8", Other),
            ("192.0.0.192", Metadata),
            ("192.0.2.1", Other),
            ("192.88.99.1", Other),
            ("192.168.0.1", Private),
            ("192.169.0.1", Public),
            ("198.17.255.255", Public),
            ("198.18.0.1", Other),
            ("198.19.255.255", Other),
            ("198.51.100.7", Other),
            ("203.0.113.7", Other),
            ("223.255.255.255", Public),
            ("224.0.0.1", Unusable),
            ("239.255.255.255", Unusable),
            ("240.0.0.1", Other),
            ("255.255.255.255", Unusable),
            ("::", Unusable),
            ("::1", Loopback),
            ("::2", Unusable),
            ("::127.0.0.1", Loopback),
            ("::a9fe:a9fe", Metadata),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:169.254.169.254", Metadata),
            ("::ffff:8.8.8.8", Public),
            ("::ffff:0:10.0.0.1", Private),
            ("64:ff9b::169.254.169.254", Metadata),
            ("64:ff9b::10.0.0.1", Private),
            ("64:ff9b::8.8.8.8", Other),
            ("64:ff9b:1::7f00:1", Loopback),
            ("64:ff9b:1:a:b:c:a9fe:a9fe", Metadata),
            ("100::1", Other),
            ("2001::1", Other),
            ("2001:0:4136:e378:8000:63bf:f5ff:fffe", Private),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Other),
            ("2001:10::1", Other),
            ("2001:20::1", Other),
            ("2001:1ff::1", Other),
            ("2001:200::1", Public),
            ("2001:db8::1", Other),
            ("2001:4860:4860::8888", Public),
            ("2002:7f00:1::1", Loopback),
            ("2002:a9fe:a9fe::1", Metadata),
            ("2002:808:808::1", Other),
            ("2606:4700::1111", Public),
            ("2606:4700::5efe:10.0.0.1", Private),
            ("2606:4700::200:5efe:8.8.8.8", Other),
            ("3fff:fff::1", Other),
            ("3fff:1000::1", Public),
            ("4000::1", Other),
            ("5f00::1", Other),
            ("fc00::1", Private),
            ("fd00:ec2::254", Metadata),
            ("fd00:ec2::23", Metadata),
            ("fd20:ce::254", Metadata),
            ("fd12:3456::1", Private),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("fec0::1", Private),
            ("ff02::1", Unusable),
        ] {
            assert_eq!(AddressClass::of(address.parse().unwrap()), want, "{address}");
        }
    }
}
