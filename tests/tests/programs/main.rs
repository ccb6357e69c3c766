//! The BPF programs one by one: one packet in, and everything that becomes of it.

mod bridge_egress;
mod epoch;
mod expiry;
mod fragments;
mod icmp_errors;
mod inbound;
mod limits;
mod malformed;
mod outbound;
mod refused;
mod uplink_egress;
mod verifier;
