//! The model gateway: every model call of every agent passes one stack of steps.
//!
//! limits → key → policy → reserve → forward → stream → meter → settle
//!
//! [`Gateway::serve`] in `stack.rs` is that order, readable from top to bottom. What differs between installations or
//! providers is behind an interface:
//!
//! | interface | answers |
//! |---|---|
//! | [`Protocol`] | how a request, an answer, a stream, usage and an error look on the wire |
//! | [`Router`] | which provider and model serve a call, in order of preference |
//! | [`Providers`] | where a provider is, and what its tokens cost |
//! | [`Credentials`] | how a call to a provider is authorized |
//! | [`ProviderHealth`] | whether a provider is tried, and how its calls ended |
//! | [`Meter`] | whether the budgets allow a call, and what it cost |
//!
//! A call is reserved on every enclosing budget before it is forwarded, and settled exactly once: with the usage that
//! the provider reported, or with the whole reservation when nothing was reported. The types enforce this: a
//! [`Reserved`] call is released when it is dropped, a forwarded one ([`InFlight`]) is charged in full.
//! Deliberately absent: the task queue, the manifest and the ledger; the gateway reaches them by these interfaces.

mod future;
mod meter;
pub mod protocol;
mod provider;
mod refusal;
mod route;
mod stack;
mod usage;
pub mod words;

pub use future::BoxFuture;
pub use meter::{
    InFlight, Meter, ReservationRefused, ReservationRequest, Reserved, Settlement, TokenRoom,
};
pub use protocol::{Demand, Limits, ModelCall, Protocol, Reading, StreamReader, UpstreamRequest};
pub use provider::{
    Authorization, CallEnd, CallOutcome, Credentials, OutcomeCounts, Prices, Provider,
    ProviderHealth, Providers, RetryAfter,
};
pub use refusal::Refusal;
pub use route::{Caller, Router, Target};
pub use stack::{Gateway, GatewayParts};
pub use usage::{Usage, UsageSource};
