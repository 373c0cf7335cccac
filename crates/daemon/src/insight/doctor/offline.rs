//! Checks of a house whose control plane does not run or does not answer.

use super::checks::Checks;
use crate::core::error::Result;
use crate::core::home::Home;
use crate::work::state::WorkState;
use abbey_api::{CheckSeverity, DoctorDoc, VERSION};
use abbey_model::CellName;
use abbey_plan::HostFacts;
use std::sync::Arc;

/// Newest audit entries among which the last start or end of the house is searched.
const ENTRIES: u32 = 1000;

/// Adds a check that says why the control plane does not run, and what is left of the house.
pub(super) async fn check_control_plane(work: &Arc<WorkState>, checks: &mut Checks) -> Result<()> {
    let head = work.core.store.audit_head();
    let after = head.saturating_sub(u64::from(ENTRIES));
    let entries = work.core.store.audit_entries(after, ENTRIES).await?;
    let last = entries
        .iter()
        .rev()
        .find(|e| e.action == "house.down" || e.action == "house.start");
    let asked_for = last.is_none_or(|e| e.action == "house.down");
    let left = work.cells.backend.list().unwrap_or_default();
    let left: Vec<String> = left.iter().map(CellName::to_string).collect();
    let cells = match left.first() {
        None => String::new(),
        Some(first) => format!(
            "; {} cells are left on the host, such as {first}",
            left.len()
        ),
    };
    let (severity, text) = match (asked_for, left.is_empty()) {
        (true, true) => (CheckSeverity::Warn, "the house is down".to_owned()),
        (true, false) => (
            CheckSeverity::Fail,
            format!("`abbey down` did not finish{cells}"),
        ),
        (false, _) => (
            CheckSeverity::Fail,
            format!("the control plane is gone without `abbey down`{cells}"),
        ),
    };
    let remedy = match (asked_for, left.is_empty()) {
        (true, true) => "`abbey up` starts it".to_owned(),
        (true, false) => "run `abbey down` again".to_owned(),
        (false, _) => format!(
            "`abbey up` starts it again and adopts the cells that run; its log is `{}`",
            work.core.home.serve_log_file().display()
        ),
    };
    checks.add("control_plane", false, severity, text, &remedy);
    Ok(())
}

/// Host facts without a control plane: this process looks for itself. Adds a check about a hostd that is left.
pub(super) async fn observe_without_hostd(
    work: &Arc<WorkState>,
    checks: &mut Checks,
) -> Option<HostFacts> {
    let pid = abbey_cells::hostd::listening_process(work.core.home.root());
    let text = match pid {
        Some(pid) => format!("hostd runs as process {pid}"),
        None => "hostd does not run, as the control plane does not".to_owned(),
    };
    checks.add("hostd", true, CheckSeverity::Info, text, "");
    let hostd = Arc::clone(&work.core.hostd);
    let facts = crate::core::hostd::call_blocking(move || hostd.observe_host()).await;
    match facts {
        Ok(facts) => Some(facts),
        Err(error) => {
            checks.add(
                "host",
                false,
                CheckSeverity::Warn,
                format!("the host could not be observed: {}", error.chain()),
                "run `abbey doctor` as the user who started the house",
            );
            None
        }
    }
}

/// Checks of a house whose control plane holds the lock of the home and does not answer. `holder` is its process, if it was
/// found.
pub(crate) fn check_silent_house(home: &Home, holder: Option<i32>) -> DoctorDoc {
    let mut checks = Checks::default();
    let stat = holder.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let state = stat.as_deref().and_then(|stat| {
        let (_, rest) = stat.rsplit_once(')')?;
        rest.split_whitespace().next()
    });
    let stopped = matches!(state, Some("T" | "t"));
    let log = home.serve_log_file();
    let (text, remedy) = match holder {
        Some(pid) if stopped => (
            format!("the control plane (process {pid}) is stopped by a signal"),
            format!("`kill -CONT {pid}` lets it go on"),
        ),
        Some(pid) => (
            format!("the control plane (process {pid}) does not answer"),
            format!(
                "read its log `{}`; if it hangs, end it (`kill -9 {pid}`), and `abbey up` starts it again and adopts the cells",
                log.display()
            ),
        ),
        None => (
            "the control plane does not answer, and a process that this user may not see holds its lock"
                .to_owned(),
            format!(
                "run `abbey doctor` as root to find that process; the log of the control plane is `{}`",
                log.display()
            ),
        ),
    };
    checks.add("control_plane", false, CheckSeverity::Fail, text, &remedy);
    super::files::check_disk_space(home, &mut checks);
    let hostd = abbey_cells::hostd::listening_process(home.root());
    checks.add(
        "hostd",
        hostd.is_some(),
        CheckSeverity::Fail,
        hostd.map_or_else(
            || "hostd is gone".to_owned(),
            |pid| format!("hostd runs as process {pid}"),
        ),
        "`abbey up` starts it again; cells go on without it",
    );
    DoctorDoc {
        version: VERSION,
        checks: checks.0,
        fixed: Vec::new(),
    }
}
