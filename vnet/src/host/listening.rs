//! Sockets of the host that wait for anybody: listening TCP, and UDP that is connected to nobody.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use vnet_common::flow::protocol;

/// A socket that waits for anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// IP protocol number.
    pub protocol: u8,
    /// Where it waits; unspecified for every address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// The TCP and UDP sockets of the calling thread's network namespace that wait for anybody.
pub fn read() -> io::Result<Vec<Listening>> {
    let files = [
        ("tcp", protocol::TCP),
        ("tcp6", protocol::TCP),
        ("udp", protocol::UDP),
        ("udp6", protocol::UDP),
    ];
    let mut sockets = Vec::new();
    for (file, protocol) in files {
        match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(table) => {
                sockets.extend(table.lines().skip(1).filter_map(|line| parse(line, protocol)));
            }
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

impl Listening {
    /// Whether a packet to an address and port would find it. A socket at `::` is taken to have IPv4,
    /// too, unless it says otherwise, which the table does not tell (ipv6(7), `IPV6_V6ONLY`).
    #[must_use]
    pub fn hears(&self, protocol: u8, address: IpAddr, port: u16) -> bool {
        let everywhere = match self.address {
            IpAddr::V4(own) => own.is_unspecified() && address.is_ipv4(),
            IpAddr::V6(own) => own.is_unspecified(),
        };
        self.protocol == protocol
            && self.port == port
            && (everywhere || self.address.to_canonical() == address)
    }
}

/// A line of the table (`get_tcp4_sock` in `net/ipv4/tcp_ipv4.c`): number, own endpoint, remote endpoint,
/// state.
fn parse(line: &str, protocol: u8) -> Option<Listening> {
    const TCP_LISTEN: &str = "0A";
    const TCP_CLOSE: &str = "07";
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (own, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    if state != if protocol == protocol::TCP { TCP_LISTEN } else { TCP_CLOSE } {
        return None;
    }
    let (address, port) = own.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(Listening { protocol, address: parse_address(address)?, port })
}

/// Words of 32 bits in network byte order, each written as a number of the host's.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(8 * at..8 * at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut bytes = [0; 16];
            bytes.copy_from_slice(words.as_flattened());
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn table_of_the_kernel_is_understood() {
        let line = |own: &str, state: &str| {
            format!(
                "   0: {own} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 1"
            )
        };
        let parsed = |own: &str, state: &str, protocol| {
            parse(&line(own, state), protocol).map(|one| (one.address.to_string(), one.port))
        };
        let (tcp, udp) = (protocol::TCP, protocol::UDP);
        let here = Some(("127.0.0.1".to_owned(), 22));
        assert_eq!(parsed("0100007F:0016", "0A", tcp), here);
        assert_eq!(parsed("0100007F:0016", "07", udp), here);
        assert_eq!(parsed("0100007F:0016", "01", tcp), None);
        assert_eq!(parsed("0100007F:0016", "01", udp), None);
        let own = "B80D0120000000000000000001000000:0035";
        assert_eq!(parsed(own, "07", udp), Some(("2001:db8::1".to_owned(), 53)));
        assert_eq!(parsed("junk:0035", "07", udp), None);
        assert_eq!(parse("", tcp), None);
    }

    #[test]
    fn socket_hears_at_its_address_or_at_all_of_its_family() {
        let socket = |address: &str| Listening {
            protocol: protocol::TCP,
            address: address.parse().unwrap(),
            port: 22,
        };
        let hears = |socket: &Listening, address: &str| {
            socket.hears(protocol::TCP, address.parse().unwrap(), 22)
        };
        let cases = [
            ("0.0.0.0", true, false),
            ("::", true, true),
            ("192.0.2.1", true, false),
            ("192.0.2.2", false, false),
            ("::ffff:192.0.2.1", true, false),
            ("2001:db8::1", false, true),
        ];
        for (own, ipv4, ipv6) in cases {
            let socket = socket(own);
            assert_eq!(hears(&socket, "192.0.2.1"), ipv4, "{own}");
            assert_eq!(hears(&socket, "2001:db8::1"), ipv6, "{own}");
        }
        assert!(!socket("0.0.0.0").hears(protocol::UDP, "192.0.2.1".parse().unwrap(), 22));
        assert!(!socket("0.0.0.0").hears(protocol::TCP, "192.0.2.1".parse().unwrap(), 23));
    }
}
