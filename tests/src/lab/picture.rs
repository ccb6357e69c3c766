//! A picture of a lab for people.

use std::fmt::Write;

use super::guest::PortKind;
use super::node::{Interface, Link, Node, Role};
use super::topology::Lab;

impl Lab {
    /// Draws hosts with their bridges and guests, and what is beyond their uplinks, as a tree.
    #[must_use]
    pub fn picture(&self) -> String {
        let nodes = self.nodes().clone();
        let mut picture = Picture { nodes: &nodes, drawn: Vec::new(), text: String::new() };
        // Hosts first; what no wire connects to a host stands on its own.
        for role in [Role::Host, Role::Outside, Role::Guest] {
            for node in nodes.iter().filter(|node| node.role() == role) {
                if !picture.drawn.contains(&node.name()) {
                    picture.line(&[], node.name());
                    picture.draw(node, None, &[]);
                }
            }
        }
        picture.text
    }
}

struct Picture<'a> {
    nodes: &'a [Node],
    drawn: Vec<&'a str>,
    text: String,
}

impl<'a> Picture<'a> {
    /// Draws the interfaces of a node but the one we came through; `more` says for each level
    /// above whether something follows there.
    fn draw(&mut self, node: &'a Node, came_through: Option<&str>, more: &[bool]) {
        self.drawn.push(node.name());
        let interfaces = node.interfaces();
        // A guest's NIC stands on the line of its port, a port under its bridge.
        let shown: Vec<&Interface> = interfaces
            .iter()
            .filter(|interface| Some(interface.name.as_str()) != came_through)
            .filter(|interface| matches!(interface.link, Link::Bridge | Link::Wire { .. }))
            .collect();
        for (index, interface) in shown.iter().enumerate() {
            let branch = [more, &[index + 1 < shown.len()]].concat();
            match &interface.link {
                Link::Wire { node, interface: other } => {
                    self.draw_wire(interface, node, other, &branch);
                }
                _ => self.draw_bridge(&interfaces, interface, &branch),
            }
        }
    }

    fn draw_bridge(&mut self, interfaces: &[Interface], bridge: &Interface, more: &[bool]) {
        self.line(more, &format!("{} (bridge)", describe(bridge)));
        let ports: Vec<(&Interface, &str, PortKind)> = interfaces
            .iter()
            .filter_map(|port| match &port.link {
                Link::Port { bridge: master, guest, kind } if *master == bridge.name => {
                    Some((port, guest.as_str(), *kind))
                }
                _ => None,
            })
            .collect();
        for (index, (port, guest, kind)) in ports.iter().enumerate() {
            let kind = match kind {
                PortKind::Tap => "tap",
                PortKind::Veth => "veth",
            };
            let nic = self.nic(guest).unwrap_or_default();
            let branch = [more, &[index + 1 < ports.len()]].concat();
            self.line(&branch, &format!("{} ({kind}) === {guest} {nic}", port.name));
        }
    }

    fn draw_wire(&mut self, near: &Interface, peer: &str, interface: &str, more: &[bool]) {
        let nodes = self.nodes;
        let peer_node = nodes.iter().find(|node| node.name() == peer);
        let far = peer_node
            .and_then(|node| node.interfaces().into_iter().find(|far| far.name == interface))
            .map(|far| describe(&far))
            .unwrap_or_default();
        self.line(more, &format!("{} <---> {peer} {far}", describe(near)));
        match peer_node {
            Some(node) if !self.drawn.contains(&node.name()) => {
                self.draw(node, Some(interface), more);
            }
            _ => {}
        }
    }

    fn nic(&mut self, guest: &str) -> Option<String> {
        let nodes = self.nodes;
        let node = nodes.iter().find(|node| node.name() == guest)?;
        self.drawn.push(node.name());
        let nic = node.interfaces().into_iter().next()?;
        let Link::Nic { gateways } = &nic.link else { return None };
        let mut words = vec![describe(&nic)];
        words.extend(gateways.iter().map(|gateway| format!("via {gateway}")));
        Some(words.join(" "))
    }

    fn line(&mut self, more: &[bool], text: &str) {
        for (level, &follows) in more.iter().enumerate() {
            let last = level + 1 == more.len();
            self.text.push_str(match (last, follows) {
                (true, true) => "  |-- ",
                (true, false) => "  `-- ",
                (false, true) => "  |   ",
                (false, false) => "      ",
            });
        }
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{}", text.trim_end());
    }
}

fn describe(interface: &Interface) -> String {
    let mut text = interface.name.clone();
    for address in &interface.addresses {
        text.push(' ');
        text.push_str(address);
    }
    if interface.mtu != 1500 {
        let _ = write!(text, " (mtu {})", interface.mtu);
    }
    text
}
