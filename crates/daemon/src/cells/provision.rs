//! Agents come and go by saga: each step can be done twice and undone, and its intent is logged
//! before its first side effect (S2-24).

use crate::cells::agent_credentials::{credential, own_token, refresh_keys};
use crate::cells::state::CellsState;
use crate::core::error::{Error, Result};
use crate::core::home::slugs_in;
use crate::core::hostd;
use crate::core::plan::PlanInForce;
use crate::core::runtime;
use crate::net::firewall;
use abbey_api::Problem;
use abbey_cells::crash;
use abbey_cells::hostd::{Claim, Disks, FileEntry, FileName, Operation};
use abbey_engine::saga::{Event, State, UNDO_TRIES_MAX};
use abbey_model::{CellName, FaultKind, Id, Millis, Principal, SagaId, Slug};
use abbey_store::SagaRow;
use std::collections::BTreeSet;
use std::sync::Arc;

const CREATE: [&str; 3] = ["home", "files", "credential"];
const REMOVE: [&str; 4] = ["stop", "revoke", "archive", "forget"];

/// Every place at which a test may end the control plane: in front of and behind each step of each
/// saga, and around the change of plan.
pub fn crash_points() -> Vec<String> {
    let create = CREATE.map(|step| format!("agent.create.{step}"));
    let remove = REMOVE.map(|step| format!("agent.remove.{step}"));
    let steps = create.into_iter().chain(remove);
    let around = steps.flat_map(|s| [format!("{s}.begin"), format!("{s}.end")]);
    let plan = ["plan.commit", "plan.committed"].map(str::to_owned);
    around.chain(plan).collect()
}

/// Brings every agent of the current plan to life on disk, and takes the others away. Resumes what
/// a crash interrupted. Also run at start: recovery and the ordinary case are one path.
///
/// Cells start once this has ended for the plan in force. Where it failed they start as well: what is
/// missing is then reported by the cell that needs it, and holds up no other.
pub(crate) async fn settle(cells: &Arc<CellsState>) -> Result<()> {
    let Some(current) = cells.core.plan.current() else {
        return Ok(());
    };
    let outcome = provision_all(cells, &current).await;
    cells.set_provisioned(current.generation);
    outcome
}

async fn provision_all(cells: &Arc<CellsState>, current: &PlanInForce) -> Result<()> {
    for saga in cells.core.store.open_sagas().await? {
        if !matches!(saga.state, State::Stuck(_)) {
            drive(cells, current, saga).await?;
        }
    }
    let on_disk = slugs_in(&cells.core.home.root().join("agents"))?;
    // First, as agents are led to them.
    for service in current.house.services.keys() {
        let owner = CellName::Service(service.clone());
        make_home(cells, current, owner).await?;
    }
    for slug in current.house.agents.keys() {
        if own_token(cells, slug).exists() {
            // What it may reach changes with the plan, and so do charters; the same again changes
            // nothing.
            make_home(cells, current, CellName::Agent(slug.clone())).await?;
            files(cells, current, slug).await?;
        } else {
            begin(cells, current, "agent.create", slug, &CREATE).await?;
        }
    }
    let hostd = Arc::clone(&cells.core.hostd);
    let owners = hostd::ask(move || hostd.owners()).await?;
    // By what is there, not by what was begun: files, or anything that is held without any.
    let holding = owners.iter().filter_map(|o| match o {
        CellName::Agent(slug) => Some(slug),
        CellName::Service(_) | CellName::Run(_) => None,
    });
    let known: BTreeSet<&Slug> = on_disk.iter().chain(holding).collect();
    for slug in known
        .into_iter()
        .filter(|s| !current.house.agents.contains_key(*s))
    {
        begin(cells, current, "agent.remove", slug, &REMOVE).await?;
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
    let gone = owners.iter().filter(|o| match o {
        CellName::Service(slug) => !current.house.services.contains_key(slug),
        CellName::Agent(_) | CellName::Run(_) => false,
    });
    // Its files and its user stay; what it had of the network is free again.
    for owner in gone {
        let claim = Claim {
            uid: current.uid(&format!("service:{}", owner.slug())),
            ..Claim::default()
        };
        let owner = owner.clone();
        hostd::call(&cells.core.hostd, Operation::Claim { owner, claim }).await?;
    }
    crate::cells::commands::clear_leftovers(cells, &owners).await?;
    firewall::raise(&cells.net).await?;
    refresh_keys(cells).await
}

async fn begin(
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
    drive(cells, current, saga).await
}

/// Runs a saga from wherever its log says it stands.
async fn drive(cells: &Arc<CellsState>, current: &PlanInForce, saga: SagaRow) -> Result<()> {
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
                crash::point(&format!("{}.{step}.begin", saga.kind));
                match perform(cells, current, &saga.kind, step, &slug).await {
                    Ok(()) => {
                        crash::point(&format!("{}.{step}.end", saga.kind));
                        Event::StepDone(n)
                    }
                    Err(error) => {
                        tracing::warn!(saga = saga.kind, step, agent = %slug, error = error.chain(), "a step failed and is undone");
                        failure = Some(error);
                        Event::StepFailed(n)
                    }
                }
            }
            State::Undoing(n) => {
                let step = saga.steps.get(n as usize).map_or("", String::as_str);
                match undo(cells, &saga.kind, step, &slug).await {
                    Ok(()) => Event::StepUndone(n),
                    Err(error) if tries + 1 >= UNDO_TRIES_MAX => {
                        tracing::error!(saga = saga.kind, step, agent = %slug, error = error.chain(), "an undo failed for good");
                        failure = Some(error);
                        Event::UndoGaveUp(n)
                    }
                    Err(_) => {
                        tries += 1;
                        cells
                            .core
                            .rt
                            .sleep(std::time::Duration::from_millis(50 << tries))
                            .await;
                        continue;
                    }
                }
            }
            State::Done => return Ok(()),
            State::Undone | State::Stuck(_) => {
                return Err(failure.unwrap_or_else(|| {
                    Problem::new(FaultKind::Internal, "a saga was undone").into()
                }));
            }
        };
        state = cells.core.store.log_saga_event(saga.id, event).await?;
    }
}

