//! What a caching proxy needs besides sockets: when a value is fresh ([`freshness`]), and one fetch for everybody who
//! asks while it is under way ([`flight`]).

pub mod flight;
pub mod freshness;
