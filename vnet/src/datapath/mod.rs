//! The BPF side as userspace holds it: load, fill, attach, sweep.

mod attach;
mod counters;
mod departures;
mod error;
mod grace;
mod guard;
mod inherited;
mod kernel_log;
mod load;
mod migration;
mod places;
mod query;
mod running;
mod session_memory;
mod shortcut;
mod sweep;
mod tables;
mod xdp;

pub use attach::{
    AttachMode, Attachment, Direction, Hook, HookSpec, Mechanism, link_pins, pinned_links,
    release_link,
};
pub use departures::LearnedAddress;
pub use error::DatapathError;
pub use kernel_log::{KernelLog, TARGET as KERNEL_LOG_TARGET};
pub use load::{Datapath, LoadOptions, flow_limit_of};
pub use migration::{Migration, open_flows};
pub use places::{finish_migration, is_migrating, layout_of, present_maps};
pub(crate) use query::programs_at;
pub use running::{FormerProgram, name_of, programs_of};
pub use sweep::Sweep;
pub use xdp::TAKEN as XDP_IS_TAKEN;
