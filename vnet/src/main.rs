//! The `vnet` command.

fn main() {}
