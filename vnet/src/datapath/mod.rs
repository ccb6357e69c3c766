//! The BPF side as userspace holds it: load, fill, attach, sweep.

mod attach;
mod departures;
mod error;
mod guard;
mod kernel_log;
mod load;
mod sweep;
mod tables;

pub use attach::{AttachMode, Attachment, Direction, Hook, HookSpec, Mechanism};
pub use departures::LearnedAddress;
pub use error::DatapathError;
pub use kernel_log::{KernelLog, TARGET as KERNEL_LOG_TARGET};
pub use load::{Datapath, LoadOptions};
pub use sweep::Sweep;
