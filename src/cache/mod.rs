//! What a caching proxy needs besides sockets: when a value is fresh ([`freshness`]), one fetch for everybody who asks
//! while it is under way ([`flight`]), how long one of them may hold up the others ([`patience`]), and one bound for all
//! that is held ([`memory`]).

pub mod flight;
pub mod freshness;
pub mod memory;
pub mod patience;
