//! Queueing disciplines and BPF filters, for kernels without tcx.

use std::os::fd::{AsRawFd, BorrowedFd};

use thiserror::Error;

use super::netlink::{
    Connection, NetlinkError, Request, attributes, push_attribute, push_nested, push_string,
    string, u32_at,
};

/// A queueing discipline of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qdisc {
    /// `clsact`, `fq_codel`, …
    pub kind: String,
    /// Major and minor number in one, as tc prints it in hexadecimal.
    pub handle: u32,
    /// What it is attached to; `TC_H_ROOT` for a root qdisc.
    pub parent: u32,
}

/// Which of clsact's two hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// What the interface receives.
    Ingress,
    /// What the host sends through the interface.
    Egress,
}

/// A BPF filter (`cls_bpf`) at a clsact hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BpfFilter {
    /// The hook.
    pub direction: Direction,
    /// The lower runs first.
    pub priority: u16,
    /// `ETH_P_*` that it is for, in host byte order; `ETH_P_ALL` is 3.
    pub protocol: u16,
    /// Number among the filters of the same priority.
    pub handle: u32,
    /// The name that whoever attached it gave.
    pub name: Option<String>,
    /// Identifier of the program; none for classic BPF.
    pub program_id: Option<u32>,
    /// The program's return value is the verdict.
    pub direct_action: bool,
}

/// Where and as what to attach a program.
#[derive(Debug, Clone, Copy)]
pub struct FilterSlot<'a> {
    /// Index of the interface.
    pub interface: u32,
    /// The hook.
    pub direction: Direction,
    /// The lower runs first; not 0.
    pub priority: u16,
    /// Number among the filters of the same priority; not 0.
    pub handle: u32,
    /// Name to find it by.
    pub name: &'a str,
}

/// Why a qdisc or filter could not be listed or changed.
#[derive(Debug, Error)]
pub enum QdiscError {
    /// The older `ingress` qdisc has the place of clsact.
    #[error(
        "interface {interface} has an ingress qdisc, which takes the place of clsact: remove it \
         with `tc qdisc del dev IF ingress` if nothing needs it"
    )]
    IngressInTheWay {
        /// Index of the interface.
        interface: u32,
    },
    /// No interface has this index any more.
    #[error("there is no interface with index {interface}")]
    NoInterface {
        /// Index of the interface.
        interface: u32,
    },
    /// The kernel was built without it.
    #[error("the kernel has no {what}: use a kernel with {option}")]
    NotSupported {
        /// What is missing.
        what: &'static str,
        /// The kernel's build option.
        option: &'static str,
    },
    /// Anything else.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Lists the qdiscs of an interface.
pub async fn list(interface: u32) -> Result<Vec<Qdisc>, QdiscError> {
    let mut qdiscs = Vec::new();
    let request = Request {
        action: "list the qdiscs",
        message_type: RTM_GETQDISC,
        flags: 0,
        body: tcmsg(interface, 0, 0, 0),
    };
    Connection::open()?
        .dump(request, |kind, body| {
            if kind == RTM_NEWQDISC {
                qdiscs.extend(Qdisc::parse(body, interface));
            }
        })
        .await?;
    Ok(qdiscs)
}

/// Whether the interface has clsact.
pub async fn has_clsact(interface: u32) -> Result<bool, QdiscError> {
    let mut found = false;
    // A dump would list the qdiscs of every interface of the host. The answer is a notification, which
    // goes to who asks only with this flag (`qdisc_get_notify` in `net/sched/sch_api.c`).
    let request = Request {
        action: "look for the clsact qdisc",
        message_type: RTM_GETQDISC,
        flags: NLM_F_ECHO,
        body: tcmsg(interface, 0, TC_H_CLSACT, 0),
    };
    let asked = Connection::open()?
        .ask(request, |kind, body| {
            let qdisc = Qdisc::parse(body, interface).filter(|_| kind == RTM_NEWQDISC);
            found |= qdisc.is_some_and(|qdisc| qdisc.kind == CLSACT);
        })
        .await;
    absent_is_fine(asked).map(|_| found)
}

