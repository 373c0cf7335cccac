//! The native runtime's way of doing one task: by a skill's program, by the files in `work/`, or by a model with tools.

mod captured;
mod claims;
mod completion;
mod documents;
mod memory;
mod model_run;
mod model_turn;
mod parts;
mod prompt;
mod recall;
mod session;
mod skill_approval;
mod skill_files;
mod skill_run;
mod skill_tools;
mod tool_calls;
mod tool_servers;
mod tools;
mod wall_clock;
mod work_files;
mod workspace;

pub(crate) use captured::run_captured;
pub use memory::use_memory;
pub(crate) use session::{Session, newest_files, read_end};
pub use skill_tools::{SkillProgram, open_skill_program};
pub(crate) use work_files::archive_result;

use crate::runtime::driver::{Assignment, Events, TurnEnd};
use abbey_model::{EndReason, ToolPolicy};
use serde_json::Value;
use std::time::Duration;
use wall_clock::WallClock;

/// What every step of one run works with.
struct RunContext<'a> {
    assignment: &'a Assignment,
    events: &'a Events,
    policy: ToolPolicy,
    session: &'a mut Session,
    clock: &'a WallClock,
}

impl RunContext<'_> {
    /// Fields that the author of the task expects and that `data` does not have.
    fn missing_fields(&self, data: &Value) -> Vec<String> {
        let expected = self.assignment.offer.expects.iter();
        expected
            .filter(|f| data.get(f.as_str()).is_none_or(Value::is_null))
            .cloned()
            .collect()
    }
}

/// Performs a task within its tool policy and time limit: runs the matched skill's program without
/// a model, or waits for a result file, or lets a model work on it; returns how the turn ended.
pub(crate) async fn perform_task(
    assignment: &Assignment,
    events: &Events,
    session: &mut Session,
) -> TurnEnd {
    let offer = &assignment.offer;
    let policy: ToolPolicy = match serde_json::from_value(offer.policy.clone()) {
        Ok(policy) => policy,
        Err(e) => {
            return TurnEnd::Failed {
                reason: EndReason::AgentError,
                text: format!("the task's tool policy cannot be read: {e}"),
            };
        }
    };
    let wall = Duration::from_millis(policy.wall_ms_max.max(1000).unsigned_abs());
    let clock = WallClock::start(wall);
    let mut context = RunContext {
        assignment,
        events,
        policy,
        session,
        clock: &clock,
    };
    let work = async {
        match (&offer.skill, &offer.files) {
            (Some(skill), _) => skill_run::run_skill(&mut context, skill).await,
            (None, Some(command)) => {
                let output_max = context.policy.output_bytes_max;
                work_files::perform_by_files(assignment, command, output_max).await
            }
            (None, None) => model_run::work_with_model(&mut context).await,
        }
    };
    tokio::select! {
        biased;
        end = work => end,
        () = clock.run_out() => TurnEnd::Failed {
            reason: EndReason::WallTime,
            text: format!("the run took longer than {wall:?}"),
        },
    }
}
