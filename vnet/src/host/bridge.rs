//! Making, changing and deleting bridges, and the addresses on them.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::{
    link::{Link, LinkKind, SpanningTree},
    netlink::{
        AF_INET, AF_INET6, Connection, NetlinkError, Request, push_attribute, push_nested,
        push_string,
    },
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;
const IFF_UP: u32 = 1;

/// What is set of a bridge; `None` leaves it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Hardware address.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes. Once it is set it does not follow the ports' any more.
    pub mtu: Option<u32>,
    /// Spanning tree protocol. With it on, the kernel takes delays of 2 to 30 s only
    /// (`br_set_forward_delay` in `net/bridge/br_stp.c`).
    pub spanning_tree: Option<SpanningTree>,
    /// Whether it filters by VLAN.
    pub vlan_filtering: Option<bool>,
}

/// Makes a bridge, which is down yet. Fails with `EEXIST` if an interface has the name.
pub async fn make(name: &str, settings: &Settings) -> Result<(), NetlinkError> {
    let mut body = header(0, 0);
    push_string(&mut body, IFLA_IFNAME, name);
    // The MTU is set afterwards, because only then the kernel keeps it.
    push_settings(&mut body, &Settings { mtu: None, ..settings.clone() });
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    change(Request { action: "make the bridge", message_type: RTM_NEWLINK, flags, body }).await
}

/// Changes a bridge.
pub async fn configure(index: u32, settings: &Settings) -> Result<(), NetlinkError> {
    let mut body = header(index, 0);
    push_settings(&mut body, settings);
    let action = "configure the bridge";
    change(Request { action, message_type: RTM_NEWLINK, flags: 0, body }).await
}

/// Notes something about an interface, for people and programs to read; at most 255 bytes.
pub async fn set_alias(index: u32, alias: &str) -> Result<(), NetlinkError> {
    let mut body = header(index, 0);
    push_attribute(&mut body, IFLA_IFALIAS, alias.as_bytes());
    let action = "set the alias of the bridge";
    change(Request { action, message_type: RTM_SETLINK, flags: 0, body }).await
}

/// Brings an interface up.
pub async fn bring_up(index: u32) -> Result<(), NetlinkError> {
    let body = header(index, IFF_UP);
    let action = "bring the bridge up";
    change(Request { action, message_type: RTM_SETLINK, flags: 0, body }).await
}

/// Deletes an interface. Returns false if it is gone already.
pub async fn delete(index: u32) -> Result<bool, NetlinkError> {
    let body = header(index, 0);
    let action = "delete the bridge";
    let request = Request { action, message_type: RTM_DELLINK, flags: 0, body };
    absent_is_false(change(request).await)
}

/// Gives an interface an address. Returns false if it has it already.
pub async fn add_address(index: u32, address: IpNet) -> Result<bool, NetlinkError> {
    let request = Request {
        action: "add the address",
        message_type: RTM_NEWADDR,
        flags: NLM_F_CREATE | NLM_F_EXCL,
        body: address_message(index, address),
    };
    match change(request).await {
        Err(error) if error.errno() == Some(libc::EEXIST) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Takes an address off an interface. Returns false if it does not have it.
pub async fn delete_address(index: u32, address: IpNet) -> Result<bool, NetlinkError> {
    let action = "delete the address";
    let body = address_message(index, address);
    let request = Request { action, message_type: RTM_DELADDR, flags: 0, body };
    absent_is_false(change(request).await)
}

/// The host's bridges.
pub async fn list() -> Result<Vec<Link>, NetlinkError> {
    let mut info = Vec::new();
    push_string(&mut info, IFLA_INFO_KIND, "bridge");
    let mut body = header(0, 0);
    push_nested(&mut body, IFLA_LINKINFO, &info);
    let mut links = dump("list the bridges", body).await?;
    // A kernel may know no filter and list every interface.
    links.retain(|link| link.kind == LinkKind::Bridge);
    Ok(links)
}

/// The ports of a bridge.
pub async fn ports(index: u32) -> Result<Vec<Link>, NetlinkError> {
    const IFLA_MASTER: u16 = 10;
    let mut body = header(0, 0);
    push_attribute(&mut body, IFLA_MASTER, &index.to_ne_bytes());
    let mut links = dump("list the ports of the bridge", body).await?;
    links.retain(|link| link.master == Some(index));
    Ok(links)
}

async fn dump(action: &'static str, body: Vec<u8>) -> Result<Vec<Link>, NetlinkError> {
    const RTM_GETLINK: u16 = 18;
    let request = Request { action, message_type: RTM_GETLINK, flags: 0, body };
    let mut links = Vec::new();
    let parse = |kind, body: &[u8]| {
        links.extend((kind == RTM_NEWLINK).then(|| Link::parse(body)).flatten());
    };
    Connection::open()?.dump(request, parse).await?;
    Ok(links)
}

async fn change(request: Request) -> Result<(), NetlinkError> {
    Connection::open()?.change(request).await
}

fn absent_is_false(result: Result<(), NetlinkError>) -> Result<bool, NetlinkError> {
    match result {
        Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::EADDRNOTAVAIL)) => {
            Ok(false)
        }
        other => other.map(|()| true),
    }
}

