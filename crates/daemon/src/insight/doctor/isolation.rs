//! Isolation, proved by trying: each agent that is up reads what is not its own, and must fail (S2-29).

use super::checks::Checks;
use crate::cells::exec;
use crate::core::error::Result;
use crate::work::state::WorkState;
use abbey_api::CheckSeverity;
use abbey_model::{CellName, Slug};
use abbey_plan::HostFacts;
use std::sync::Arc;
use std::time::Duration;

/// Agents that are tried in one look.
const TRIED_MAX: usize = 32;
/// Longest try of one agent.
const WITHIN: Duration = Duration::from_secs(20);
/// What an agent runs: it names what it could read, where the house reads it.
const PROBE: &str =
    "for p in \"$@\"; do if head -c 1 \"$p\" >/dev/null 2>&1; then echo \"$p\" >&2; fi; done";

/// Tries every agent that is up.
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
    for slug in current.house.agents.keys().filter(up).take(TRIED_MAX) {
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
            Ok((0, read)) if read.trim().is_empty() => {
                (true, format!("{slug} reads nothing that is not its own"))
            }
            Ok((0, read)) => {
                let first = read.lines().next().unwrap_or_default();
                let count = read.lines().count();
                (
                    false,
                    format!("{slug} can read {count} things that are not its own, `{first}` first"),
                )
            }
            Ok((code, said)) => (
                false,
                format!("it could not be tried in {slug} ({code}): {}", said.trim()),
            ),
            Err(error) => (
                false,
                format!("it could not be tried in {slug}: {}", error.chain()),
            ),
        };
        // Where no wall was promised, none is missed.
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
