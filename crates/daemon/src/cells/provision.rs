//! Creation and removal of agents as sagas: each step can be repeated and undone, and its intent is
//! logged before its first side effect (S2-24).

use crate::cells::agent_credentials::{
    agent_token_file, reload_credentials, rotate_agent_credentials,
};
use crate::cells::first_files::{archive_files, bring_identity, clear_place, fill_home, put_away};
use crate::cells::specs;
use crate::cells::state::CellsState;
use crate::core::error::{Error, Result};
use crate::core::home::list_slug_dirs;
use crate::core::hostd;
use crate::core::plan::PlanInForce;
use crate::core::runtime;
use crate::net::firewall;
use abbey_api::Problem;
use abbey_cells::crash;
use abbey_cells::hostd::{Allocation, Disks, FileEntry, FileName, HostdOperation};
use abbey_engine::saga::{Event, State, UNDO_TRIES_MAX};
use abbey_model::{
    CellName, DEFAULT_NOTES, FaultKind, Id, Millis, Observed, Principal, SagaId, Slug,
};
use abbey_plan::{House, Registry};
use abbey_store::{RenamedAgent, SagaRow};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Steps that create an agent. What lies at its place first goes out of the way, then it gets the files that its plan brings.
const CREATE: [&str; 5] = ["clear", "fill", "home", "files", "credential"];
/// Steps that remove an agent. Files first: where they can't be moved, the agent keeps its credentials, in case the next
/// plan has it again.
const REMOVE: [&str; 4] = ["stop", "archive", "revoke", "forget"];

/// Names of the crash points of provisioning: before and after each step of each saga, and around
/// the commit of a plan.
pub fn crash_points() -> Vec<String> {
    let create = CREATE.map(|step| format!("agent.create.{step}"));
    let remove = REMOVE.map(|step| format!("agent.remove.{step}"));
    let steps = create.into_iter().chain(remove);
    let around = steps.flat_map(|s| [format!("{s}.begin"), format!("{s}.end")]);
    let plan = ["plan.commit", "plan.committed"].map(str::to_owned);
    around.chain(plan).collect()
}

/// Names of the crash points that only a renaming comes by, in their order: those of hostd's call are in between.
pub const RENAME_POINTS: [&str; 7] = [
    "agent.rename.begin",
    "agent.rename.swept",
    "hostd.rename",
    "hostd.moved",
    "hostd.renamed",
    "agent.rename.moved",
    "agent.rename.end",
];

/// Creates, updates and removes files and users so that they match the plan in force, and resumes
/// sagas that a crash interrupted; also called at start.
///
/// Cells of the plan may start once this has returned, also with an error: missing files are then
/// reported by the cell that needs them and hold up no other.
pub(crate) async fn provision_plan(cells: &Arc<CellsState>) -> Result<()> {
    let Some(current) = cells.core.plan.current() else {
        return Ok(());
    };
    let _until_done = cells
        .core
        .plan
        .begin_activity("preparing agents and services");
    let mut failures = Failures::default();
    let outcome = provision_all(cells, &current, &mut failures).await;
    let all = outcome.as_ref().err().map(Error::chain);
    cells.record_unprepared(failures.reasons(), all);
    cells.mark_provisioned(current.generation);
    outcome?;
    failures.into_result()
}

/// Failures of single owners, which hold up no other owner.
#[derive(Default)]
struct Failures(Vec<(String, Error)>);

impl Failures {
    /// Records and logs a failure.
    fn note(&mut self, subject: &(dyn std::fmt::Display + Sync), outcome: Result<()>) {
        if let Err(error) = outcome {
            tracing::error!(%subject, error = error.chain(), "could not be provisioned; the others go on");
            self.0.push((subject.to_string(), error));
        }
    }

    /// Why each failed.
    fn reasons(&self) -> BTreeMap<String, String> {
        let each = self.0.iter();
        each.map(|(who, why)| (who.clone(), why.chain())).collect()
    }

    /// One error that names every owner which failed, of the kind of the first, if there was any.
    fn into_result(self) -> Result<()> {
        let reasons = self
            .0
            .iter()
            .map(|(who, why)| format!("{who}: {}", why.chain()));
        let mistakes: Vec<String> = reasons.collect();
        let Some((_, first)) = self.0.into_iter().next() else {
            return Ok(());
        };
        let text =
            "the plan is in force, but not everything could be provisioned; what is not listed is";
        let mut problem = Problem::new(Problem::from(first).fault(), text)
            .remedy("fix the cause and run `abbey up` again");
        problem.mistakes = mistakes;
        Err(problem.into())
    }
}

