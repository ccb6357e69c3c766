//! Who may talk to whom: what the policy says of the networks, and what real probes find.

pub mod probe;
