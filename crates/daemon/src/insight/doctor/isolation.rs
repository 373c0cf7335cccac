//! Check of isolation by attempt: each agent that is up tries to read files of others, which must
//! fail (S2-29).

use super::checks::Checks;
use crate::cells::exec;
use crate::core::error::Result;
use crate::work::state::WorkState;
use abbey_api::CheckSeverity;
use abbey_model::{CellName, Observed, Slug};
use abbey_plan::HostFacts;
use std::sync::Arc;
use std::time::Duration;

/// Most agents that are checked.
const TRIED_MAX: usize = 32;
/// Longest check of one agent.
const WITHIN: Duration = Duration::from_secs(5);
/// Status of a program that was ended because its time was over.
const TIMED_OUT: i32 = 124;
/// Shell script that prints each of its arguments that it could read to standard error.
const PROBE: &str =
    "for p in \"$@\"; do if head -c 1 \"$p\" >/dev/null 2>&1; then echo \"$p\" >&2; fi; done";

/// Adds a check for each running agent that it can read neither other agents' files nor the control
/// plane's.
pub(super) async fn check_isolation(
    work: &Arc<WorkState>,
    facts: &HostFacts,
    checks: &mut Checks,
) -> Result<()> {
    let Some(current) = work.core.plan.current() else {
        return Ok(());
    };
    let up = |slug: &&Slug| {
        let record = work.cells.backend.record(&CellName::Agent((*slug).clone()));
        let record = record.ok().flatten();
        record.is_some_and(|r| r.child.as_ref().is_some_and(abbey_cells::is_alive))
    };
    let isolates = |slug: &Slug| {
        let agent = current.house.agents.get(slug);
        agent.is_some_and(|a| a.cell.isolates())
    };
    let seen = work.cells.observations.snapshot();
    let is_paused = |slug: &Slug| {
        let seen = seen.get(&CellName::Agent(slug.clone()));
        seen.is_some_and(|s| matches!(s.observed, Observed::Running { paused: true, .. }))
    };
    for slug in current.house.agents.keys().filter(up).take(TRIED_MAX) {
        // Its programs stand still, and so would the one of the check.
        if is_paused(slug) {
            checks.add(
                &format!("isolation.{slug}"),
                true,
                CheckSeverity::Info,
                format!("skipped: agent {slug} is paused"),
                "",
            );
            continue;
        }
        let others = current.house.agents.keys().filter(|o| *o != slug);
        let theirs = others.flat_map(|other| {
            let dir = work.core.home.agent_dir(other.as_str());
            [
                dir.join("home/token"),
                dir.join("key"),
                dir.join("workspace/MEMORY.md"),
            ]
        });
        let ours = [
            work.core.home.operator_token_file(),
            work.core.home.database_file(),
        ];
        let mut argv = ["sh", "-c", PROBE, "sh"].map(str::to_owned).to_vec();
        argv.extend(theirs.chain(ours).map(|p| p.display().to_string()));
        let (good, text) = match exec::run_to_end(&work.cells, slug, argv, WITHIN).await {
            Ok((0, read)) if read.trim().is_empty() && !isolates(slug) => (
                true,
                format!(
                    "agent {slug} can read no other agent's files and none of the house's secrets; its process cell is not isolated from the rest of the host"
                ),
            ),
            Ok((0, read)) if read.trim().is_empty() => {
                (true, format!("agent {slug} can read only its own files"))
            }
            Ok((0, read)) => {
                let first = read.lines().next().unwrap_or_default();
                let count = read.lines().count();
                (
                    false,
                    format!(
                        "agent {slug} can read {count} files of other owners, such as `{first}`"
                    ),
                )
            }
            // A busy host is no broken isolation.
            Ok((TIMED_OUT, _)) => {
                checks.unfinished(&format!("isolation.{slug}"));
                continue;
            }
            // Neither is an agent that has used up its processes or its memory.
            Ok((code, said)) => {
                let why = format!("status {code}: {}", said.trim());
                add_not_run(checks, slug, &why);
                continue;
            }
            Err(error) => {
                add_not_run(checks, slug, &error.chain());
                continue;
            }
        };
        // Missing isolation is only a warning where none was configured.
        let promised = facts.uid_first.is_some()
            || current
                .house
                .agents
                .get(slug)
                .is_some_and(|a| a.cell.isolates());
        checks.add(
            &format!("isolation.{slug}"),
            good,
            if promised { CheckSeverity::Fail } else { CheckSeverity::Warn },
            text,
            "use `cell: sandbox`, or run the house as root, so that each agent has a user of its own",
        );
    }
    Ok(())
}

/// Adds that the check could not be run in an agent, which says nothing about its isolation.
fn add_not_run(checks: &mut Checks, slug: &Slug, why: &str) {
    checks.add(
        &format!("isolation.{slug}"),
        false,
        CheckSeverity::Warn,
        format!("whether {slug} is isolated could not be checked, as no program could be run in it: {why}"),
        &format!(
            "it may have used up its processes or its memory: `abbey logs {slug}` shows its output, and `abbey restart {slug}` ends what runs in it"
        ),
    );
}
