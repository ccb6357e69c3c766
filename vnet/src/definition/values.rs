//! The values of attributes, from text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    model::{ForwardMode, MacAddress, MacTableManager, NativeMode, Uuid},
    render::visible,
    schema::nearest,
};

/// Why a text is not a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// What has to stand there, after "must be".
    pub expected: String,
    /// What stands there instead.
    pub found: String,
    /// What would be right.
    pub help: Option<String>,
}

type Value<T> = Result<T, Fault>;

impl Fault {
    pub(super) fn new(expected: impl Into<String>, text: &str) -> Self {
        Self { expected: expected.into(), found: format!("not `{}`", visible(text)), help: None }
    }

    fn found(mut self, found: impl Into<String>) -> Self {
        self.found = found.into();
        self
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Any text.
#[expect(clippy::unnecessary_wraps, reason = "has the signature of its siblings")]
pub(super) fn string(text: &str) -> Value<String> {
    Ok(text.to_owned())
}

pub(super) fn yes_no(text: &str) -> Value<bool> {
    choice(text, &[("yes", true), ("no", false)])
}

pub(super) fn on_off(text: &str) -> Value<bool> {
    choice(text, &[("on", true), ("off", false)])
}

pub(super) fn forward_mode(text: &str) -> Value<ForwardMode> {
    choice(text, &ForwardMode::NAMED).map_err(|fault| match text {
        "isolated" | "none" => fault.help("an isolated network has no `<forward>` at all"),
        _ => fault,
    })
}

pub(super) fn mac_table_manager(text: &str) -> Value<MacTableManager> {
    choice(text, &[("kernel", MacTableManager::Kernel), ("libvirt", MacTableManager::Libvirt)])
}

pub(super) fn native_mode(text: &str) -> Value<NativeMode> {
    choice(text, &[("tagged", NativeMode::Tagged), ("untagged", NativeMode::Untagged)])
}

/// One of some words.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&'static str, T)]) -> Value<T> {
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let mut names: Vec<_> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
    if let Some(last) = names.pop_if(|_| choices.len() > 1) {
        names = vec![format!("{} or {last}", names.join(", "))];
    }
    let fault = Fault::new(names.concat(), text);
    Err(match nearest(text, choices.iter().map(|(name, _)| *name)) {
        Some(near) => fault.found(format!("not `{}`: did you mean `{near}`?", visible(text))),
        None => fault,
    })
}

/// A decimal number of at most `MAX` and at least `MIN`.
pub(super) fn number<const MIN: u64, const MAX: u64>(text: &str) -> Value<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse().ok().filter(|value| digits && (MIN..=MAX).contains(value));
    value.ok_or_else(|| Fault::new(format!("a number from {MIN} to {MAX}"), text))
}

/// A number from 0 up.
pub(super) fn count(text: &str) -> Value<u64> {
    number::<0, { u64::MAX }>(text).map_err(|_| Fault::new("a whole number", text))
}

pub(super) fn port(text: &str) -> Value<u16> {
    number::<1, 65535>(text).map(|port| port as u16)
}

/// How many of the ports that are masqueraded to by default, at most.
pub(super) fn port_count(text: &str) -> Value<u16> {
    number::<1, 64512>(text).map(|count| count as u16)
}

/// The kernel's bridges take 68 (`ETH_MIN_MTU`) to 65535 (`ETH_MAX_MTU`) bytes.
pub(super) fn mtu(text: &str) -> Value<u32> {
    number::<68, 65535>(text).map(|mtu| mtu as u32)
}

/// An IPv4 address in dotted-quad notation or an IPv6 address.
pub(super) fn address(text: &str) -> Value<IpAddr> {
    text.parse().map_err(|_| address_fault("an IP address", text))
}

pub(super) fn ipv4(text: &str) -> Value<Ipv4Addr> {
    text.parse().map_err(|_| address_fault("an IPv4 address", text))
}

