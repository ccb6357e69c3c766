//! What else is on a host: `vnet doctor` names it, and a start or an apply refuses it or warns of it; and the
//! commands that both name, run as they stand.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod refused;
mod rules;
mod stack;
mod support;
mod warned;
