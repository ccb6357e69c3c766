//! `vnet apply`, and a datapath that outlives who made it.

mod changes;
mod coming;
mod killed;
mod refused;
mod support;
mod take_over;
mod trial;
mod under_load;
mod upgrade;
