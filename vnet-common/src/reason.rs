//! Why a packet was dropped, and why one was handed to the host's stack.

macro_rules! reasons {
    (
        $(#[$meta:meta])* $name:ident, $per_network:ident;
        $($variant:ident = $value:literal, $id:literal, $description:literal;)+
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name {
            $(#[doc = $description] $variant = $value,)+
        }

        impl $name {
            /// Every reason, by rising number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// Counters that a network has for these reasons.
            pub const PER_NETWORK: u32 = $per_network;

            /// The word for it in tables, JSON and metrics.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$variant => $id,)+ }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)+ }
            }

            /// The index of this reason's counter for a network.
            #[inline]
            #[must_use]
            pub const fn counter(self, network: u16) -> u32 {
                network as u32 * $per_network + self as u32
            }
        }
    };
}

const DROP_REASONS_PER_NETWORK: u32 = 64;
const HANDOVERS_PER_NETWORK: u32 = 32;

reasons! {
    /// Why a packet was dropped. Numbers are stable; new reasons go to the end.
    DropReason, DROP_REASONS_PER_NETWORK;
    Malformed = 0, "malformed", "a header is truncated or contradicts the packet's length";
    NoNetwork = 1, "no-network", "the bridge belongs to no network of a definition";
    SpoofedSource = 2, "spoofed-source", "the source address is not of the network it came from";
    PolicyRejected = 3, "policy-rejected", "the policy does not allow this connection";
    NotAnUplink = 4, "not-an-uplink", "the route leads to an interface that is not an uplink";
    UnsupportedProtocol = 5, "unsupported-protocol", "the IP protocol cannot be translated";
    UnsupportedIcmp = 6, "unsupported-icmp", "the ICMP type cannot be translated";
    UnrelatedIcmpError = 7, "unrelated-icmp-error", "an ICMP error about a packet of no known flow";
    NoExternalAddress = 8, "no-external-address", "the uplink has no address to masquerade to";
    PortsExhausted = 9, "ports-exhausted", "no free external port for a new mapping";
    FlowTableFull = 10, "flow-table-full", "no room for a new flow";
    GuestFlowLimit = 11, "guest-flow-limit", "the guest has as many flows as it may have";
    NoFlow = 12, "no-flow", "the end of a connection that is not known";
    FlowConflict = 13, "flow-conflict", "another flow has the same outside endpoints";
    LostFragment = 14, "lost-fragment", "a fragment whose first fragment was not seen before it";
    TranslationFailed = 15, "translation-failed", "the kernel refused to rewrite the packet";
    MulticastLeak = 16, "multicast-leak", "link-local multicast would leave with a guest's address";
    SpoofedMac = 17, "spoofed-mac", "the guard: the source MAC is not this guest's";
    SpoofedAddress = 18, "spoofed-address", "the guard: the source address is not this guest's";
    SpoofedNeighbour = 19, "spoofed-neighbour", "the guard: ARP or neighbour discovery claims what is not this guest's";
    RogueDhcpServer = 20, "rogue-dhcp-server", "the guard: a guest answers DHCP";
    RogueRouter = 21, "rogue-router", "the guard: a guest advertises itself as a router";
    TaggedFrame = 22, "tagged-frame", "the guard: this guest may not send VLAN tags";
    IsolatedPort = 23, "isolated-port", "guests of this network may not reach each other";
    HeaderChain = 24, "header-chain", "more or longer IPv6 extension headers than are followed";
    UncheckedProtocol = 25, "unchecked-protocol", "the guard: neither IPv4 nor IPv6 nor ARP, whose sources are checked";
    GuestFlowRate = 26, "guest-flow-rate", "the guest opens flows faster than it may";
    NetworkFlowLimit = 27, "network-flow-limit", "the network's guests have as many flows as they may have";
    Filtered = 28, "filtered", "the guest behind that port of the host has not sent to this sender";
    HairpinException = 29, "hairpin-exception", "between guests by way of the host's address, what only the host's stack could handle: expired, too large or with options";
    FlowOpening = 30, "flow-opening", "another CPU is just opening the flow of this packet";
}

reasons! {
    /// Why a packet was left to the host's own stack. Numbers are stable; new ones go to the end.
    Handover, HANDOVERS_PER_NETWORK;
    ToHost = 0, "to-host", "the host itself is the destination, or has no route";
    NotIp = 1, "not-ip", "ARP and other protocols";
    Multicast = 2, "multicast", "multicast or broadcast on the network's own link";
    TtlExpiring = 3, "ttl-expiring", "the time to live ends here: the stack sends the ICMP error";
    OverMtu = 4, "over-mtu", "larger than the way takes: the stack fragments or sends the ICMP error";
    IpOptions = 5, "ip-options", "IP options and hop-by-hop options are the stack's to process";
    NoNeighbour = 6, "no-neighbour", "the next hop is not resolved: the stack resolves it";
    NoRoute = 7, "no-route", "blackhole, prohibit and the like: the stack answers";
    WithinNetwork = 8, "within-network", "between two subnets of one network: plain routing";
    NoFlow = 9, "no-flow", "a packet from outside that belongs to no flow: the host's own";
    OpenNetwork = 10, "open-network", "mode 'open': the host's own firewall decides";
    LinkLocal = 11, "link-local", "IPv6 link-local addresses stay on their link";
    RawLink = 12, "raw-link", "what comes without a link-layer header is delivered by the stack";
    OtherInterface = 13, "other-interface", "towards an interface that is no uplink: the stack forwards";
    HeldFragment = 14, "held-fragment", "a fragment before its datagram's first: kept for that, while the stack keeps its own copy";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_and_do_not_repeat() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!((*reason as u32) < DropReason::PER_NETWORK);
        }
        for (index, handover) in Handover::ALL.iter().enumerate() {
            assert_eq!(*handover as usize, index);
            assert!((*handover as u32) < Handover::PER_NETWORK);
        }
    }

    #[test]
    fn words_do_not_repeat() {
        for (index, one) in DropReason::ALL.iter().enumerate() {
            assert!(DropReason::ALL[..index].iter().all(|other| other.id() != one.id()));
        }
    }

    #[test]
    fn networks_do_not_share_counters() {
        assert_eq!(DropReason::Malformed.counter(0), 0);
        assert_eq!(DropReason::NoFlow.counter(0), 12);
        assert_eq!(DropReason::Malformed.counter(3), 192);
        assert_eq!(Handover::NoFlow.counter(1), 41);
    }
}
