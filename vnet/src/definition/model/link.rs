//! The part of a definition that is about the bridge's ports.

use serde::Serialize;

use super::super::diagnostic::{Located, Span};

/// Who fills a bridge's forwarding table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MacTableManager {
    /// The kernel, by learning.
    Kernel,
    /// libvirt, from the guests' definitions.
    Libvirt,
}

/// `<bandwidth>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bandwidth {
    /// The start tag of `<bandwidth>`.
    #[serde(skip)]
    pub span: Span,
    /// Traffic to guests.
    pub inbound: Option<Rate>,
    /// Traffic from guests.
    pub outbound: Option<Rate>,
}

/// `<inbound>` or `<outbound>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// The rate to shape to, in kilobytes per second.
    pub average: Option<u64>,
    /// The rate of bursts, in kilobytes per second.
    pub peak: Option<u64>,
    /// The size of a burst, in kibibytes.
    pub burst: Option<u64>,
}

/// `<vlan>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Vlan {
    /// The start tag of `<vlan>`.
    #[serde(skip)]
    pub span: Span,
    /// Whether guests see the tags.
    pub trunk: bool,
    /// The tags; at least one.
    pub tags: Vec<VlanTag>,
}

/// `<tag>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VlanTag {
    /// The VLAN id, at most 4095.
    pub id: u16,
    /// What the tag is to untagged traffic of a trunk.
    pub native: Option<NativeMode>,
}

/// `nativeMode` of a VLAN tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NativeMode {
    /// The native VLAN is tagged.
    Tagged,
    /// The native VLAN is not tagged.
    Untagged,
}

/// `<virtualport>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VirtualPort {
    /// The start tag of `<virtualport>`.
    #[serde(skip)]
    pub span: Span,
    /// The kind of switch: `802.1Qbg`, `802.1Qbh`, `openvswitch` or `midonet`.
    pub kind: Option<Located<String>>,
    /// The attributes of `<parameters>`, by name.
    pub parameters: Vec<(String, String)>,
}

/// `<portgroup>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PortGroup {
    /// The start tag of `<portgroup>`.
    #[serde(skip)]
    pub span: Span,
    /// The name, unique in its network.
    pub name: Located<String>,
    /// Whether guests that choose none get this one.
    pub default: bool,
    /// `trustGuestRxFilters`, for macvtap.
    pub trust_guest_rx_filters: Option<Located<bool>>,
    /// The limits of each guest.
    pub bandwidth: Option<Bandwidth>,
    /// The VLAN of its guests.
    pub vlan: Option<Vlan>,
    /// How its ports attach to a switch that is not a Linux bridge.
    pub virtual_port: Option<VirtualPort>,
}
