//! What a task waits for.

use crate::Timestamp;
use crate::words::words;
use serde::{Deserialize, Serialize};

words! {
    /// Kind of thing that a task waits for.
    WaitKind {
        /// A budget has too little left. It ends at the reset of the budget, or when it is raised.
        Budget = "budget",
        /// A model provider is unreachable, fails, or asked for time.
        Provider = "provider",
        /// An approval is pending.
        Approval = "approval",
        /// A person or thing outside must act first.
        Blocked = "blocked",
        /// An eligible agent, skill or model is missing.
        Agent = "agent",
        /// An agent to which the task is offered has yet to claim it.
        Claim = "claim",
        /// The pause before the next attempt.
        Retry = "retry",
        /// The run waits for one of its subtasks.
        Subtask = "subtask",
    }
}

words! {
    /// Way in which a provider failed.
    ProviderFailure {
        /// No connection could be made.
        Unreachable = "unreachable",
        /// A call was sent and not answered.
        NoAnswer = "no_answer",
        /// It answered with a status of 500 or more.
        ServerError = "server_error",
        /// It answered that there were too many calls (429).
        RateLimited = "rate_limited",
        /// It refused the credential (401, 403).
        CredentialRefused = "credential_refused",
        /// It asked for a payment (402).
        PaymentRequired = "payment_required",
        /// It answered that the request took too long (408).
        TimedOut = "timed_out",
    }
}

words! {
    /// Key of a request that some providers refuse, and that a call can do without.
    RefusedKey {
        /// The limit of the output; newer models want `max_completion_tokens` in its place.
        MaxTokens = "max_tokens",
        /// Options of a stream; without them its usage may be missing.
        StreamOptions = "stream_options",
    }
}

impl ProviderFailure {
    /// Whether a call that failed so cost nothing, and may be repeated as often as need be.
    pub const fn is_free(self) -> bool {
        !matches!(self, ProviderFailure::NoAnswer)
    }
}

/// A wait of a task that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastWait {
    /// Kind of thing that it waited for.
    pub kind: WaitKind,
    /// Its name, as in [`WaitingFor`].
    pub name: String,
    /// Instant at which the wait began.
    pub since: Timestamp,
    /// Instant at which it ended.
    pub ended: Timestamp,
}

/// What a task waits for, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingFor {
    /// Kind of thing.
    pub kind: WaitKind,
    /// Its name: the scope of a budget, a provider, the number of an approval or of a subtask, agents; empty when there is none.
    pub name: String,
    /// First instant at which the wait can be over; none when only an event ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl WaitingFor {
    /// Key by which tasks that wait for the same thing are found; the instant is no part of it.
    pub fn key(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}
