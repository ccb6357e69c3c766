//! Kernel parameters under `/proc/sys`.
//!
//! `/proc/sys/net` shows the network namespace of the thread that opens the file.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use thiserror::Error;
use vnet_common::family::Family;

/// Why a kernel parameter could not be read or written.
#[derive(Debug, Error)]
pub enum SysctlError {
    /// The file cannot be read.
    #[error("cannot read the kernel parameter {name}: {source}")]
    Read {
        /// Name of the parameter.
        name: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// The kernel does not take the value.
    #[error(
        "cannot set the kernel parameter {name} to \"{value}\": {source}{}",
        write_hint(source)
    )]
    Write {
        /// Name of the parameter.
        name: String,
        /// The value that was written.
        value: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// The value is not what the parameter's documentation says.
    #[error("the kernel parameter {name} is \"{value}\", which is not {expected}")]
    Unexpected {
        /// Name of the parameter.
        name: String,
        /// The value that was read.
        value: String,
        /// What it should look like.
        expected: &'static str,
    },
}

fn write_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root",
        io::ErrorKind::ReadOnlyFilesystem => "; /proc/sys is mounted read-only, as in a container",
        _ => "",
    }
}

/// The parameter that turns IPv4 forwarding on.
pub const IP_FORWARD: &str = "net.ipv4.ip_forward";
/// The parameter that turns IPv6 forwarding on, for every interface and those to come.
pub const IPV6_FORWARDING: &str = "net.ipv6.conf.all.forwarding";
/// The parameter with the range of ephemeral ports.
pub const IP_LOCAL_PORT_RANGE: &str = "net.ipv4.ip_local_port_range";
/// The parameter with the ports that are never ephemeral ports.
pub const IP_LOCAL_RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";

/// The parameter of an interface, or of `all` or `default`, in the way that sysctl(8) takes it.
#[must_use]
pub fn of_interface(family: Family, interface: &str, parameter: &str) -> String {
    swap_separators(&format!("{}/{interface}/{parameter}", conf_of(family)))
}

/// Reads a parameter, without the newline at its end.
///
/// As with sysctl(8) a name may separate with dots or with slashes, whichever comes first in it:
/// `net/ipv4/conf/eth0.100/forwarding` is how to write a component that has a dot.
pub fn read(name: &str) -> Result<String, SysctlError> {
    match read_at_once(&path(name)) {
        Ok(value) => Ok(value.trim_end().to_owned()),
        Err(source) => Err(SysctlError::Read { name: name.to_owned(), source }),
    }
}

/// The kernel gives a value out in one read, and nothing in a second one: what does not fit is cut off
/// (`proc_do_large_bitmap` in kernel/sysctl.c).
fn read_at_once(path: &Path) -> io::Result<String> {
    let mut size = 4096;
    loop {
        let mut buffer = vec![0; size];
        let length = File::open(path)?.read(&mut buffer)?;
        if length < size {
            buffer.truncate(length);
            return String::from_utf8(buffer).map_err(io::Error::other);
        }
        size *= 8;
    }
}

/// Sets a parameter.
pub fn write(name: &str, value: &str) -> Result<(), SysctlError> {
    fs::write(path(name), value).map_err(|source| SysctlError::Write {
        name: name.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// Sets a parameter unless it has the value already, and returns the former value if it was
/// another: what to [`write()`] to leave the host as it was found.
pub fn replace(name: &str, value: &str) -> Result<Option<String>, SysctlError> {
    let former = read(name)?;
    if former == value {
        return Ok(None);
    }
    write(name, value)?;
    Ok(Some(former))
}

/// The parameter that turns forwarding of a family on for every interface.
#[must_use]
pub const fn forwarding_of(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => IP_FORWARD,
        Family::Ipv6 => IPV6_FORWARDING,
    }
}

/// Whether the host forwards a family; `None` if the kernel does not have the family.
pub fn forwarding(family: Family) -> Result<Option<bool>, SysctlError> {
    match read(forwarding_of(family)) {
        Ok(value) => Ok(Some(value != "0")),
        Err(SysctlError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Turns forwarding of a family on or off, on every interface and those to come.
pub fn set_forwarding(family: Family, on: bool) -> Result<(), SysctlError> {
    write(forwarding_of(family), if on { "1" } else { "0" })
}

/// The directory of a family's parameters per interface, and of `all` and `default`.
#[must_use]
pub const fn conf_of(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "net/ipv4/conf",
        Family::Ipv6 => "net/ipv6/conf",
    }
}

/// The names in a directory of parameters.
pub fn list(directory: &str) -> Result<Vec<String>, SysctlError> {
    let listed = fs::read_dir(path(directory)).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    });
    listed.map_err(|source| SysctlError::Read { name: directory.to_owned(), source })
}

/// The ports that the kernel picks from for sockets that do not name one.
pub fn ip_local_port_range() -> Result<RangeInclusive<u16>, SysctlError> {
    let value = read(IP_LOCAL_PORT_RANGE)?;
    parse_port_range(&value)
        .ok_or_else(|| unexpected(IP_LOCAL_PORT_RANGE, &value, "two ascending port numbers"))
}

/// The ports that the kernel does not pick even if they are in [`ip_local_port_range`], in
/// ascending order.
pub fn ip_local_reserved_ports() -> Result<Vec<RangeInclusive<u16>>, SysctlError> {
    let value = read(IP_LOCAL_RESERVED_PORTS)?;
    parse_port_list(&value)
        .ok_or_else(|| unexpected(IP_LOCAL_RESERVED_PORTS, &value, "a list like 8080,9000-9010"))
}

/// Ports that the host keeps for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPorts {
    /// Those of sockets that do not name one: [`ip_local_port_range`].
    pub ephemeral: RangeInclusive<u16>,
    /// Those that the administrator has set aside, in ascending order: [`ip_local_reserved_ports`].
    /// Something without a socket may have them, such as a container's port that netfilter forwards.
    pub reserved: Vec<RangeInclusive<u16>>,
}

impl HostPorts {
    /// Those of the network namespace.
    pub fn read() -> Result<Self, SysctlError> {
        Ok(Self { ephemeral: ip_local_port_range()?, reserved: ip_local_reserved_ports()? })
    }

    /// How many ports of a range are none of them.
    #[must_use]
    pub fn left_of(&self, ports: &RangeInclusive<u16>) -> usize {
        let ephemeral = common(ports, &self.ephemeral);
        let reserved = self.reserved.iter().map(|range| {
            let of_range = common(ports, range);
            of_range.len() - common(&of_range, &ephemeral).len()
        });
        ports.len() - ephemeral.len() - reserved.sum::<usize>()
    }
}

fn common(one: &RangeInclusive<u16>, other: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    *one.start().max(other.start())..=*one.end().min(other.end())
}

/// Writes port ranges the way that `ip_local_reserved_ports` takes them.
#[must_use]
pub fn format_port_list(ranges: &[RangeInclusive<u16>]) -> String {
    let texts: Vec<String> = ranges
        .iter()
        .map(|range| {
            if range.start() == range.end() {
                range.start().to_string()
            } else {
                format!("{}-{}", range.start(), range.end())
            }
        })
        .collect();
    texts.join(",")
}

/// Two numbers with white space between them.
fn parse_port_range(value: &str) -> Option<RangeInclusive<u16>> {
    let mut ports = value.split_ascii_whitespace().map(str::parse);
    let (first, last) = (ports.next()?.ok()?, ports.next()?.ok()?);
    (ports.next().is_none() && first <= last).then_some(first..=last)
}

/// Numbers and ranges with commas between them (`proc_do_large_bitmap` in kernel/sysctl.c).
fn parse_port_list(value: &str) -> Option<Vec<RangeInclusive<u16>>> {
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(first..=last)
        })
        .collect()
}

