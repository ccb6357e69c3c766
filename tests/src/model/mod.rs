//! A small model of the whole datapath, to which the real programs are compared.
//!
//! Written from the design, the RFCs and the descriptions of drop reasons and handovers, with std's
//! collections and one packet at a time; it shares types and constants with the datapath and no code.
//! Where the datapath may choose (an external port that is not the inside's own), the model takes the
//! choice from what came out and checks that it was a legal one.

mod bridge;
mod checksum;
mod egress;
mod expiry;
mod flow;
mod fragment;
mod hairpin;
mod host_flow;
mod icmp;
mod mapping;
mod outcome;
mod packet;
mod policy;
mod reject;
mod rewrite;
mod stranger;
mod tcp;
mod uplink;
mod world;

use std::collections::HashMap;

use vnet_common::names::{FORWARDED_MARK, INBOUND_MARK};

pub use flow::{Endpoint, Flow, Flows};
pub use outcome::{Counter, Expected, Seen, Stop};
pub use packet::{Fragment, Packet};
pub use stranger::Forward;
pub use world::{Route, Socket, World};

use crate::programs::Verdict;
use fragment::Fragments;
use outcome::Done;

/// A hook of the datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TC ingress of a network's bridge.
    BridgeIngress,
    /// TC egress of a network's bridge.
    BridgeEgress,
    /// TC ingress of an uplink.
    UplinkIngress,
    /// TC egress of an uplink.
    UplinkEgress,
}

/// A frame at a hook.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The hook.
    pub hook: Hook,
    /// The interface of the hook.
    pub ifindex: u32,
    /// The interface through which it came to the host; 0 if the host made it.
    pub ingress_ifindex: u32,
    /// Its mark.
    pub mark: u32,
    /// From the Ethernet header on.
    pub frame: &'a [u8],
}

/// The state of the NAT, and the host that it runs on.
pub struct Model {
    /// The host: networks, uplinks, routes, sockets.
    pub world: World,
    /// Flows and mappings.
    pub flows: Flows,
    fragments: Fragments,
    /// When the host last sent where no socket tells of it: protocol, remote, own endpoint.
    host_flows: HashMap<flow::Key, u64>,
    /// ICMP errors that may still be sent.
    pub icmp_tokens: u64,
    /// Every counter that has moved since it was last taken.
    pub counted: Vec<Counter>,
    /// What has happened that no counter tells of.
    pub tried: Vec<&'static str>,
    /// What is wrong with a choice that the datapath has made.
    objections: Vec<String>,
}

/// A packet on its way through the model.
struct Run<'a> {
    arrival: Arrival<'a>,
    seen: &'a Seen<'a>,
    /// On whose account it goes; 0 while no network is known.
    network: u16,
    mark: u32,
    /// The uplink where a guest's packet has turned round.
    turned_at: Option<u32>,
    /// Of a packet that is about to turn round, and not yet translated: how long it may be.
    turning_mtu: Option<usize>,
    /// Whether it has turned round: nobody is told of what becomes of it then.
    has_turned: bool,
}

impl Run<'_> {
    /// The interface from outside at which the packet is, or could be.
    fn arrived_at(&self) -> u32 {
        self.turned_at.unwrap_or(self.arrival.ifindex)
    }
}

impl Model {
    /// A host without flows.
    #[must_use]
    pub fn new(world: World) -> Self {
        Self {
            world,
            flows: Flows::default(),
            fragments: Fragments::default(),
            host_flows: HashMap::new(),
            icmp_tokens: u64::MAX,
            counted: Vec::new(),
            tried: Vec::new(),
            objections: Vec::new(),
        }
    }

    /// What must become of a frame; `seen` is what became of it, for choices that are free.
    pub fn expect(&mut self, arrival: Arrival<'_>, seen: &Seen<'_>) -> Expected {
        let mark = arrival.mark;
        let mut run = Run {
            arrival,
            seen,
            network: 0,
            mark,
            turned_at: None,
            turning_mtu: None,
            has_turned: false,
        };
        let step = match arrival.hook {
            Hook::BridgeIngress => self.bridge_ingress(&mut run),
            Hook::BridgeEgress => self.bridge_egress(&mut run),
            Hook::UplinkIngress => self.uplink_ingress(&mut run),
            Hook::UplinkEgress => self.uplink_egress(&mut run),
        };
        let done = match step {
            Ok(done) => done,
            Err(Stop::Handover(handover)) => {
                self.count(Counter::Handover(run.network, handover));
                Done::Passed(None)
            }
            Err(Stop::Drop(reason)) => {
                self.count(Counter::Drop(run.network, reason));
                match self.answer(&run, reason) {
                    Some(frame) => Done::Redirected(frame),
                    None => Done::Dropped,
                }
            }
        };
        let objections = std::mem::take(&mut self.objections);
        let (verdict, frame, mark) = match done {
            Done::Passed(frame) => {
                (Verdict::Pass, Some(frame.unwrap_or_else(|| run.arrival.frame.to_vec())), run.mark)
            }
            Done::ThroughStack(frame) => (Verdict::Pass, Some(frame), INBOUND_MARK),
            Done::Redirected(frame) => (Verdict::Redirect, Some(frame), FORWARDED_MARK),
            Done::Dropped => (Verdict::Drop, None, run.mark),
        };
        Expected { verdict, frame, mark, objections }
    }

    fn count(&mut self, counter: Counter) {
        self.counted.push(counter);
    }
}
