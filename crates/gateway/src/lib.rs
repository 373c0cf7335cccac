//! The model gateway: every call of every agent, in one visible order.
//!
//! limit → parse → route → reserve → forward → meter → settle
//!
//! A call is reserved on every enclosing budget before it is forwarded, and settled exactly once:
//! with what the provider said, or with all that was reserved when nothing is known. The types
//! hold this: a [`Reserved`] call may be released, a forwarded one ([`InFlight`]) only settled,
//! and one that is dropped settles itself as unknown. Deliberately absent: the task queue; the
//! gateway asks a small [`Meter`].

mod chat;
mod meter;
mod upstream;

pub use chat::{Caller, Gateway, Refusal, Route};
pub use meter::{Hold, InFlight, Meter, MeterRefusal, Reserved, Used};
pub use upstream::{Sender, Upstream};
