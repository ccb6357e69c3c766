//! The IPv6 parameters of an interface, `net.ipv6.conf.IF.*`, as `RTM_NEWLINK` carries them.

use super::netlink::{AF_INET6, attributes, u32_at};

/// Parameters that decide whether an interface does IPv6, and as a host or as a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ipv6Settings {
    /// `forwarding`: whether it is a router's interface; 0 is a host's.
    pub forwarding: u32,
    /// `accept_ra`: whether router advertisements are taken: 0 never, 1 as a host, 2 always.
    pub accept_ra: u32,
    /// `disable_ipv6`: whether there is no IPv6 on it.
    pub disabled: bool,
}

impl Ipv6Settings {
    /// Reads `IFLA_AF_SPEC`: for each family its attributes, of which `IFLA_INET6_CONF` is an array
    /// of all parameters (`DEVCONF_*` in `include/uapi/linux/ipv6.h`).
    pub(super) fn parse(families: &[u8]) -> Option<Self> {
        const IFLA_INET6_CONF: u16 = 2;
        const FORWARDING: usize = 0;
        const ACCEPT_RA: usize = 3;
        const DISABLE_IPV6: usize = 26;

        let find =
            |bytes, wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, it)| it);
        let parameters = find(find(families, u16::from(AF_INET6))?, IFLA_INET6_CONF)?;
        let parameter = |index: usize| u32_at(parameters, index * size_of::<u32>());
        Some(Self {
            forwarding: parameter(FORWARDING)?,
            accept_ra: parameter(ACCEPT_RA)?,
            disabled: parameter(DISABLE_IPV6)? != 0,
        })
    }
}
