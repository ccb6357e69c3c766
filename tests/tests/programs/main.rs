//! The BPF programs one by one: one packet in, and everything that becomes of it.

mod bridge_egress;
mod epoch;
mod exceptions;
mod expiry;
mod fragments;
mod guard;
mod guard_hostile;
mod guard_ipv4;
mod guard_ipv6;
mod guard_learning;
mod guard_neighbour;
mod icmp_errors;
mod inbound;
mod ipv6_epoch;
mod ipv6_errors;
mod ipv6_nat;
mod limits;
mod malformed;
mod modes_bridges;
mod outbound;
mod refused;
mod rejected;
mod rejected_guests;
mod uplink_egress;
mod verifier;
