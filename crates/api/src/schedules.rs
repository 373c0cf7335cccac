//! Schedules.

use crate::macros::{documents, operations, queries};
use crate::time::Time;

documents! {
    /// `abbey schedule list`.
    SchedulesDoc {
        /// Always 1.
        version: u32,
        /// Every schedule of the house.
        schedules: Vec<ScheduleView>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// A schedule with its history.
    ScheduleDoc {
        /// Always 1.
        version: u32,
        /// The schedule.
        schedule: ScheduleView,
        /// Instants that were handled, newest first.
        history: Vec<ScheduleLineView>,
    }
    /// A schedule and its counts.
    ScheduleView {
        /// `AGENT/NAME`.
        name: String,
        /// Agent whose work it is.
        agent: String,
        /// When it fires, as the manifest writes it.
        when: String,
        /// What is to be done, or the name of a workflow.
        task: String,
        /// Whether it starts a workflow.
        workflow: bool,
        /// What happens when the run before is not over: `skip`, `queue` or `replace`.
        overlap: String,
        /// Which missed instants fire: `skip`, `once` or `all`.
        catch_up: String,
        /// Next instant.
        next_at: Option<Time>,
        /// Instants that fired.
        fired: u64,
        /// Instants that were skipped, as the run before was not over.
        skipped: u64,
        /// Instants that passed while the house was down, and did not fire.
        missed: u64,
        /// Newest task, or newest run of a workflow.
        last_task: Option<String>,
    }
    /// An instant of a schedule.
    ScheduleLineView {
        /// When it was due.
        instant: Time,
        /// When it was handled.
        at: Time,
        /// What happened.
        outcome: String,
        /// Task that it added, as `TASK-12`.
        task: Option<String>,
    }
}

queries! {
    /// Which schedules to list.
    SchedulesQuery {
        /// Most rows of one page.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
        /// `cursor` of the page before.
        cursor: Option<String>,
    }
}

operations! {
    /// Schedules: `client.schedules()`.
    SchedulesClient {
        /// Every schedule.
        GET "/api/v1/schedules" list() [query SchedulesQuery] -> json(SchedulesDoc);
        /// One schedule with its history.
        GET "/api/v1/schedules/{agent}/{name}" show(agent, name) -> json(ScheduleDoc);
        /// Fires it now, in addition to its own instants.
        POST "/api/v1/schedules/{agent}/{name}/run" fire(agent, name) -> json(ScheduleDoc);
    }
}
