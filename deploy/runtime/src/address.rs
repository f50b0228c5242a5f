//! Addresses that nothing configured may lead to: there clouds hand out credentials to whoever asks from the machine itself.
//!
//! A name can lead to another address with every lookup, so the rule is asked for each connection and not for a setting. It says nothing about
//! loopback and private networks: that is where stores inside a cluster are. What asks a cloud for credentials on purpose does not come by here.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Which addresses may be connected to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressRule {
    /// Link-local addresses, and those under which clouds serve metadata, may be used too.
    pub allow_link_local: bool,
}

/// An address that must not be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForbiddenAddress {
    /// As it was found.
    pub address: IpAddr,
    /// What it is.
    pub kind: AddressKind,
}

/// What is wrong with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    /// Of the machine's own link: 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// Of a cloud's metadata, outside of the link-local ones.
    Metadata,
    /// 0.0.0.0/8 and `::`, which lead to the machine itself under another name.
    Unspecified,
    /// Of no one machine.
    Multicast,
}

impl AddressRule {
    /// Whether a connection may be made.
    ///
    /// # Errors
    /// [`ForbiddenAddress`].
    pub fn check(self, address: IpAddr) -> Result<(), ForbiddenAddress> {
        match kind(address) {
            Some(AddressKind::LinkLocal | AddressKind::Metadata) if self.allow_link_local => Ok(()),
            Some(kind) => Err(ForbiddenAddress { address, kind }),
            None => Ok(()),
        }
    }

    /// Checks a host that is an address, as it stands in a URL; a name is checked when it is looked up.
    ///
    /// # Errors
    /// [`ForbiddenAddress`].
    pub fn check_host(self, host: &str) -> Result<(), ForbiddenAddress> {
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        host.parse().map_or(Ok(()), |address| self.check(address))
    }

    /// Of the addresses of a name, those that may be used.
    ///
    /// # Errors
    /// [`ForbiddenAddress`], where there are addresses and none of them may be.
    pub fn allowed(self, mut addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, ForbiddenAddress> {
        let mut forbidden = None;
        addresses.retain(|address| match self.check(*address) {
            Ok(()) => true,
            Err(why) => {
                forbidden.get_or_insert(why);
                false
            }
        });
        match forbidden {
            Some(why) if addresses.is_empty() => Err(why),
            _ => Ok(addresses),
        }
    }
}

/// Asks the system for the addresses of a name.
///
/// # Errors
/// When it has none.
pub async fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
}

fn kind(address: IpAddr) -> Option<AddressKind> {
    match address {
        IpAddr::V4(v4) => kind_of_v4(v4),
        IpAddr::V6(v6) => kind_of_v6(v6),
    }
}

fn kind_of_v4(address: Ipv4Addr) -> Option<AddressKind> {
    /// Alibaba, Azure, Oracle; the others use 169.254.169.254.
    const METADATA: [Ipv4Addr; 3] =
        [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
    if address.is_link_local() {
        Some(AddressKind::LinkLocal)
    } else if METADATA.contains(&address) {
        Some(AddressKind::Metadata)
    } else if address.octets()[0] == 0 {
        Some(AddressKind::Unspecified)
    } else if address.is_multicast() || address.is_broadcast() {
        Some(AddressKind::Multicast)
    } else {
        None
    }
}

fn kind_of_v6(address: Ipv6Addr) -> Option<AddressKind> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => None,
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(AddressKind::Unspecified),
        // An address of version 4 in the clothes of version 6: mapped, compatible, translated (NAT64), 6to4.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => kind_of_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        // AWS, with its time and name servers; Google; Oracle.
        [0xfd00, 0x0ec2, ..] | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254] | [0xfd00, 0x00c1, ..] => {
            Some(AddressKind::Metadata)
        }
        [first, ..] if first & 0xffc0 == 0xfe80 => Some(AddressKind::LinkLocal),
        [first, ..] if first & 0xff00 == 0xff00 => Some(AddressKind::Multicast),
        _ => None,
    }
}

impl std::error::Error for ForbiddenAddress {}

impl fmt::Display for ForbiddenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.address, self.kind)
    }
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinkLocal => "a link-local address, where clouds hand out credentials",
            Self::Metadata => "an address of a cloud's metadata, where it hands out credentials",
            Self::Unspecified => "an address of no machine",
            Self::Multicast => "an address of many machines",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: AddressRule = AddressRule { allow_link_local: false };
    const LAX: AddressRule = AddressRule { allow_link_local: true };

    #[test]
    fn where_clouds_hand_out_credentials_nobody_goes_unless_it_is_allowed() {
        for text in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.0.0",
            "169.254.255.255",
            "fe80::1",
            "febf:ffff::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::",
        ] {
            let address: IpAddr = text.parse().unwrap();
            let why = STRICT.check(address).expect_err(text);
            assert!(why.to_string().contains("credentials"), "{why}");
            assert_eq!(LAX.check(address), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_of_one_machine_is_never_allowed() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "::ffff:0.0.0.0",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
            "ff02::1",
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert!(STRICT.check(address).is_err() && LAX.check(address).is_err(), "{text}");
        }
    }

    #[test]
    fn stores_inside_a_cluster_and_on_the_machine_are_reached() {
        for text in [
            "127.0.0.1",
            "::1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "169.253.255.255",
            "169.255.0.0",
            "52.216.0.1",
            "fd00::1",
            "fd12:3456::1",
            "fec0::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "64:ff9b::10.0.0.1",
        ] {
            assert_eq!(STRICT.check(text.parse().unwrap()), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_host_is_checked_as_it_stands_in_a_url() {
        assert!(STRICT.check_host("169.254.169.254").is_err());
        assert!(STRICT.check_host("[fd00:ec2::254]").is_err());
        assert!(STRICT.check_host("[::ffff:a9fe:a9fe]").is_err());
        assert_eq!(STRICT.check_host("[::1]"), Ok(()));
        assert_eq!(STRICT.check_host("store.example.com"), Ok(()));
    }

    #[test]
    fn of_several_addresses_those_that_may_be_used_are_and_none_at_all_is_told() {
        let addresses = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<IpAddr>>();
        let both = addresses(&["fe80::1", "10.0.0.1", "169.254.0.7"]);
        assert_eq!(STRICT.allowed(both), Ok(addresses(&["10.0.0.1"])));
        let why = STRICT.allowed(addresses(&["169.254.169.254", "fe80::1"])).unwrap_err();
        assert_eq!(why.address, addresses(&["169.254.169.254"])[0]);
        assert_eq!(STRICT.allowed(Vec::new()), Ok(Vec::new()), "a name without addresses is not forbidden");
    }

    #[tokio::test]
    async fn numbers_that_the_system_takes_for_addresses_are_looked_up_and_checked() {
        // 2852039166 and 0xa9fea9fe are 169.254.169.254 to the system's resolver, and no address to a parser of URLs.
        for name in ["2852039166", "0xa9fea9fe", "169.254.43518"] {
            assert_eq!(STRICT.check_host(name), Ok(()));
            if let Ok(found) = look_up(name).await {
                assert!(STRICT.allowed(found).is_err(), "{name}");
            }
        }
        assert!(look_up("localhost").await.unwrap().iter().all(|a| STRICT.check(*a).is_ok()));
    }
}
