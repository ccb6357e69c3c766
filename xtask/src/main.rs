//! `cargo xtask`: everything that a developer of vnet or its CI runs.

fn main() {}
