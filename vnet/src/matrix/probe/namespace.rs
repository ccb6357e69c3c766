//! A network namespace that one may open sockets in.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sched::{CloneFlags, setns},
};

use super::ProbeError;

/// Where `ip netns add` puts names (ip-netns(8)).
const NAMED: &str = "/run/netns";

/// An open network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Opens a namespace by its name as `ip netns` lists it, or by its path if there is a `/`.
    pub fn open(name: &str) -> Result<Self, ProbeError> {
        let path =
            if name.contains('/') { PathBuf::from(name) } else { Path::new(NAMED).join(name) };
        let file = File::open(path);
        let file =
            file.map_err(|source| ProbeError::Namespace { namespace: name.to_owned(), source })?;
        Ok(Self { name: name.to_owned(), file })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, ProbeError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// What it was called when it was opened.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets opened there belong to it
    /// for good.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, ProbeError> {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        };
        let entered: io::Result<T> = thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        entered.map_err(|source| ProbeError::Namespace { namespace: self.name.clone(), source })
    }

    /// The addresses that others may reach it by, with their interfaces' names, in the kernel's
    /// order: none of loopback, none that is only valid on its link.
    pub fn addresses(&self) -> Result<Vec<(String, IpAddr)>, ProbeError> {
        let read = self.enter(|| getifaddrs().map(Iterator::collect::<Vec<_>>))?;
        let read = read.map_err(|error| ProbeError::Namespace {
            namespace: self.name.clone(),
            source: error.into(),
        })?;
        let usable = read.into_iter().filter(|entry| {
            entry.flags.contains(InterfaceFlags::IFF_UP)
                && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)
        });
        let addresses = usable.filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            let address = v4.or(address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
            Some((entry.interface_name, address))
        });
        Ok(addresses.filter(|(_, address)| !is_link_local(*address)).collect())
    }
}

/// The unspecified address of the same family.
pub(super) fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// RFC 3927 and RFC 4291, section 2.5.6.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