/// Releases first what the plan does not give any more, then claims and creates what it gives: nothing that one owner gives up can
/// be in the way of another, whatever the order of names.
async fn provision_all(
    cells: &Arc<CellsState>,
    current: &PlanInForce,
    failures: &mut Failures,
) -> Result<()> {
    let half_renamed = follow_renames(cells, failures).await?;
    for saga in cells.core.store.open_sagas().await? {
        if !matches!(saga.state, State::Stuck(_)) {
            let subject = saga.subject.clone();
            failures.note(&subject, run_saga(cells, current, saga).await);
        }
    }
    let hostd = Arc::clone(&cells.core.hostd);
    let allocated = hostd::call_blocking(move || hostd.owners()).await?;
    let settled = |owner: &CellName| !half_renamed.contains(owner);
    let report = |text: String| cells.core.plan.report_activity(text);
    for (owner, has) in allocated.iter().filter(|(owner, _)| settled(owner)) {
        report(format!("checking what {owner} still needs"));
        failures.note(owner, release_for(cells, current, owner, has).await);
    }
    // A removal or creation of either name would tear apart what belongs to one agent.
    if half_renamed.is_empty() {
        remove_leftovers(cells, current, &allocated, failures).await?;
    }
    // Services first, since port forwards of agents lead to them.
    for service in current.house.services.keys() {
        report(format!("preparing service `{service}`"));
        let owner = CellName::Service(service.clone());
        failures.note(&owner.clone(), prepare_home(cells, current, owner).await);
    }
    for slug in current.house.agents.keys() {
        if !settled(&CellName::Agent(slug.clone())) {
            continue;
        }
        report(format!("preparing agent `{slug}`"));
        failures.note(slug, provision_agent(cells, current, slug).await);
    }
    let owners: Vec<CellName> = allocated.into_keys().collect();
    crate::cells::commands::discard_leftover_commands(cells, &owners).await?;
    report("applying the firewall rules".to_owned());
    firewall::apply_planned_firewall(&cells.net).await?;
    reload_credentials(cells).await
}

/// Renames on the host what the plan renamed: ends the cell under its old name, then moves its files and allocation.
/// Returns the old and new names of agents for which that failed; it is tried again at the next provisioning.
async fn follow_renames(
    cells: &Arc<CellsState>,
    failures: &mut Failures,
) -> Result<BTreeSet<CellName>> {
    let mut left = BTreeSet::new();
    for RenamedAgent { seq, old, new } in cells.core.store.pending_renames().await? {
        let (owner, to) = (CellName::Agent(old), CellName::Agent(new.clone()));
        // What an earlier renaming has not brought to this name yet cannot go on to the next.
        if left.contains(&owner) || left.contains(&to) {
            left.extend([owner, to]);
            continue;
        }
        let followed = async {
            crash::point("agent.rename.begin");
            stop_and_sweep(cells, &owner).await?;
            cells.core.store.revoke_leases(new, None, true).await?;
            crash::point("agent.rename.swept");
            let rename = HostdOperation::Rename {
                owner: owner.clone(),
                to: to.clone(),
            };
            hostd::run_operation(&cells.core.hostd, rename).await?;
            crash::point("agent.rename.moved");
            let (state, from, to) = (Arc::clone(cells), owner.clone(), to.clone());
            let moved = move || state.net.egress.rename(&state.core, &from, &to);
            runtime::run_blocking(moved)
                .await
                .map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))??;
            crash::point("agent.rename.end");
            Ok(cells.core.store.finish_rename(seq).await?)
        };
        let outcome = followed.await;
        if outcome.is_err() {
            left.extend([owner.clone(), to]);
        }
        failures.note(&owner, outcome);
    }
    Ok(left)
}

/// Creates an agent, or brings what it has up to date.
async fn provision_agent(
    cells: &Arc<CellsState>,
    current: &PlanInForce,
    slug: &Slug,
) -> Result<()> {
    if !agent_token_file(cells, slug).exists() {
        return begin_saga(cells, current, "agent.create", slug, &CREATE).await;
    }
    // What it may reach changes with the plan, and so do charters; the same again changes nothing.
    prepare_home(cells, current, CellName::Agent(slug.clone())).await?;
    write_house_files(cells, current, slug).await?;
    cells.request_service_credentials(slug);
    Ok(())
}

