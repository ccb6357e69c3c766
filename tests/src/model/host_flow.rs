//! What the host itself talks about with remotes where no socket tells of it.

use vnet_common::{flow::protocol, tcp::State};

use super::{Endpoint, Model, Packet, bridge::is_group, flow::endpoints};

impl Model {
    /// Notes a packet that the host sends; the guest whose flow has these endpoints loses it.
    pub(super) fn note_host_flow(&mut self, packet: &Packet) {
        if matches!(packet.protocol, protocol::TCP | protocol::UDP) || is_group(packet.destination)
        {
            return;
        }
        let Some((own, remote)) = endpoints(packet, true) else { return };
        self.host_flows.insert((packet.protocol, remote, own), self.flows.now);
        self.tried.push("(flow of the host's own)");
        if let Some(id) = self.flows.inbound(packet.protocol, remote, own) {
            self.tried.push("(guest's flow that the host takes)");
            self.flows.end(id);
        }
    }

    /// Whether what a remote sends to an external endpoint is the host's: of a socket, or of a flow that is
    /// not older than such flows of the network get.
    pub(super) fn is_the_hosts(
        &self,
        slot: u16,
        protocol: u8,
        remote: Endpoint,
        external: Endpoint,
    ) -> bool {
        if self.world.has_socket(protocol, external.0, external.1) {
            return true;
        }
        self.host_talks(slot, protocol, remote, external)
    }

    /// Whether the host talks with that remote itself where no socket tells of it.
    pub(super) fn host_talks(
        &self,
        slot: u16,
        protocol: u8,
        remote: Endpoint,
        external: Endpoint,
    ) -> bool {
        let Some(last) = self.host_flows.get(&(protocol, remote, external)) else { return false };
        let timeouts = self.world.network(slot).map(|network| network.timeouts);
        let seconds = timeouts.map_or(0, |timeouts| timeouts.of(protocol, State::Opening));
        self.flows.now - last < u64::from(seconds)
    }
}
