//! Shared by tests and examples: a scripted model server, a fake backend, and a house in a
//! temporary directory with its command line, APIs and crash points. Never shipped.

pub mod args;
pub mod conformance;
pub mod container;
pub mod crash;
pub mod emulated;
pub mod fake;
pub mod fleet;
pub mod hostd;
pub mod house;
pub mod http;
pub mod model;
pub mod outside;
pub mod scripted;
pub mod simulate;
pub mod terminal;
pub mod turned_clock;