/// Adds clsact. Returns false when it is there already: then it is somebody else's to delete.
pub async fn add_clsact(interface: u32) -> Result<bool, QdiscError> {
    let request = Request {
        action: "add the clsact qdisc",
        message_type: RTM_NEWQDISC,
        flags: NLM_F_CREATE | NLM_F_EXCL,
        body: clsact_body(interface),
    };
    let Err(error) = Connection::open()?.change(request).await else { return Ok(true) };
    match error.errno() {
        Some(libc::EEXIST) if has_clsact(interface).await? => Ok(false),
        Some(libc::EEXIST) => Err(QdiscError::IngressInTheWay { interface }),
        Some(libc::ENODEV) => Err(QdiscError::NoInterface { interface }),
        Some(libc::ENOENT) => {
            Err(QdiscError::NotSupported { what: "clsact qdisc", option: "CONFIG_NET_SCH_INGRESS" })
        }
        _ => Err(error.into()),
    }
}

/// Deletes clsact with all its filters. Returns false when there is none.
pub async fn delete_clsact(interface: u32) -> Result<bool, QdiscError> {
    // With an ingress qdisc in its place the kernel would answer EINVAL.
    if !has_clsact(interface).await? {
        return Ok(false);
    }
    let request = Request {
        action: "delete the clsact qdisc",
        message_type: RTM_DELQDISC,
        flags: 0,
        body: clsact_body(interface),
    };
    absent_is_fine(Connection::open()?.change(request).await)
}

/// Lists the BPF filters at one hook of an interface, in the order in which they run. Empty
/// without clsact.
pub async fn list_bpf_filters(
    interface: u32,
    direction: Direction,
) -> Result<Vec<BpfFilter>, QdiscError> {
    list_filters(interface, direction, |body| BpfFilter::parse(body, direction)).await
}

/// Lists the priorities of the filters of any kind at one hook of an interface. Empty without
/// clsact.
pub async fn filter_priorities(
    interface: u32,
    direction: Direction,
) -> Result<Vec<u16>, QdiscError> {
    list_filters(interface, direction, |body| u32_at(body, 16).map(|info| (info >> 16) as u16))
        .await
}

