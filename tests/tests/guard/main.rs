//! The guard and port isolation: what hostile guests send reaches nobody, and honest ones notice
//! nothing.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod appearing;
mod honest;
mod isolation;
mod spoofing;
mod support;