/// Releases what an owner has and the plan does not give it any more. Its cell ends before its addresses are free: the
/// interfaces would still be there.
async fn release_for(
    cells: &Arc<CellsState>,
    current: &PlanInForce,
    owner: &CellName,
    has: &Allocation,
) -> Result<()> {
    match owner {
        CellName::Run(_) => return Ok(()),
        CellName::Agent(slug) if !current.house.agents.contains_key(slug) => {
            return begin_saga(cells, current, "agent.remove", slug, &REMOVE).await;
        }
        CellName::Agent(_) | CellName::Service(_) => {}
    }
    let wanted = planned_allocation(&current.house, &current.registry, owner);
    let known = match owner {
        CellName::Service(slug) => current.house.services.contains_key(slug),
        CellName::Agent(_) | CellName::Run(_) => true,
    };
    let keeps = |had: bool, same: bool| !had || same;
    if known
        && keeps(has.subnet.is_some(), has.subnet == wanted.subnet)
        && keeps(has.port.is_some(), has.port == wanted.port)
        && keeps(has.door.is_some(), has.door == wanted.door)
    {
        return Ok(());
    }
    // The files of a service that is disabled or removed stay, and so does their user.
    let left = Allocation {
        uid: has.uid,
        disks: has.disks,
        ..Allocation::default()
    };
    if *has == left {
        return Ok(());
    }
    stop_and_sweep(cells, owner).await?;
    allocate(cells, owner.clone(), left).await
}

/// Removes agents that still have files though neither the plan nor an allocation names them, and the rows of cells
/// that are in no plan.
async fn remove_leftovers(
    cells: &Arc<CellsState>,
    current: &PlanInForce,
    allocated: &BTreeMap<CellName, Allocation>,
    failures: &mut Failures,
) -> Result<()> {
    let on_disk = list_slug_dirs(&cells.core.home.root().join("agents"))?;
    for slug in &on_disk {
        let planned = current.house.agents.contains_key(slug);
        if !planned && !allocated.contains_key(&CellName::Agent(slug.clone())) {
            let outcome = begin_saga(cells, current, "agent.remove", slug, &REMOVE).await;
            failures.note(slug, outcome);
        }
    }
    for cell in cells.core.store.cells().await?.into_keys() {
        let known = match &cell {
            CellName::Agent(slug) => current.house.agents.contains_key(slug),
            CellName::Service(slug) => current.house.services.contains_key(slug),
            CellName::Run(_) => true,
        };
        if !known && !on_disk.contains(cell.slug()) {
            cells.core.store.remove_cell(cell).await?;
        }
    }
    Ok(())
}

/// Stores a new saga for an agent and runs it.
async fn begin_saga(
    cells: &Arc<CellsState>,
    current: &PlanInForce,
    kind: &str,
    slug: &Slug,
    steps: &[&str],
) -> Result<()> {
    let now = cells.core.store.now();
    let mut random = [0u8; 16];
    cells.core.rt.fill_random(&mut random)?;
    let id: SagaId = Id::v7(now.0.unsigned_abs(), u128::from_ne_bytes(random));
    let steps: Vec<String> = steps.iter().map(|s| (*s).to_owned()).collect();
    cells
        .core
        .store
        .begin_saga(id, kind.to_owned(), slug.to_string(), steps.clone())
        .await?;
    let saga = SagaRow {
        id,
        kind: kind.to_owned(),
        subject: slug.to_string(),
        steps,
        state: State::Doing(0),
    };
    run_saga(cells, current, saga).await
}