/// What `parse` makes of the filters at one hook, in the order in which they run.
async fn list_filters<T>(
    interface: u32,
    direction: Direction,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, QdiscError> {
    if !has_clsact(interface).await? {
        return Ok(Vec::new());
    }
    let mut filters = Vec::new();
    let request = Request {
        action: "list the filters",
        message_type: RTM_GETTFILTER,
        flags: 0,
        body: tcmsg(interface, 0, direction.parent(), 0),
    };
    Connection::open()?
        .dump(request, |kind, body| {
            if kind == RTM_NEWTFILTER {
                filters.extend(parse(body));
            }
        })
        .await?;
    Ok(filters)
}

/// Attaches a program in direct-action mode for all protocols, in the place of a filter that has
/// the same hook, priority and handle, if any: packets see one or the other, never neither.
///
/// clsact must be there.
pub async fn set_bpf_filter(
    slot: FilterSlot<'_>,
    program: BorrowedFd<'_>,
) -> Result<(), QdiscError> {
    let mut options = Vec::new();
    push_attribute(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    push_string(&mut options, TCA_BPF_NAME, slot.name);
    push_attribute(&mut options, TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
    let info = filter_info(slot.priority, ETH_P_ALL);
    let mut body = tcmsg(slot.interface, slot.handle, slot.direction.parent(), info);
    push_string(&mut body, TCA_KIND, BPF);
    push_nested(&mut body, TCA_OPTIONS, &options);
    let request = Request {
        action: "attach the program as a filter",
        message_type: RTM_NEWTFILTER,
        flags: NLM_F_CREATE,
        body,
    };
    Connection::open()?.change(request).await.map_err(|error| match error.errno() {
        Some(libc::ENODEV) => QdiscError::NoInterface { interface: slot.interface },
        _ => error.into(),
    })
}

/// Deletes one filter by its hook, priority and handle. Returns false when it is not there.
pub async fn delete_bpf_filter(interface: u32, filter: &BpfFilter) -> Result<bool, QdiscError> {
    let info = filter_info(filter.priority, filter.protocol);
    let mut body = tcmsg(interface, filter.handle, filter.direction.parent(), info);
    push_string(&mut body, TCA_KIND, BPF);
    let request =
        Request { action: "delete the filter", message_type: RTM_DELTFILTER, flags: 0, body };
    absent_is_fine(Connection::open()?.change(request).await)
}

/// Deletes the filters at one hook that have this name. Returns how many there were.
pub async fn delete_bpf_filters_named(
    interface: u32,
    direction: Direction,
    name: &str,
) -> Result<usize, QdiscError> {
    let mut deleted = 0;
    for filter in list_bpf_filters(interface, direction).await? {
        if filter.name.as_deref() == Some(name) && delete_bpf_filter(interface, &filter).await? {
            deleted += 1;
        }
    }
    Ok(deleted)
}

pub(super) const RTM_NEWQDISC: u16 = 36;
pub(super) const RTM_DELQDISC: u16 = 37;
pub(super) const RTM_GETQDISC: u16 = 38;
pub(super) const RTM_NEWTFILTER: u16 = 44;
pub(super) const RTM_DELTFILTER: u16 = 45;
pub(super) const RTM_GETTFILTER: u16 = 46;
const NLM_F_EXCL: u16 = rtnetlink::packet_core::NLM_F_EXCL;
const NLM_F_CREATE: u16 = rtnetlink::packet_core::NLM_F_CREATE;
const NLM_F_ECHO: u16 = rtnetlink::packet_core::NLM_F_ECHO;
pub(super) const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const TC_H_CLSACT: u32 = 0xffff_fff1;
const TC_H_MIN_INGRESS: u32 = 0xffff_fff2;
const TC_H_MIN_EGRESS: u32 = 0xffff_fff3;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const ETH_P_ALL: u16 = 3;
pub(super) const CLSACT: &str = "clsact";
pub(super) const BPF: &str = "bpf";

/// `struct tcmsg`.
pub(super) fn tcmsg(interface: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, interface, handle, parent, info].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn clsact_body(interface: u32) -> Vec<u8> {
    let mut body = tcmsg(interface, CLSACT_HANDLE, TC_H_CLSACT, 0);
    push_string(&mut body, TCA_KIND, CLSACT);
    body
}

/// `tcm_info` of a filter: priority, and protocol in network byte order.
fn filter_info(priority: u16, protocol: u16) -> u32 {
    u32::from(priority) << 16 | u32::from(protocol.to_be())
}

fn absent_is_fine(result: Result<(), NetlinkError>) -> Result<bool, QdiscError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Direction {
    pub(super) fn parent(self) -> u32 {
        match self {
            Self::Ingress => TC_H_MIN_INGRESS,
            Self::Egress => TC_H_MIN_EGRESS,
        }
    }
}

impl Qdisc {
    /// Reads the body of an `RTM_NEWQDISC`; `None` when it is of another interface.
    fn parse(body: &[u8], interface: u32) -> Option<Self> {
        if u32_at(body, 4)? != interface {
            return None;
        }
        let (_, kind) = attributes(body.get(20..)?).find(|(kind, _)| *kind == TCA_KIND)?;
        Some(Self { kind: string(kind), handle: u32_at(body, 8)?, parent: u32_at(body, 12)? })
    }
}

impl BpfFilter {
    /// Reads the body of an `RTM_NEWTFILTER`; `None` when it is of another kind, or is the head of
    /// the list of one priority, which has handle 0.
    pub(super) fn parse(body: &[u8], direction: Direction) -> Option<Self> {
        let info = u32_at(body, 16)?;
        let handle = u32_at(body, 8).filter(|handle| *handle != 0)?;
        let find = |wanted| {
            attributes(body.get(20..).unwrap_or_default())
                .find(|(kind, _)| *kind == wanted)
                .map(|(_, payload)| payload)
        };
        if string(find(TCA_KIND)?) != BPF {
            return None;
        }
        let mut filter = Self {
            direction,
            priority: (info >> 16) as u16,
            protocol: u16::from_be((info & 0xffff) as u16),
            handle,
            name: None,
            program_id: None,
            direct_action: false,
        };
        for (kind, payload) in attributes(find(TCA_OPTIONS)?) {
            match kind {
                TCA_BPF_NAME => filter.name = Some(string(payload)),
                TCA_BPF_ID => filter.program_id = u32_at(payload, 0),
                TCA_BPF_FLAGS => {
                    filter.direct_action = u32_at(payload, 0)
                        .is_some_and(|flags| flags & TCA_BPF_FLAG_ACT_DIRECT != 0);
                }
                _ => {}
            }
        }
        Some(filter)
    }
}
