//! What the maps of former layouts hold where it differs from the present one: see
//! [`crate::names::LAYOUT`].
//!
//! Sessions are converted here, by userspace. The programs look into former tables by their keys, and read
//! [`crate::flow::Mapping`]s: where a layout changes one of those, `vnet-ebpf/src/former.rs` has to know.

use core::mem::size_of;

use crate::flow::Session;

/// The first layout that can be migrated.
pub const OLDEST: u32 = 1;

/// A session as a layout has it, in the present one; `None` if the layout is unknown.
#[must_use]
pub fn session(layout: u32, bytes: [u8; size_of::<Session>()]) -> Option<Session> {
    match layout {
        1 => Some(bytemuck::cast::<_, layout_1::Session>(bytes).into()),
        crate::names::LAYOUT => Some(bytemuck::cast(bytes)),
        _ => None,
    }
}

/// Layout 1.
pub mod layout_1 {
    use bytemuck::{Pod, Zeroable};

    use crate::{
        address::{Address, PortBe},
        flow::{self, Traffic},
        shortcut::{InboundWay, OutboundWay},
    };

    /// A flow. Its times were in the line of its addresses.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
    #[repr(C)]
    #[allow(missing_docs, reason = "as in the present layout")]
    pub struct Session {
        pub phase: u32,
        pub generation: u32,
        pub epoch_outbound: u32,
        pub epoch_inbound: u32,
        pub bridge_ifindex: u32,
        pub uplink_ifindex: u32,
        pub protocol: u8,
        pub state: u8,
        pub flags: u8,
        pub answered: u8,
        pub network: u16,
        pub mtu_outbound: u16,
        pub inside_port: PortBe,
        pub external_port: PortBe,
        pub remote_port: PortBe,
        pub mtu_inbound: u16,
        pub next_hop: Address,
        pub inside: Address,
        pub external: Address,
        pub remote: Address,
        pub last_outbound: u64,
        pub last_inbound: u64,
        pub since: u64,
        pub outbound: Traffic,
        pub inbound: Traffic,
        pub reserved_tail: [u64; 4],
    }

    impl From<Session> for flow::Session {
        fn from(former: Session) -> Self {
            Self {
                phase: former.phase,
                generation: former.generation,
                epoch_outbound: former.epoch_outbound,
                epoch_inbound: former.epoch_inbound,
                bridge_ifindex: former.bridge_ifindex,
                uplink_ifindex: former.uplink_ifindex,
                protocol: former.protocol,
                state: former.state,
                flags: former.flags,
                answered: former.answered,
                network: former.network,
                mtu_outbound: former.mtu_outbound,
                inside_port: former.inside_port,
                external_port: former.external_port,
                remote_port: former.remote_port,
                mtu_inbound: former.mtu_inbound,
                next_hop: former.next_hop,
                inside: former.inside,
                external: former.external,
                remote: former.remote,
                since: former.since,
                way_outbound: OutboundWay::default(),
                last_outbound: former.last_outbound,
                last_inbound: former.last_inbound,
                outbound: former.outbound,
                inbound: former.inbound,
                way_inbound: InboundWay::default(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;
    use crate::{
        flow::Traffic,
        names,
        shortcut::{InboundWay, OutboundWay},
    };

    #[test]
    fn session_of_layout_1_keeps_every_field() {
        let mut words = [0_u64; 24];
        for (word, number) in words.iter_mut().zip(1..) {
            *word = number;
        }
        let former: layout_1::Session = bytemuck::cast(words);
        let session = session(1, bytemuck::cast(words)).unwrap();
        let head = 104;
        assert_eq!(bytemuck::bytes_of(&session)[..head], bytemuck::bytes_of(&former)[..head]);
        assert_eq!((session.last_outbound, session.last_inbound, session.since), (14, 15, 16));
        assert_eq!(session.outbound, Traffic { packets: 17, bytes: 18 });
        assert_eq!(session.inbound, Traffic { packets: 19, bytes: 20 });
        assert_eq!(session.way_outbound, OutboundWay::default());
        assert_eq!(session.way_inbound, InboundWay::default());
    }

    #[test]
    fn session_of_the_present_layout_stays_as_it_is_and_an_unknown_one_is_none() {
        let mut expected = Session::zeroed();
        expected.last_inbound = 7;
        let bytes = bytemuck::cast(expected);
        assert_eq!(session(names::LAYOUT, bytes), Some(expected));
        assert_eq!(session(OLDEST - 1, bytes), None);
        assert_eq!(session(names::LAYOUT + 1, bytes), None);
    }
}
