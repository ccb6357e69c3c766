//! Who may talk to whom: what the policy says of the networks, and what real probes find.

pub mod json;
pub mod measure;
pub mod policy;
pub mod probe;
pub mod text;

pub use measure::{Comparison, Target, TargetError, measure};
pub use policy::Matrix;

#[cfg(test)]
mod tests;