fn address_fault(expected: &str, text: &str) -> Fault {
    let fault = Fault::new(expected, text);
    if let Some((address, prefix)) = text.split_once('/') {
        return match address.parse::<IpAddr>() {
            Ok(address) => fault.found("holds a prefix length").help(format!(
                "write the two apart: address='{address}' prefix='{}'",
                visible(prefix)
            )),
            Err(_) => fault,
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return fault.found("is an IPv6 address");
    }
    let parts: Vec<&str> = text.split('.').collect();
    let numbers = parts.iter().all(|part| {
        !part.is_empty() && part.len() < 10 && part.bytes().all(|byte| byte.is_ascii_digit())
    });
    if !numbers {
        return fault;
    }
    if parts.len() != 4 {
        return fault.found(format!("has {} of 4 parts", parts.len()));
    }
    if let Some(part) = parts.iter().find(|part| part.len() > 1 && part.starts_with('0')) {
        return fault
            .found(format!("`{part}` has a leading zero"))
            .help("a leading zero means octal to some programs and decimal to others: remove it");
    }
    match parts.iter().find(|part| part.parse::<u8>().is_err()) {
        Some(part) => fault.found(format!("`{part}` is above 255")),
        None => fault,
    }
}

/// An IPv4 netmask, as the length of its prefix.
pub(super) fn netmask(text: &str) -> Value<u8> {
    let mask = ipv4(text).map_err(|mut fault| {
        "an IPv4 netmask such as 255.255.255.0".clone_into(&mut fault.expected);
        fault
    })?;
    ipnet::ipv4_mask_to_prefix(mask).map_err(|_| {
        let inverse = ipnet::ipv4_mask_to_prefix(Ipv4Addr::from_bits(!mask.to_bits()));
        let fault = Fault::new("an IPv4 netmask such as 255.255.255.0", text)
            .found("has a 1 bit after a 0 bit");
        match inverse {
            Ok(_) => fault.help(format!(
                "this looks like a wildcard mask; its netmask is {}",
                Ipv4Addr::from_bits(!mask.to_bits())
            )),
            Err(_) => fault,
        }
    })
}

/// An Ethernet address of one station.
pub(super) fn mac(text: &str) -> Value<MacAddress> {
    let fault = || Fault::new("a MAC address such as 52:54:00:12:34:56", text);
    let octets: Vec<u8> = text
        .split(':')
        .map(|octet| hexadecimal(octet).filter(|_| octet.len() <= 2))
        .collect::<Option<_>>()
        .ok_or_else(fault)?;
    let mac = octets.try_into().map(MacAddress).map_err(|_| fault())?;
    if mac.is_multicast() {
        let mut unicast = mac;
        unicast.0[0] &= !1;
        return Err(Fault::new("the MAC address of one station", text)
            .found("is a multicast address: its first octet is odd")
            .help(format!("make the first octet even, for example {unicast}")));
    }
    Ok(mac)
}

fn hexadecimal(octet: &str) -> Option<u8> {
    octet
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit())
        .then(|| u8::from_str_radix(octet, 16).ok())?
}

/// 32 hexadecimal digits, with or without dashes, as libvirt reads them (`virUUIDParse`).
pub(super) fn uuid(text: &str) -> Value<Uuid> {
    let fault = || Fault::new("a UUID such as 3e3fce45-4f53-4fa7-bb32-11f34168b82b", text);
    let digits: Vec<u8> = text
        .trim()
        .chars()
        .filter(|character| *character != '-')
        .map(|character| character.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()
        .ok_or_else(fault)?;
    let octets: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |high, low| high << 4 | low)).collect();
    if digits.len() != 32 {
        return Err(fault().found(format!("has {} of 32 hexadecimal digits", digits.len())));
    }
    octets.try_into().map(Uuid).map_err(|_| fault())
}

/// The name of a network interface as the kernel takes it (`dev_valid_name` in `net/core/dev.c`).
pub(super) fn interface(text: &str) -> Value<String> {
    let fault = || Fault::new("the name of a network interface", text);
    if text.len() > 15 {
        return Err(fault()
            .found(format!("has {} bytes", text.len()))
            .help("interface names have at most 15 bytes"));
    }
    if matches!(text, "." | "..") {
        return Err(fault());
    }
    match text.chars().find(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':')) {
        Some(' ') => Err(fault().found("holds a space")),
        Some(character) => Err(fault().found(format!("holds {character:?}"))),
        None => Ok(text.to_owned()),
    }
}

/// A number as `virStrToLong` reads it with base 0: decimal, or hexadecimal after `0x`.
pub(super) fn based_number(text: &str, max: u64) -> Value<u64> {
    let value = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    value
        .filter(|value| *value <= max && !text.contains('+'))
        .ok_or_else(|| Fault::new(format!("a number up to {max:#x}"), text))
}
