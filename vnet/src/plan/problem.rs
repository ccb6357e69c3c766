//! What keeps definitions from running on a host.

use super::beside::Advice;

/// Why the definitions cannot run on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No interface has the bridge's name.
    #[error(
        "network `{network}`: there is no bridge `{bridge}` on this host; have vnet make it \
         (`--create-bridges`), or libvirt (`virsh net-start {network}`), or correct \
         <bridge name='{bridge}'/>"
    )]
    NoBridge {
        /// The network.
        network: String,
        /// The bridge's name.
        bridge: String,
    },
    /// As [`Problem::NoBridge`], where the bridge is the host's own and not the network's.
    #[error(
        "network `{network}`: there is no bridge `{bridge}` on this host; make it or correct \
         <bridge name='{bridge}'/>"
    )]
    NoHostBridge {
        /// The network.
        network: String,
        /// The bridge's name.
        bridge: String,
    },
    /// The interface is something else.
    #[error("network `{network}`: interface `{bridge}` is no bridge")]
    NotABridge {
        /// The network.
        network: String,
        /// The interface's name.
        bridge: String,
    },
    /// Without a name there is nothing to attach to.
    #[error(
        "network `{network}`: its definition names no bridge; write <bridge name='virbr0'/> with \
         the bridge that the guests are on"
    )]
    UnnamedBridge {
        /// The network.
        network: String,
    },
    /// `<forward dev=…>` names no interface of this host.
    #[error("network `{network}`: there is no interface `{device}` to forward to on this host")]
    NoForwardDevice {
        /// The network.
        network: String,
        /// The interface's name.
        device: String,
    },
    /// `--uplink` names no interface of this host.
    #[error("there is no interface `{name}` on this host, which `--uplink {name}` asks for")]
    NoUplink {
        /// The interface's name.
        name: String,
    },
    /// `--uplink` names the bridge of a network.
    #[error("`--uplink {name}`: this is the bridge of a network, not a way to outside")]
    UplinkIsBridge {
        /// The interface's name.
        name: String,
    },
    /// `--uplink` names a port of a bridge or of a bond.
    #[error("`--uplink {name}`: this is a port of `{master}`, which has its traffic; name that")]
    UplinkIsPort {
        /// The interface's name.
        name: String,
        /// The master's name.
        master: String,
    },
    /// The programs read Ethernet or IP headers at the start of a frame.
    #[error("`--uplink {name}`: frames of this kind of interface are not supported")]
    UnsupportedLink {
        /// The interface's name.
        name: String,
    },
    /// Forwarding IPv6 would end what the host itself learns from router advertisements.
    #[error(
        "interface `{interface}` has IPv6 routes from router advertisements, which the kernel \
         drops when the host forwards IPv6, as network `{network}` needs: have it accept them all \
         the same with `sysctl -w {parameter}=2`"
    )]
    LosesRoutes {
        /// The network.
        network: String,
        /// The interface's name.
        interface: String,
        /// The parameter that keeps them.
        parameter: String,
    },
    /// Something else of the host is in the way.
    #[error("{0}")]
    Beside(Advice),
    /// Nothing of what was given is served.
    #[error(
        "none of the definitions is of a kind that vnet serves: mode 'nat', 'route', 'open', or \
         'bridge' with a <bridge>, or no <forward>"
    )]
    NothingToServe,
    /// More than a table holds.
    #[error("{count} {what} are more than the {limit} that vnet has room for")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl Problem {
    /// The network that it is about; none if it is about several or none.
    #[must_use]
    pub fn network(&self) -> Option<&str> {
        match self {
            Self::NoBridge { network, .. }
            | Self::NoHostBridge { network, .. }
            | Self::NotABridge { network, .. }
            | Self::UnnamedBridge { network }
            | Self::NoForwardDevice { network, .. }
            | Self::LosesRoutes { network, .. } => Some(network),
            Self::Beside(advice) => advice.network.as_deref(),
            Self::NoUplink { .. }
            | Self::UplinkIsBridge { .. }
            | Self::UplinkIsPort { .. }
            | Self::UnsupportedLink { .. }
            | Self::NothingToServe
            | Self::TooMany { .. } => None,
        }
    }
}