async fn perform(
    cells: &Arc<CellsState>,
    current: &PlanInForce,
    kind: &str,
    step: &str,
    slug: &Slug,
) -> Result<()> {
    match (kind, step) {
        ("agent.create", "home") => make_home(cells, current, CellName::Agent(slug.clone())).await,
        ("agent.create", "files") => files(cells, current, slug).await,
        ("agent.create", "credential") => credential(cells, slug, Millis(0)).await,
        ("agent.remove", "stop") => stop_for_good(cells, slug).await,
        ("agent.remove", "revoke") => {
            cells
                .core
                .store
                .revoke_tokens(Principal::Agent(slug.clone()), None, Millis(0))
                .await?;
            refresh_keys(cells).await
        }
        ("agent.remove", "archive") => archive(cells, slug).await,
        ("agent.remove", "forget") => {
            let owner = CellName::Agent(slug.clone());
            hostd::call(
                &cells.core.hostd,
                Operation::Release {
                    owner: owner.clone(),
                },
            )
            .await?;
            Ok(cells.core.store.remove_cell(owner).await?)
        }
        _ => Err(Problem::new(
            FaultKind::Internal,
            format!("saga {kind} has no step {step}"),
        )
        .into()),
    }
}

async fn undo(cells: &Arc<CellsState>, kind: &str, step: &str, slug: &Slug) -> Result<()> {
    match (kind, step) {
        ("agent.create", "credential") => {
            cells
                .core
                .store
                .revoke_tokens(Principal::Agent(slug.clone()), None, Millis(0))
                .await?;
            refresh_keys(cells).await
        }
        // The home step made everything that the files step wrote into.
        ("agent.create", "home") => {
            archive(cells, slug).await?;
            let owner = CellName::Agent(slug.clone());
            hostd::call(&cells.core.hostd, Operation::Release { owner }).await
        }
        // A removal goes forward only: its undo leaves things as they are, and it is begun again.
        _ => Ok(()),
    }
}

/// Gives an owner its user, and makes its directories.
async fn make_home(cells: &CellsState, current: &PlanInForce, owner: CellName) -> Result<()> {
    let plan = &current.house;
    let (name, egress) = match &owner {
        CellName::Agent(slug) => (
            format!("agent:{slug}"),
            plan.agents.get(slug).map(|a| a.egress.clone()),
        ),
        CellName::Service(slug) => (
            format!("service:{slug}"),
            plan.services.get(slug).map(|s| s.egress.clone()),
        ),
        CellName::Run(slug) => (format!("run:{slug}"), None),
    };
    let subnet = abbey_plan::subnet(&current.registry, &name);
    let claim = Claim {
        uid: current.uid(&name),
        subnet,
        bridged: subnet.is_some() && plan.network.bridged,
        disks: match &owner {
            CellName::Agent(slug) => plan.agents.get(slug).and_then(|a| a.disks()),
            CellName::Service(_) | CellName::Run(_) => None,
        }
        .map(|d| Disks {
            state: d.state,
            workspace: d.workspace,
        }),
        elsewhere: match &owner {
            CellName::Service(slug) => plan.services.get(slug).and_then(|s| s.at),
            CellName::Agent(_) | CellName::Run(_) => None,
        },
        door: current.port(&name, "door").filter(|_| subnet.is_some()),
        port: current.port(&name, "port"),
        egress: egress.filter(|_| subnet.is_some()).unwrap_or_default(),
    };
    let files = Vec::new();
    let has_cell = claim.elsewhere.is_none();
    let claimed = Operation::Claim {
        owner: owner.clone(),
        claim,
    };
    hostd::call(&cells.core.hostd, claimed).await?;
    match has_cell {
        true => hostd::call(&cells.core.hostd, Operation::Prepare { owner, files }).await,
        false => Ok(()),
    }
}