/// Runs a saga from the state that its log has, until it is done, undone or stuck.
async fn run_saga(cells: &Arc<CellsState>, current: &PlanInForce, saga: SagaRow) -> Result<()> {
    let slug: Slug = saga
        .subject
        .parse()
        .map_err(|e: abbey_model::SlugError| Problem::new(FaultKind::Internal, e.to_string()))?;
    let mut state = saga.state;
    let mut failure: Option<Error> = None;
    let mut tries = 0;
    loop {
        let event = match state {
            State::Doing(n) => {
                let step = saga.steps.get(n as usize).map_or("", String::as_str);
                let activity = format!("preparing agent `{slug}` ({}, {step})", saga.kind);
                cells.core.plan.report_activity(activity);
                crash::point(&format!("{}.{step}.begin", saga.kind));
                match perform_step(cells, current, &saga.kind, step, &slug).await {
                    Ok(()) => {
                        crash::point(&format!("{}.{step}.end", saga.kind));
                        Event::StepDone(n)
                    }
                    Err(error) => {
                        tracing::warn!(saga = saga.kind, step, agent = %slug, error = error.chain(), "a step of a saga failed; its completed steps are undone");
                        failure = Some(error);
                        Event::StepFailed(n)
                    }
                }
            }
            State::Undoing(n) => {
                let step = saga.steps.get(n as usize).map_or("", String::as_str);
                match undo_step(cells, &saga.kind, step, &slug).await {
                    Ok(()) => Event::StepUndone(n),
                    Err(error) if tries + 1 >= UNDO_TRIES_MAX => {
                        tracing::error!(saga = saga.kind, step, agent = %slug, error = error.chain(), "undoing a step of a saga failed repeatedly; the saga is stuck, fix the cause and apply the manifest again");
                        failure = Some(error);
                        Event::UndoGaveUp(n)
                    }
                    Err(_) => {
                        tries += 1;
                        cells
                            .core
                            .rt
                            .sleep(Duration::from_millis(50 << tries))
                            .await;
                        continue;
                    }
                }
            }
            State::Done => return Ok(()),
            State::Undone | State::Stuck(_) => {
                return Err(failure.unwrap_or_else(|| {
                    Problem::new(FaultKind::Internal, "the agent could not be created or removed; its completed steps were undone, apply the manifest again").into()
                }));
            }
        };
        state = cells.core.store.log_saga_event(saga.id, event).await?;
    }
}

async fn perform_step(
    cells: &Arc<CellsState>,
    current: &PlanInForce,
    kind: &str,
    step: &str,
    slug: &Slug,
) -> Result<()> {
    match (kind, step) {
        ("agent.create", "clear") => clear_place(cells, slug).await,
        ("agent.create", "fill") => fill_home(cells, slug).await,
        ("agent.create", "home") => {
            prepare_home(cells, current, CellName::Agent(slug.clone())).await
        }
        ("agent.create", "files") => {
            write_house_files(cells, current, slug).await?;
            bring_identity(cells, slug).await
        }
        ("agent.create", "credential") => {
            rotate_agent_credentials(cells, slug, Millis(0)).await?;
            Ok(cells.core.store.finish_first_files(slug.clone()).await?)
        }
        ("agent.remove", "stop") => {
            stop_and_sweep(cells, &CellName::Agent(slug.clone())).await?;
            Ok(cells.core.store.cancel_subtasks_of_agent(slug.clone()).await?)
        }
        ("agent.remove", "revoke") => {
            cells
                .core
                .store
                .revoke_tokens(Principal::Agent(slug.clone()), Vec::new(), Millis(0))
                .await?;
            reload_credentials(cells).await
        }
        ("agent.remove", "archive") => archive_files(cells, slug).await,
        ("agent.remove", "forget") => {
            let owner = CellName::Agent(slug.clone());
            hostd::run_operation(
                &cells.core.hostd,
                HostdOperation::Release {
                    owner: owner.clone(),
                },
            )
            .await?;
            Ok(cells.core.store.remove_cell(owner).await?)
        }
        _ => Err(Problem::new(
            FaultKind::Internal,
            format!("internal error: the provisioning saga `{kind}` has no step {step}; report this as a bug"),
        )
        .into()),
    }
}

async fn undo_step(cells: &Arc<CellsState>, kind: &str, step: &str, slug: &Slug) -> Result<()> {
    match (kind, step) {
        ("agent.create", "credential") => {
            cells
                .core
                .store
                .revoke_tokens(Principal::Agent(slug.clone()), Vec::new(), Millis(0))
                .await?;
            reload_credentials(cells).await
        }
        // Archiving the home also undoes the steps around.
        ("agent.create", "home") => {
            let owner = CellName::Agent(slug.clone());
            put_away(cells, slug).await?;
            hostd::run_operation(&cells.core.hostd, HostdOperation::Release { owner }).await
        }
        // A removal is never undone: it is begun again at the next provisioning.
        _ => Ok(()),
    }
}