fn path(name: &str) -> PathBuf {
    let dots_separate = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'.');
    let relative = if dots_separate { swap_separators(name) } else { name.to_owned() };
    PathBuf::from("/proc/sys").join(relative)
}

/// In the dotted form a slash stands for a dot inside a component.
fn swap_separators(name: &str) -> String {
    let swap = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

fn unexpected(name: &str, value: &str, expected: &'static str) -> SysctlError {
    SysctlError::Unexpected { name: name.to_owned(), value: value.to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_separator_decides() {
        let cases = [
            ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.100/forwarding", "/proc/sys/net/ipv4/conf/eth0.100/forwarding"),
            ("net.ipv4.conf.eth0/100.forwarding", "/proc/sys/net/ipv4/conf/eth0.100/forwarding"),
        ];
        for (name, expected) in cases {
            assert_eq!(path(name), PathBuf::from(expected));
        }
    }

    #[test]
    fn parameter_of_an_interface_is_named_as_sysctl_takes_it() {
        let name = of_interface(Family::Ipv6, "eth0.100", "accept_ra");
        assert_eq!(name, "net.ipv6.conf.eth0/100.accept_ra");
        assert_eq!(path(&name), PathBuf::from("/proc/sys/net/ipv6/conf/eth0.100/accept_ra"));
    }

    #[test]
    fn port_range_is_two_ascending_numbers() {
        assert_eq!(parse_port_range("32768\t60999"), Some(32768..=60999));
        for wrong in ["", "1", "2 1", "1 70000", "1 2 3", "a b"] {
            assert_eq!(parse_port_range(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn port_list_mixes_numbers_and_ranges() {
        let list = vec![53..=53, 8080..=8081, 65535..=65535];
        assert_eq!(parse_port_list("53,8080-8081,65535"), Some(list.clone()));
        assert_eq!(format_port_list(&list), "53,8080-8081,65535");
        assert_eq!(parse_port_list(""), Some(vec![]));
        assert_eq!(format_port_list(&[]), "");
        for wrong in ["x", "5-1", "1-2-3", "70000"] {
            assert_eq!(parse_port_list(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn ports_that_are_left_are_neither_ephemeral_nor_reserved() {
        let reserved = vec![7..=7, 30..=31, 290..=310, 350..=360, 395..=500];
        let ports = HostPorts { ephemeral: 300..=400, reserved };
        let is_hosts = |port: &u16| {
            ports.ephemeral.contains(port)
                || ports.reserved.iter().any(|range| range.contains(port))
        };
        for range in [0..=65535, 0..=6, 7..=7, 8..=30, 200..=299, 305..=355, 399..=600, 501..=501] {
            let left = range.clone().filter(|port| !is_hosts(port)).count();
            assert_eq!(ports.left_of(&range), left, "{range:?}");
        }
    }

    #[test]
    fn error_names_the_parameter() {
        let error = read("net.ipv4.no_such_thing").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read the kernel parameter net.ipv4.no_such_thing: \
             No such file or directory (os error 2)"
        );
        let error = SysctlError::Write {
            name: IP_FORWARD.to_owned(),
            value: "1".to_owned(),
            source: io::Error::from_raw_os_error(libc::EACCES),
        };
        assert_eq!(
            error.to_string(),
            "cannot set the kernel parameter net.ipv4.ip_forward to \"1\": \
             Permission denied (os error 13); run as root"
        );
    }
}