/// Writes what the house owns in a workspace; seeds what the agent owns.
async fn files(cells: &CellsState, current: &PlanInForce, slug: &Slug) -> Result<()> {
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
        entry(charter, current.charter(slug)),
        entry(
            FileName::Rules,
            "# Rules of this house\n\nFinish with a result that another can check.\n",
        ),
        entry(FileName::Memory, ""),
        entry(FileName::Heartbeat, ""),
    ];
    let owner = CellName::Agent(slug.clone());
    hostd::call(&cells.core.hostd, Operation::Prepare { owner, files }).await?;
    Ok(())
}

async fn stop_for_good(cells: &Arc<CellsState>, slug: &Slug) -> Result<()> {
    let cell = CellName::Agent(slug.clone());
    let backend = Arc::clone(&cells.backend);
    let gone = runtime::blocking(move || {
        let _not_running = backend.stop(&cell, Millis(2000));
        backend.sweep(&cell)
    });
    gone.await
        .map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))??;
    cells.core.store.revoke_leases(slug.clone(), None).await?;
    Ok(())
}

/// Archives an agent's files; the house deletes nothing of an agent.
async fn archive(cells: &CellsState, slug: &Slug) -> Result<()> {
    let stamp = abbey_api::Time(cells.core.store.now())
        .to_string()
        .replace([':', '.'], "-");
    let owner = CellName::Agent(slug.clone());
    hostd::call(&cells.core.hostd, Operation::Archive { owner, stamp }).await
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

    async fn house(dir: &Path) -> Arc<ControlPlane> {
        let clock = Arc::new(abbey_store::SystemClock::new());
        let house = testing::control_plane(dir, clock).await;
        let body = abbey_api::ManifestBody {
            manifest: MANIFEST.to_owned(),
            base_dir: "/".to_owned(),
            charters: BTreeMap::new(),
            reason: None,
        };
        plans::apply(&house.api, body, None, Principal::Operator)
            .await
            .unwrap();
        house
    }

    /// A crash after the side effect of each step and before its entry: the step is done again,
    /// the rest follows, and nothing is left open or doubled.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_crash_at_every_step_of_creation_is_resumed() {
        for crash_at in 0..CREATE.len() {
            let dir = tempfile::tempdir().unwrap();
            let house = house(dir.path()).await;
            let current = house.core.plan.current().unwrap();
            let slug: Slug = "abbot".parse().unwrap();
            // Back to before it existed.
            archive(&house.cells, &slug).await.unwrap();
            house
                .core
                .store
                .revoke_tokens(Principal::Agent(slug.clone()), None, Millis(0))
                .await
                .unwrap();
            let id: SagaId = Id::v7(1, 7 + crash_at as u128);
            let steps = CREATE.map(str::to_owned).to_vec();
            house
                .core
                .store
                .begin_saga(id, "agent.create".into(), slug.to_string(), steps)
                .await
                .unwrap();
            for (n, step) in CREATE.iter().enumerate().take(crash_at + 1) {
                perform(&house.cells, &current, "agent.create", step, &slug)
                    .await
                    .unwrap();
                if n < crash_at {
                    house
                        .core
                        .store
                        .log_saga_event(id, Event::StepDone(u32::try_from(n).unwrap()))
                        .await
                        .unwrap();
                }
            }
            settle(&house.cells).await.unwrap();
            assert!(
                house.core.store.open_sagas().await.unwrap().is_empty(),
                "crash at {crash_at}"
            );
            let layout = Layout::under(&house.core.home.agent("abbot"));
            assert!(
                own_token(&house.cells, &slug).exists()
                    && layout.workspace.join("SOUL.md").exists()
            );
            // One valid credential for each scope; those of the crashed attempt are revoked.
            let tokens = house.core.store.tokens().await.unwrap();
            let mine = tokens
                .iter()
                .filter(|t| t.principal == Principal::Agent(slug.clone()));
            assert_eq!(mine.count(), 2, "crash at {crash_at}");
            let head = house.core.store.audit_head();
            settle(&house.cells).await.unwrap();
            assert_eq!(house.core.store.audit_head(), head, "settled is settled");
        }
    }

    /// A step that fails is undone with all before it, and the next attempt succeeds.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_failing_step_leaves_no_half_made_agent() {
        let dir = tempfile::tempdir().unwrap();
        let house = house(dir.path()).await;
        let slug: Slug = "abbot".parse().unwrap();
        archive(&house.cells, &slug).await.unwrap();
        // The archive of an earlier agent is in the way of nothing; a file where the home should
        // be is in the way of everything.
        let root = house.core.home.agent("abbot");
        std::fs::write(&root, "in the way").unwrap();
        assert!(settle(&house.cells).await.is_err());
        assert!(
            house.core.store.open_sagas().await.unwrap().is_empty(),
            "undone, not stuck"
        );
        assert!(!root.join("home").exists());
        let _moved_aside_by_the_undo = std::fs::remove_file(&root);
        settle(&house.cells).await.unwrap();
        assert!(own_token(&house.cells, &slug).exists());
    }
}
