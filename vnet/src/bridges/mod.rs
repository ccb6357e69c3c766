//! Bridges that definitions name and the host does not have (`--create-bridges`).
//!
//! [`plan()`], [`outlook()`] for checks before anything is changed, and [`apply()`]; at the end, and
//! when networks have gone, [`plan_removal`]. A bridge is ours if its alias says so (`ip -d link`):
//! that outlives the daemon, and what somebody else has made is never changed nor removed. Neither is
//! a bridge that has ports: they are guests', who would lose their network for good.

mod apply;
mod describe;
mod outlook;
mod owner;
mod plan;
mod removal;
#[cfg(test)]
mod tests;

pub use apply::{BridgeError, apply, undo};
pub use outlook::outlook;
pub use owner::Owner;
pub use plan::{Bridge, Step, plan};
pub use removal::{Kept, Removal, Removed, of_owner, plan_removal, remove_if_unused};
