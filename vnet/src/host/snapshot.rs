//! One reading of the host's links, addresses and routes.

use super::{
    Indexed, InterfaceAddress, Link, NetlinkError, Route,
    netlink::{AF_INET, AF_INET6, Connection, Request, push_attribute},
    route::NextHopObject,
};

/// The host's links, addresses and routes, read one table after the other.
///
/// The tables are read within milliseconds of each other but not at one instant. Whoever needs to
/// know of changes in between opens a [`Watch`](super::Watch) first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Interfaces by ascending index.
    pub links: Indexed<Link>,
    /// Addresses in the kernel's order, which decides what masquerading picks: per interface IPv4
    /// primary before secondary.
    pub addresses: Indexed<InterfaceAddress>,
    /// Routes of both families and all tables.
    pub routes: Vec<Route>,
    /// Next-hop objects that routes may refer to.
    pub next_hop_objects: Vec<NextHopObject>,
    /// A table kept changing while it was read, so entries may be missing or doubled. The watch
    /// reports those changes.
    pub interrupted: bool,
    /// Whether that is so of the interfaces.
    pub links_interrupted: bool,
}

/// Reads the host's links, addresses and routes.
pub async fn snapshot() -> Result<Snapshot, NetlinkError> {
    let mut connection = Connection::open()?;
    let mut snapshot = Snapshot::default();

    let interrupted = &mut snapshot.interrupted;
    let links = table(&mut connection, interrupted, get_links, |kind, body| {
        (kind == RTM_NEWLINK).then(|| Link::parse(body)).flatten()
    });
    snapshot.links = links.await?.into();
    snapshot.links.sort_by_key(|link| link.index);
    snapshot.links_interrupted = snapshot.interrupted;

    for family in [AF_INET, AF_INET6] {
        let addresses = table(
            &mut connection,
            &mut snapshot.interrupted,
            || get_addresses(family),
            // Without IPv6 in the kernel the second dump answers for every family.
            |kind, body| {
                (kind == RTM_NEWADDR && body.first() == Some(&family))
                    .then(|| InterfaceAddress::parse(body))
                    .flatten()
            },
        )
        .await?;
        snapshot.addresses.extend(addresses);

        let routes = table(
            &mut connection,
            &mut snapshot.interrupted,
            || get_routes(family),
            |kind, body| {
                (kind == RTM_NEWROUTE && body.first() == Some(&family))
                    .then(|| Route::parse(body))
                    .flatten()
            },
        )
        .await?;
        snapshot.routes.extend(routes);
    }

    snapshot.next_hop_objects =
        next_hop_objects(&mut connection, &mut snapshot.interrupted).await?;
    for route in &mut snapshot.routes {
        route.resolve(&snapshot.next_hop_objects);
    }
    Ok(snapshot)
}

impl Snapshot {
    /// The interface with this index.
    #[must_use]
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.numbered(index).next()
    }

    /// The interface with this name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.named(name)
    }

    /// The addresses of an interface, in the kernel's order.
    pub fn addresses_of(&self, interface: u32) -> impl Iterator<Item = &InterfaceAddress> {
        self.addresses.numbered(interface)
    }

    /// The interfaces that are enslaved to this one.
    pub fn ports_of(&self, master: u32) -> impl Iterator<Item = &Link> {
        self.links.owned_by(master)
    }
}

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_GETNEXTHOP: u16 = 106;

/// Dumps a table, again when it changed meanwhile, a few times at most: on a host whose table never
/// rests the last reading has to do.
pub(super) async fn table<T>(
    connection: &mut Connection,
    interrupted: &mut bool,
    request: impl Fn() -> Request,
    parse: impl Fn(u16, &[u8]) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    const ATTEMPTS: u32 = 5;
    let mut attempt = 1;
    loop {
        let mut entries = Vec::new();
        let changed =
            connection.dump(request(), |kind, body| entries.extend(parse(kind, body))).await?;
        if !changed {
            return Ok(entries);
        }
        if attempt == ATTEMPTS {
            *interrupted = true;
            return Ok(entries);
        }
        attempt += 1;
    }
}

async fn next_hop_objects(
    connection: &mut Connection,
    interrupted: &mut bool,
) -> Result<Vec<NextHopObject>, NetlinkError> {
    let objects = table(connection, interrupted, get_next_hop_objects, |kind, body| {
        (kind == RTM_NEWNEXTHOP).then(|| NextHopObject::parse(body)).flatten()
    })
    .await;
    match objects {
        // Kernels before 5.3 have no next-hop objects.
        Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        objects => objects,
    }
}

fn get_links() -> Request {
    const IFLA_EXT_MASK: u16 = 29;
    const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
    // struct ifinfomsg, family AF_UNSPEC.
    let mut body = vec![0; 16];
    push_attribute(&mut body, IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    Request { action: "list the interfaces", message_type: RTM_GETLINK, flags: 0, body }
}

fn get_addresses(family: u8) -> Request {
    // struct ifaddrmsg.
    let mut body = vec![0; 8];
    body[0] = family;
    Request { action: "list the addresses", message_type: RTM_GETADDR, flags: 0, body }
}

fn get_routes(family: u8) -> Request {
    // struct rtmsg.
    let mut body = vec![0; 12];
    body[0] = family;
    Request { action: "list the routes", message_type: RTM_GETROUTE, flags: 0, body }
}

fn get_next_hop_objects() -> Request {
    // struct nhmsg.
    let body = vec![0; 8];
    Request { action: "list the next-hop objects", message_type: RTM_GETNEXTHOP, flags: 0, body }
}