/// `struct ifinfomsg`; of the flags only those that are set are changed.
fn header(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&flags.to_ne_bytes());
    body
}

fn push_settings(body: &mut Vec<u8>, settings: &Settings) {
    const IFLA_INFO_DATA: u16 = 2;
    const IFLA_BR_FORWARD_DELAY: u16 = 1;
    const IFLA_BR_STP_STATE: u16 = 5;
    const IFLA_BR_VLAN_FILTERING: u16 = 7;

    if let Some(mac) = &settings.mac {
        push_attribute(body, IFLA_ADDRESS, mac);
    }
    if let Some(mtu) = settings.mtu {
        push_attribute(body, IFLA_MTU, &mtu.to_ne_bytes());
    }
    let mut data = Vec::new();
    if let Some(SpanningTree { on, forward_delay }) = settings.spanning_tree {
        push_attribute(&mut data, IFLA_BR_FORWARD_DELAY, &forward_delay.to_ne_bytes());
        push_attribute(&mut data, IFLA_BR_STP_STATE, &u32::from(on).to_ne_bytes());
    }
    if let Some(filtering) = settings.vlan_filtering {
        push_attribute(&mut data, IFLA_BR_VLAN_FILTERING, &[u8::from(filtering)]);
    }
    let mut info = Vec::new();
    push_string(&mut info, IFLA_INFO_KIND, "bridge");
    push_nested(&mut info, IFLA_INFO_DATA, &data);
    push_nested(body, IFLA_LINKINFO, &info);
}

/// `struct ifaddrmsg` and attributes, as libvirt writes them (`virNetDevIPAddrAdd` in
/// `src/util/virnetdevip.c`).
fn address_message(index: u32, address: IpNet) -> Vec<u8> {
    const IFA_LOCAL: u16 = 2;
    const IFA_ADDRESS: u16 = 1;
    const IFA_BROADCAST: u16 = 4;
    // A bridge without ports has no carrier, so that duplicate address detection would not end
    // before the first guest comes; and dnsmasq has to listen at the address by then.
    const IFA_F_NODAD: u8 = 2;

    let (family, flags) =
        if address.addr().is_ipv4() { (AF_INET, 0) } else { (AF_INET6, IFA_F_NODAD) };
    let mut body = vec![family, address.prefix_len(), flags, 0];
    body.extend(index.to_ne_bytes());
    match address.addr() {
        IpAddr::V4(own) => {
            push_attribute(&mut body, IFA_LOCAL, &own.octets());
            push_attribute(&mut body, IFA_ADDRESS, &own.octets());
        }
        IpAddr::V6(own) => {
            push_attribute(&mut body, IFA_LOCAL, &own.octets());
            push_attribute(&mut body, IFA_ADDRESS, &own.octets());
        }
    }
    if let IpNet::V4(net) = address
        && net.prefix_len() < 31
    {
        push_attribute(&mut body, IFA_BROADCAST, &net.broadcast().octets());
    }
    body
}
