//! What tests and examples stand on: a scripted model server, a fake backend, a turned clock, and
//! a house in a temporary directory. Never shipped.

pub mod conformance;
pub mod fake;
pub mod hostd;
pub mod house;
pub mod model;
pub mod outside;
