//! What really arrived at each place, whether anybody listened or not.

use std::net::IpAddr;
use std::time::Duration;

use etherparse::TransportSlice;
use vnet::matrix::probe::Protocol;

use super::{Kind, Place};
use crate::lab::{Capture, CapturedPacket, Error, Result};

/// Captures at every place that has one interface only: guests and outside hosts.
#[derive(Debug)]
pub struct Arrivals {
    captures: Vec<(String, Capture)>,
}

/// The packets of a finished run.
#[derive(Debug)]
pub struct Arrived {
    packets: Vec<(String, Vec<CapturedPacket>)>,
}

impl Arrivals {
    /// Starts the captures.
    pub fn start(places: &[Place]) -> Result<Self> {
        let own = places.iter().filter(|place| place.name != "host");
        let captures = own
            .map(|place| Ok((place.name.clone(), place.capture("")?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { captures })
    }

    /// Waits until an unsolicited packet has arrived at a place.
    pub fn wait_for(&self, place: &str, kind: Kind, port: u16) -> Result<()> {
        self.wait_until(place, |packet| kind.is(packet, port))
    }

    /// Waits until a packet with this text anywhere in it has arrived at a place.
    pub fn wait_for_text(&self, place: &str, text: &[u8]) -> Result<()> {
        self.wait_until(place, |packet| has_text(packet, text))
    }

    fn wait_until(&self, place: &str, wanted: impl Fn(&CapturedPacket) -> bool) -> Result<()> {
        const DEADLINE: Duration = Duration::from_secs(10);
        let of = self.captures.iter().find(|(name, _)| name == place);
        let (_, capture) = of.ok_or_else(|| Error::unexpected("captures", place))?;
        capture.wait_for(|packet| !packet.outgoing && wanted(packet), DEADLINE).map(drop)
    }

    /// Ends them.
    pub fn finish(self) -> Result<Arrived> {
        let packets = self
            .captures
            .into_iter()
            .map(|(name, capture)| {
                let mut packets = capture.finish()?;
                packets.retain(|packet| !packet.outgoing);
                Ok((name, packets))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Arrived { packets })
    }
}

impl Arrived {
    /// The first packet of a connection to a port that arrived at a place.
    #[must_use]
    pub fn opening(
        &self,
        place: &str,
        protocol: Protocol,
        destination: IpAddr,
        port: u16,
    ) -> Option<&CapturedPacket> {
        self.at(place).find(|packet| {
            packet.destination() == Some(destination)
                && packet.ports().is_some_and(|(_, to)| to == port)
                && is_opening(packet, protocol)
        })
    }

    /// The unsolicited packets of a kind that arrived at a place with this number.
    pub fn unsolicited<'a>(
        &'a self,
        place: &str,
        kind: Kind,
        port: u16,
    ) -> impl Iterator<Item = &'a CapturedPacket> {
        self.at(place).filter(move |packet| kind.is(packet, port))
    }

    /// The packets that arrived at a place with this text anywhere in them.
    pub fn with_text<'a>(
        &'a self,
        place: &str,
        text: &'a [u8],
    ) -> impl Iterator<Item = &'a CapturedPacket> {
        self.at(place).filter(move |packet| has_text(packet, text))
    }

    /// Every packet that arrived at a place.
    pub fn at(&self, place: &str) -> impl Iterator<Item = &CapturedPacket> {
        let of = self.packets.iter().find(|(name, _)| name == place);
        of.into_iter().flat_map(|(_, packets)| packets)
    }
}

fn is_opening(packet: &CapturedPacket, protocol: Protocol) -> bool {
    let transport = packet.layers().and_then(|layers| layers.transport);
    match (protocol, transport) {
        (Protocol::Tcp, Some(TransportSlice::Tcp(tcp))) => tcp.syn() && !tcp.ack(),
        (Protocol::Udp, Some(TransportSlice::Udp(udp))) => udp.payload().starts_with(b"vnet"),
        _ => false,
    }
}

fn has_text(packet: &CapturedPacket, text: &[u8]) -> bool {
    packet.data.windows(text.len()).any(|window| window == text)
}
