//! What is simulated, and what came of it.

/// A fault that a simulation plants between the house and its host, to show that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The ends of waits and leases wake nobody any more after twelve minutes.
    MissingWakeup,
    /// The fifth model call is never settled.
    LostRelease,
    /// The clock sees midnight a minute early.
    EarlyMidnight,
}

impl Fault {
    /// Every fault with its name.
    pub const ALL: [(&'static str, Fault); 3] = [
        ("missing-wakeup", Fault::MissingWakeup),
        ("lost-release", Fault::LostRelease),
        ("early-midnight", Fault::EarlyMidnight),
    ];
}

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Seed of everything that is random.
    pub seed: u64,
    /// Simulated days.
    pub days: u32,
    /// A planted fault.
    pub fault: Option<Fault>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Seed.
    pub seed: u64,
    /// Simulated days, without those until everything had ended.
    pub days: u32,
    /// Events from the seed.
    pub events: u64,
    /// Invariants that were checked.
    pub checks: u64,
    /// What was violated, with the instant; empty if all is well.
    pub violations: Vec<String>,
    /// Tasks by their state at the end.
    pub done: u64,
    /// Tasks that failed, timed out or were cancelled.
    pub not_done: u64,
    /// Tasks that waited for a budget, a provider, an agent or an approval.
    pub waited: u64,
    /// Digest of everything that happened, in its order.
    pub trace: String,
    /// What happened last, to read after a violation.
    pub last: Vec<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {}: {} days, {} events, {} invariants checked, {} violations; tasks: {} done, {} not done, {} waited; trace {}",
            self.seed,
            self.days,
            self.events,
            self.checks,
            self.violations.len(),
            self.done,
            self.not_done,
            self.waited,
            &self.trace[..self.trace.len().min(16)],
        )
    }
}
