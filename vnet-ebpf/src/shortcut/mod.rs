//! Short ways past the bridge, for packets of flows that the long way has judged.
//!
//! A packet that does not take one goes on as it came, and nothing is counted. Once a second a flow's packet
//! has to go the long way: so the bridge keeps what it has learned, the kernel its neighbours, and the ways are
//! found anew ([`way`]).

mod bridged;
mod frame;
mod ip;
mod maps;
pub mod path;
mod port;
mod station;
mod uplink;
pub mod way;

pub use bridged::forward as at_bridged;
pub use frame::Frame;
pub use port::vnet_take_short_way as from_guest;
pub use uplink::forward as at_uplink;