/// What a plan gives to an owner.
pub(crate) fn planned_allocation(
    house: &House,
    registry: &Registry,
    owner: &CellName,
) -> Allocation {
    let name = owner.owner();
    let (agent, service) = match owner {
        CellName::Agent(slug) => (house.agents.get(slug), None),
        CellName::Service(slug) => (None, house.services.get(slug)),
        CellName::Run(_) => (None, None),
    };
    let egress = agent
        .map(|a| &a.egress)
        .or_else(|| service.map(|s| &s.egress));
    let subnet = abbey_plan::allocated_subnet(registry, &name);
    let held = |purpose: &str| registry.find_allocation(&name, purpose);
    Allocation {
        uid: held("uid").and_then(|r| r.value.parse().ok()),
        subnet,
        bridged: subnet.is_some() && house.network.bridged,
        disks: agent.and_then(|a| a.disks()).map(|d| Disks {
            state: d.state,
            workspace: d.workspace,
        }),
        elsewhere: service.and_then(|s| s.at),
        door: held("door")
            .and_then(|r| r.port())
            .filter(|_| subnet.is_some()),
        port: held("port").and_then(|r| r.port()),
        egress: egress
            .filter(|_| subnet.is_some())
            .cloned()
            .unwrap_or_default(),
    }
}

/// Sets the allocation of an owner at hostd.
async fn allocate(cells: &CellsState, owner: CellName, allocation: Allocation) -> Result<()> {
    let operation = HostdOperation::Allocate { owner, allocation };
    hostd::run_operation(&cells.core.hostd, operation).await
}

/// Claims the user, subnet and ports of an agent or service at hostd, and creates its directories.
async fn prepare_home(cells: &CellsState, current: &PlanInForce, owner: CellName) -> Result<()> {
    let allocation = planned_allocation(&current.house, &current.registry, &owner);
    let has_cell = allocation.elsewhere.is_none();
    allocate(cells, owner.clone(), allocation).await?;
    if !has_cell {
        return Ok(());
    }
    let files = Vec::new();
    hostd::run_operation(&cells.core.hostd, HostdOperation::Prepare { owner, files }).await
}

/// Writes the files that the house owns in an agent's workspace; creates those that the agent owns
/// if they are missing.
async fn write_house_files(cells: &CellsState, current: &PlanInForce, slug: &Slug) -> Result<()> {
    let Some(agent) = current.house.agents.get(slug) else {
        return Ok(());
    };
    let entry = |name, content: &str| FileEntry {
        name,
        content: content.to_owned(),
    };
    let charter = match agent.charter_writable {
        true => FileName::OwnCharter,
        false => FileName::Charter,
    };
    let files = vec![
        entry(charter, current.charter_of(slug)),
        entry(FileName::Rules, DEFAULT_NOTES),
        entry(FileName::Memory, ""),
        entry(FileName::Heartbeat, ""),
    ];
    let owner = CellName::Agent(slug.clone());
    hostd::run_operation(&cells.core.hostd, HostdOperation::Prepare { owner, files }).await?;
    Ok(())
}

/// Ends the cell of an owner, running or not, and an agent's leases with it. Its program has the time that its stop may
/// take.
async fn stop_and_sweep(cells: &Arc<CellsState>, owner: &CellName) -> Result<()> {
    let grace = specs::stop_grace(cells, owner);
    let deadline = cells.core.rt.now() + grace.to_std();
    let (backend, cell) = (Arc::clone(&cells.backend), owner.clone());
    let _not_running = blocking(move || backend.stop(&cell, grace)).await;
    loop {
        let (backend, cell) = (Arc::clone(&cells.backend), owner.clone());
        let running = matches!(
            blocking(move || backend.observe(&cell)).await,
            Ok(Observed::Running { .. })
        );
        if !running || cells.core.rt.now() >= deadline {
            break;
        }
        cells.core.rt.sleep(Duration::from_millis(20)).await;
    }
    let (backend, cell) = (Arc::clone(&cells.backend), owner.clone());
    blocking(move || backend.sweep(&cell)).await?;
    if let CellName::Agent(slug) = owner {
        cells
            .core
            .store
            .revoke_leases(slug.clone(), None, true)
            .await?;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> abbey_cells::Result<T> + Send + 'static,
) -> Result<T> {
    let joined = runtime::run_blocking(work).await;
    Ok(joined.map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))??)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_server::plans;
    use crate::boot::control_plane::ControlPlane;
    use crate::boot::testing;
    use abbey_agents::runtime::Layout;
    use std::collections::BTreeMap;
    use std::path::Path;

    const MANIFEST: &str = "version: 1
