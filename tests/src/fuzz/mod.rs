//! The differential fuzzer: the same packets to the real programs and to the [`crate::model`].
//!
//! A sequence of [`Step`]s is data: it says packets by what they are (a reply to the mapping of that
//! inside endpoint) rather than by bytes, so that it still means something when steps are left out of
//! it, or when the datapath draws another port. One step is a line of JSON; so are regression tests.
//!
//! Not in the sequences, and so left to tests of their own: forwards that go, guests that depart, limits
//! on new flows per second, uplinks without a link-layer header, segmentation offload, several CPUs at
//! once (`races.rs` of the tests of programs). What comes again by `bpf_clone_redirect` goes to the stack
//! of the rig's namespace: that it does is compared, the fragments' second run is not.
#![expect(clippy::expect_used, reason = "as in `programs`")]

mod campaign;
mod compare;
mod generate;
mod pair;
mod report;
mod rng;
mod shrink;
mod step;
mod wire;

pub use campaign::{Campaign, Until, replay};
pub use pair::{Difference, Pair, with_pair};
pub use rng::Rng;
pub use step::{Body, Damage, End, Interface, Sent, Spec, Step};
