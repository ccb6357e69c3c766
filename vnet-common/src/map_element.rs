//! Keys and values as userspace's maps take them.

use crate::{
    address::{Address, Ipv4Be},
    flow::{
        ExternalPort, FlowKey4, FlowKey6, FlowSlot, FragmentKey, FragmentSlot, GuestUsage, Mapping,
        MappingKey, PortHolder, Session, SessionCursor,
    },
    forward::Forward,
    guard::{AddressHolder, AddressKey, GuestPort, Learned, Mac, MacKey, RouteKey},
    migration::Adoption,
    network::{
        Config, InterfaceKey, Network, NetworkTraffic, Subnet, SubnetKey, TokenBucket, Uplink,
    },
    path::{Path, PathBudget, PathKey},
    port_map::PortMap,
    shortcut::{BridgePort, Station, XdpUplink},
};

macro_rules! map_elements {
    ($($element:ty,)+) => {
        $(
            const _: fn() = require_pod::<$element>;
            // SAFETY: the line above does not compile unless the type is `bytemuck::Pod`, which
            // asks for everything that `aya::Pod` does and more.
            unsafe impl aya::Pod for $element {}
        )+
    };
}

const fn require_pod<T: bytemuck::Pod>() {}

map_elements! {
    Address,
    AddressHolder,
    AddressKey,
    Adoption,
    BridgePort,
    XdpUplink,
    Config,
    ExternalPort,
    FlowKey4,
    FlowKey6,
    FlowSlot,
    Forward,
    FragmentKey<Ipv4Be>,
    FragmentKey<Address>,
    FragmentSlot,
    GuestPort,
    GuestUsage,
    InterfaceKey,
    Learned,
    Mac,
    MacKey,
    Mapping,
    MappingKey,
    Network,
    NetworkTraffic,
    Path,
    PathBudget,
    PathKey<Address>,
    PathKey<Ipv4Be>,
    PortHolder,
    PortMap,
    RouteKey,
    Session,
    SessionCursor,
    Station,
    Subnet,
    SubnetKey,
    TokenBucket,
    Uplink,
}
