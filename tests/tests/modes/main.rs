//! Networks of every mode, both families, and what passes between them.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod every_pair;
mod support;
