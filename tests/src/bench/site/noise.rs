//! Traffic of another guest.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use vnet_common::{family::Family, generator::Stream};

use super::{
    BRIDGE, Base, Flows, Way, mac,
    stream::{self, End},
    threads::{FORWARDS, Receiver},
    wire::{Load, Wire},
};
use crate::lab::Guest;

const ADDRESS: &str = "10.64.0.20";
const REMOTE: &str = "198.18.0.0";

/// A guest that sends small packets outside, where the stack drops them.
pub(in crate::bench) struct Noise {
    wire: Wire,
    stream: Stream,
    _receiver: Receiver,
}

impl Noise {
    /// Plugs it in.
    pub fn beside(base: &mut Base) -> Result<Self> {
        let guest = Guest::veth("noise").address(&format!("{ADDRESS}/16"));
        let guest = base.lab.guest(&base.host, BRIDGE, &guest)?;
        let port = base.host.port_of("noise").context("the guest has no port")?;
        let receiver = Receiver::of(&base.host, &port, FORWARDS)?;
        let (macs, wire) =
            ((mac(&guest, "eth0")?, mac(&base.host, BRIDGE)?), Wire::sender(&guest, Family::Ipv4)?);
        let from = End { mac: &macs.0, address: ADDRESS };
        let to = End { mac: &macs.1, address: REMOTE };
        let stream = stream::stream(Way::Out, from, to, Flows::of_one_guest(256))?;
        Ok(Self { wire, stream, _receiver: receiver })
    }

    /// Does something while it sends so many packets in a second.
    pub fn beside_traffic<T: Send>(
        &mut self,
        per_second: f64,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        const BEFORE: Duration = Duration::from_millis(100);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a few million"
        )]
        let per_second = per_second as u32;
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            let sender = scope.spawn(|| -> Result<()> {
                while !ends.load(Ordering::Relaxed) {
                    self.wire.send(&self.stream, Load::paced(per_second / 20, per_second))?;
                }
                Ok(())
            });
            thread::sleep(BEFORE);
            let result = work();
            ends.store(true, Ordering::Relaxed);
            sender.join().ok().context("the sender has panicked")??;
            result
        })
    }
}