house: sagas
listen: { address: 127.0.0.1:0 }
defaults: { cell: process, waive: [limits] }
agents:
  abbot: { template: orchestrator }
";

    async fn applied_control_plane(dir: &Path) -> Arc<ControlPlane> {
        let clock = Arc::new(abbey_store::SystemClock::new());
        let plane = testing::control_plane(dir, clock).await;
        let body = abbey_api::ManifestBody {
            render: None,
            manifest: MANIFEST.to_owned(),
            base_dir: "/".to_owned(),
            charters: BTreeMap::new(),
            reason: None,
            environment: BTreeMap::new(),
            consent: Vec::new(),
            renamed: BTreeMap::new(),
            first_files: BTreeMap::new(),
        };
        plans::apply_manifest(&plane.api, body, None, Principal::Operator)
            .await
            .unwrap();
        plane
    }

    /// A crash after the side effect of each step and before its entry: the step is done again,
    /// the rest follows, and nothing is left open or doubled.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_crash_at_every_step_of_creation_is_resumed() {
        for crash_at in 0..CREATE.len() {
            let dir = tempfile::tempdir().unwrap();
            let plane = applied_control_plane(dir.path()).await;
            let current = plane.core.plan.current().unwrap();
            let slug: Slug = "abbot".parse().unwrap();
            // Back to before it existed.
            archive_files(&plane.cells, &slug).await.unwrap();
            plane
                .core
                .store
                .revoke_tokens(Principal::Agent(slug.clone()), Vec::new(), Millis(0))
                .await
                .unwrap();
            let id: SagaId = Id::v7(1, 7 + crash_at as u128);
            let steps = CREATE.map(str::to_owned).to_vec();
            plane
                .core
                .store
                .begin_saga(id, "agent.create".into(), slug.to_string(), steps)
                .await
                .unwrap();
            for (n, step) in CREATE.iter().enumerate().take(crash_at + 1) {
                perform_step(&plane.cells, &current, "agent.create", step, &slug)
                    .await
                    .unwrap();
                if n < crash_at {
                    plane
                        .core
                        .store
                        .log_saga_event(id, Event::StepDone(u32::try_from(n).unwrap()))
                        .await
                        .unwrap();
                }
            }
            provision_plan(&plane.cells).await.unwrap();
            assert!(
                plane.core.store.open_sagas().await.unwrap().is_empty(),
                "crash at {crash_at}"
            );
            let layout = Layout::under(&plane.core.home.agent_dir("abbot"));
            assert!(
                agent_token_file(&plane.cells, &slug).exists()
                    && layout.workspace.join("SOUL.md").exists()
            );
            // One valid credential for each scope; those of the crashed attempt are revoked.
            let tokens = plane.core.store.tokens().await.unwrap();
            let mine = tokens
                .iter()
                .filter(|t| t.principal == Principal::Agent(slug.clone()));
            assert_eq!(mine.count(), 2, "crash at {crash_at}");
            let head = plane.core.store.audit_head();
            provision_plan(&plane.cells).await.unwrap();
            assert_eq!(
                plane.core.store.audit_head(),
                head,
                "provisioning again changes nothing"
            );
        }
    }

    /// A step that fails is undone with all before it, and the next attempt succeeds.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_failing_step_leaves_no_half_made_agent() {
        let dir = tempfile::tempdir().unwrap();
        let plane = applied_control_plane(dir.path()).await;
        let slug: Slug = "abbot".parse().unwrap();
        archive_files(&plane.cells, &slug).await.unwrap();
        // The archive of an earlier agent is in the way of nothing; a file where the home should
        // be is in the way of everything.
        let root = plane.core.home.agent_dir("abbot");
        std::fs::write(&root, "in the way").unwrap();
        assert!(provision_plan(&plane.cells).await.is_err());
        assert!(
            plane.core.store.open_sagas().await.unwrap().is_empty(),
            "undone, not stuck"
        );
        assert!(!root.join("home").exists());
        let _moved_aside_by_the_undo = std::fs::remove_file(&root);
        provision_plan(&plane.cells).await.unwrap();
        assert!(agent_token_file(&plane.cells, &slug).exists());
    }
}
