//! The lab: hosts, guests and wires in private network namespaces.
