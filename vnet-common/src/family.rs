//! The two versions of the Internet protocol.

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    /// RFC 791
    Ipv4 = 4,
    /// RFC 8200
    Ipv6 = 6,
}
