//! Time: what it ends.

use vnet_common::timeout::Timeouts;

use super::{Flow, Model, flow::Id};

impl Model {
    /// Lets seconds pass and looks at every flow and mapping until nothing more changes.
    pub fn wait(&mut self, seconds: u64) {
        self.flows.now += seconds;
        if seconds > 0 {
            self.fragments.forget();
        }
        let now = self.flows.now;
        let end_of = |model: &Self, flow: &Flow| {
            let timeouts = model.timeouts(flow.network);
            let last = match flow.protocol {
                vnet_common::flow::protocol::TCP if flow.is_answered => {
                    flow.last_outbound.max(flow.last_inbound.unwrap_or(0))
                }
                // Only the inside keeps a mapping open (RFC 4787, REQ-6).
                _ => flow.last_outbound,
            };
            last + u64::from(timeouts.of(flow.protocol, flow.state))
        };
        let ends: Vec<(Id, u64)> =
            self.flows.iter().map(|(id, flow)| (id, end_of(self, flow))).collect();
        for (id, end) in ends {
            if end <= now {
                self.flows.end_at(id, end);
            } else {
                // What may not go on ends without a packet.
                self.is_current(id);
            }
        }
        self.expire_mappings();
        let flows = &mut self.flows;
        let mappings = &flows.mappings;
        flows.resting.retain(|(_, waits_for)| {
            mappings.iter().any(|one| {
                *waits_for == Some((one.protocol, one.inside, one.external))
                    && one.idle_since.is_some()
            })
        });
    }

    /// Ports that have been idle for the hold-down time may go to others (RFC 6888, REQ-8).
    fn expire_mappings(&mut self) {
        let now = self.flows.now;
        let mut mappings = std::mem::take(&mut self.flows.mappings);
        mappings.retain(|mapping| {
            let hold_down = u64::from(self.timeouts(mapping.network).port_hold_down);
            mapping.idle_since.is_none_or(|since| now - since < hold_down)
        });
        self.flows.mappings = mappings;
    }

    fn timeouts(&self, slot: u16) -> Timeouts {
        self.world.network(slot).map_or(Timeouts::default(), |network| network.timeouts)
    }
}
