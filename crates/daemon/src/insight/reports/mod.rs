//! Reports in three parts: observations, interpretation, and notes for the operator (S4-31, S2-30).
//! Each is a pure function of probes and rows; a failed probe leaves its part empty, and the report
//! says so. Texts are rendered last, in the reader's language (S1-22).

mod day;
mod history;
mod metrics;
mod report;
mod route;
mod skill_costs;
mod state;

pub(crate) use route::report_for_question;

use crate::core::error::Result;
use crate::insight::{cell_views, disks, doctor};
use crate::work::state::WorkState;
use abbey_api::{FindingKind, Problem, ReportDoc};
use abbey_model::{CellName, FaultKind, Millis, Timestamp};
use abbey_store::{AuditEntry, TaskFilter, TaskRow};
use abbey_words::{Language, Text};
use report::Report;
use std::sync::Arc;

/// Every report with the text id of its description.
pub(crate) const NAMES: [(&str, &str); 9] = [
    ("status", "about-status"),
    ("disk", "about-disk"),
    ("budget", "about-budget"),
    ("tokens", "about-tokens"),
    ("policy", "about-policy"),
    ("tests", "about-tests"),
    ("progress", "about-progress"),
    ("skills", "about-skills"),
    ("metrics", "about-metrics"),
];
/// Period of `progress`, `tokens`, `tests` and `metrics`.
const WINDOW: Millis = Millis::from_secs(86_400);
/// Period of `skills`.
const WEEK: Millis = Millis::from_secs(7 * 86_400);
/// Most tasks, and entries of one page, that are read.
const LOOK_MAX: u32 = 1000;
/// Most pages of audit log entries that are read.
const PAGES_MAX: usize = 100;

/// Renders a report as Markdown text, in the language of the report.
pub fn render_as_text(report: &ReportDoc) -> String {
    use std::fmt::Write as _;
    let language = Language::from_tag(&report.language).unwrap_or_default();
    let part = |id| language.render(&Text::new(id));
    let head = Text::new("report-at")
        .with("name", &report.name)
        .with("at", report.at.to_string());
    let mut text = format!(
        "# {}\n\n## {}\n\n",
        language.render(&head),
        part("part-observed")
    );
    for line in &report.observed {
        let _to_a_string = writeln!(text, "- {}: {}", line.label, line.value);
    }
    for (id, findings) in [
        ("part-interpretation", &report.interpretation),
        ("part-notes", &report.notes),
    ] {
        let _to_a_string = write!(text, "\n## {}\n\n", part(id));
        for finding in findings {
            let kind = match finding.kind {
                FindingKind::Info => "kind-info",
                FindingKind::Warn => "kind-warn",
                FindingKind::Error => "kind-error",
                FindingKind::Action => "kind-action",
                FindingKind::Note => "kind-note",
            };
            let _to_a_string = writeln!(text, "- {}: {}", part(kind), finding.text);
        }
    }
    text
}

/// Audit log entries since an instant, oldest first.
async fn entries_since(work: &WorkState, since: Timestamp) -> Result<Vec<AuditEntry>> {
    let mut all: Vec<AuditEntry> = Vec::new();
    let mut before = work.core.store.audit_head();
    for _ in 0..PAGES_MAX {
        let after = before.saturating_sub(u64::from(LOOK_MAX));
        let page = work.core.store.audit_entries(after, LOOK_MAX).await?;
        let page: Vec<AuditEntry> = page.into_iter().filter(|e| e.seq <= before).collect();
        let reached = page.first().is_none_or(|e| e.at < since);
        let fresh = page.into_iter().filter(|e| e.at >= since);
        all.splice(0..0, fresh);
        if reached || after == 0 {
            break;
        }
        before = after;
    }
    Ok(all)
}

async fn newest_tasks(work: &WorkState) -> Result<Vec<TaskRow>> {
    let filter = TaskFilter {
        limit: LOOK_MAX,
        ..TaskFilter::default()
    };
    Ok(work.core.store.tasks(filter).await?)
}

