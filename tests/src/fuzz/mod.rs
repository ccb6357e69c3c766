//! The differential fuzzer: the same packets to the real programs and to the [`crate::model`].
//!
//! A sequence of [`Step`]s is data: it says packets by what they are (a reply to the mapping of that
//! inside endpoint) rather than by bytes, so that it still means something when steps are left out of
//! it, or when the datapath draws another port. One step is a line of JSON; so are regression tests.
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
pub use step::{Body, Damage, End, Interface, Sent, Spec, Step};
