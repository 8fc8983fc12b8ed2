//! What a caching proxy needs besides sockets: when a value is fresh ([`freshness`]), one fetch for everybody who asks
//! while it is under way ([`flight`]), how long one of them may hold up the others ([`patience`]), one bound for all
//! that is held ([`memory`]), and a store of many values ([`shelf`]); and what a cache needs that is told when a value has
//! changed ([`coherent`]).

pub mod coherent;
pub mod flight;
pub mod freshness;
pub mod memory;
pub mod patience;
pub mod shelf;