/// Makes the report with this name in this language.
///
/// # Errors
/// `NotFound` for an unknown report, with the list of names.
pub(crate) async fn make_report(
    work: &Arc<WorkState>,
    name: &str,
    language: Language,
) -> Result<ReportDoc> {
    let now = work.core.store.now();
    let since = now + Millis(-WINDOW.0);
    let report = match name {
        "status" => state::status_report(
            &cell_views::fleet_doc(work).await?,
            &cell_views::services_doc(work).await?.services,
            &newest_tasks(work).await?,
            &crate::work::workflows::recent_incidents(work).await?,
            &disks::list_disks(work.core.home.root()),
        ),
        "disk" => state::disk_report(&disks::list_disks(work.core.home.root())),
        "budget" => state::budget_report(&work.core.store.budgets().await?),
        "tokens" => day::token_report(&work.core.store.usage_since(since).await?),
        "policy" => match work.core.plan.current() {
            Some(current) => {
                let models = work.core.store.answering_models_since(since).await?;
                state::policy_report(&current.house, &models)
            }
            None => Report::default(),
        },
        "tests" => {
            let chain = crate::core::audit_checkpoints::verify_audit_log(&work.core).await?;
            let checks = doctor::run_checks(work).await?.checks;
            day::verification_report(&newest_tasks(work).await?, &checks, &chain, since)
        }
        "progress" => day::progress_report(&newest_tasks(work).await?, since),
        "skills" => {
            let since = now + Millis(-WEEK.0);
            skill_costs::skill_cost_report(&work.core.store.runs_since(since).await?)
        }
        "metrics" => {
            let fleet = cell_views::fleet_doc(work).await?;
            let current = work.core.plan.current();
            let uids: Vec<Option<u32>> = current
                .iter()
                .flat_map(|c| {
                    c.house
                        .agents
                        .keys()
                        .map(|s| c.uid_of(&format!("agent:{s}")))
                })
                .collect();
            let shared = uids.iter().filter(|u| u.is_none()).count();
            let mut entries = entries_since(work, since).await?;
            history::under_present_names(&mut entries);
            let seen = metrics::MeasuredState {
                agents: &fleet.agents,
                resting: agents_not_desired_up(work),
                tasks: &newest_tasks(work).await?,
                entries: &entries,
                conflicts: count_port_conflicts(work).await?,
                // A single agent shares its user with no other.
                shared: if shared > 1 { shared as u64 } else { 0 },
            };
            metrics::metrics_report(&seen, since, now)
        }
        other => {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            return Err(
                Problem::new(FaultKind::NotFound, format!("there is no report `{other}`"))
                    .remedy(format!("use one of the reports {}", names.join(", ")))
                    .into(),
            );
        }
    };
    Ok(report.render(name, now, language))
}

/// Agents that the operator stopped or paused.
fn agents_not_desired_up(work: &WorkState) -> Vec<String> {
    let not_up = work.cells.desired.cells_not_up().into_iter();
    let agents = not_up.filter_map(|cell| match cell {
        CellName::Agent(slug) => Some(slug.to_string()),
        CellName::Service(_) | CellName::Run(_) => None,
    });
    agents.collect()
}

/// Number of ports of the plan on which another program listens while their owner is down.
async fn count_port_conflicts(work: &Arc<WorkState>) -> Result<u64> {
    let Some(current) = work.core.plan.current() else {
        return Ok(0);
    };
    let hostd = Arc::clone(&work.core.hostd);
    let host = crate::core::hostd::call_blocking(move || hostd.observe_host()).await?;
    let seen = work.cells.observations.snapshot();
    let down = |owner: &str| {
        let cell = owner.replacen(':', "-", 1);
        seen.iter().any(|(name, s)| {
            name.to_string() == cell && matches!(s.observed, abbey_model::Observed::Nothing)
        })
    };
    let rows = current.registry.rows();
    let held = rows.filter(|r| {
        r.value
            .parse::<u16>()
            .is_ok_and(|p| host.ports.contains_key(&p))
    });
    Ok(held.filter(|r| down(&r.owner)).count() as u64)
}
