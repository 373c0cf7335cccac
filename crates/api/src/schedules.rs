//! Schedules.

use crate::Time;
use crate::macros::{documents, operations, queries};

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
    /// A schedule with what it did.
    ScheduleDoc {
        /// Always 1.
        version: u32,
        /// The schedule.
        schedule: ScheduleView,
        /// Newest first.
        history: Vec<ScheduleLineView>,
    }
    /// One schedule.
    ScheduleView {
        /// `AGENT/NAME`.
        name: String,
        /// Whose work it is.
        agent: String,
        /// When it fires, as it was written.
        when: String,
        /// What is to be done; of a workflow, its name.
        task: String,
        /// Whether that starts a workflow.
        workflow: bool,
        /// When the one before is not over.
        overlap: String,
        /// What of the missed ones fires.
        catch_up: String,
        /// Its next instant.
        next_at: Option<Time>,
        /// Instants that fired.
        fired: u64,
        /// Instants at which the one before was in the way.
        skipped: u64,
        /// Instants that passed while nobody looked, and did not fire.
        missed: u64,
        /// The newest task, or the newest run of a workflow.
        last_task: Option<String>,
    }
    /// One instant of a schedule.
    ScheduleLineView {
        /// When it was to fire.
        instant: Time,
        /// When it did.
        at: Time,
        /// What came of it.
        outcome: String,
        /// `TASK-12`.
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
