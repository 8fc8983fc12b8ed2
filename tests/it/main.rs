//! The programs as their users meet them: started, talked to over real sockets, read from and stopped.

mod arguments;
mod command;
mod connecting;
mod contract;
mod documents;
mod failures;
mod fastpoetry;
mod faults;
mod harness;
mod help;
mod interrupt;
mod library;
mod limits;
mod mistakes;
mod outputs;
mod poetryd;
mod proxy;
mod race;
mod report;
mod rooms;
mod scale;
mod schema;
mod servers;
mod slowpoetry;
mod terminal;
mod transform;
