//! The BPF side as userspace holds it: load, fill, attach, sweep.

mod attach;
mod error;
mod load;
mod sweep;
mod tables;

pub use attach::{AttachMode, Direction, Hook, HookSpec, Mechanism};
pub use error::DatapathError;
pub use load::{Datapath, LoadOptions};
