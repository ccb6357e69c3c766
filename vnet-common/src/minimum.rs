//! What the yardstick of the benchmarks knows of a flow: see `vnet-ebpf/src/bin/minimum.rs`.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, PortBe};

/// Where a packet goes and what it says of an endpoint there; the key is a [`crate::flow::FlowKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Rewrite {
    /// The address in the place of the packet's own.
    pub address: Address,
    /// The next hop.
    pub next_hop: Address,
    /// The interface to it.
    pub ifindex: u32,
    /// The port in the place of the packet's own.
    pub port: PortBe,
    /// The MAC address of the next hop, and the interface's: of use to XDP, which has to write them.
    pub link: [u8; 12],
    /// Zero.
    pub reserved: [u8; 2],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_what_the_programs_were_compiled_for() {
        assert_eq!(size_of::<Rewrite>(), 52);
    }
}
