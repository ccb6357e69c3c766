//! What guests, the host and the outside see of each other through a running `vnet`.

mod bulk;
mod exceptions;
mod following;
mod inbound;
mod networks;
mod services;
mod support;
mod traffic;
