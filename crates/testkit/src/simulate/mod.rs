//! Weeks of a house in seconds: the real control plane on turned clocks, with fake cells, a fake provider, and everything
//! that goes wrong in a house, from a seed.
//!
//! [`simulate`] draws events from the seed and makes them happen through the two APIs: bursts of tasks, budgets that run
//! out, outages of the provider, kills of the control plane, a host that sleeps, clocks that are set, a full disk, edits of
//! the manifest, approvals and results that come late or never, repeated deliveries of hooks. After each of them it
//! compares the state with what it knows. Afterwards everything comes back, and all work must end. The same seed gives the
//! same [`Report::trace`].

mod clock;
mod disk;
mod disk_space;
mod events;
mod host;
mod household;
mod invariants;
mod night;
mod options;
mod provider;
mod random;
mod workers;
mod world;

pub use night::{simulate_full_disk, simulate_night};
pub use options::{Fault, Options, Report};

use world::World;

/// Simulates a house.
///
/// # Errors
/// When the simulation itself cannot go on, such as without a temporary directory.
pub fn simulate(options: Options) -> Result<Report, String> {
    let mut world = World::new(options)?;
    let end = i64::from(options.days) * 86_400_000;
    world.run_until(end);
    world.drain();
    Ok(world.report())
}
