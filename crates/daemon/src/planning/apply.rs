//! Planning of a manifest: checks it against the host, commits the plan, and carries it out.

use crate::cells::lost_files::find_lost_files;
use crate::cells::{provision, service_access, specs};
use crate::core::error::{Error, Result};
use crate::core::hostd;
use crate::core::plan::{PlanInForce, stored_allocation};
use crate::core::saved_templates::require_saved_template;
use crate::planning::removed_files::{archived_at, removed_files_notes};
use crate::planning::{file_access, render};
use crate::work::skills::SkillSet;
use crate::work::state::WorkState;
use abbey_agents::arguments::convert_arguments;
use abbey_api::{
    ChangeEffect, ManifestBody, PlanAction, PlanChange, PlanDoc, PlanNote, PlanSeverity, PlanStep,
    Problem, VERSION,
};
use abbey_model::{
    CellKind, CellName, DesiredState, FaultKind, FirstFiles, Generation, Metric, Principal, Scope,
    SecretRef, Slug, Window,
};
use abbey_plan::{
    Action, AgentBudget, AppliedPlan, Charter, CurrentHouse, Effect, Endpoint, Inventory, Note,
    Plan, Registry, ResourceKind, ServiceKind, Severity, templates,
};
use abbey_store::{BudgetLimit, CellChange, NewGeneration};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Largest charter, bytes.
pub const CHARTER_MAX: usize = 64 << 10;

/// A parsed manifest with its plan.
struct Planned {
    house: abbey_plan::House,
    plan: Plan,
    charters: BTreeMap<Slug, String>,
    renamed: Vec<(Slug, Slug)>,
    first_files: Vec<(Slug, FirstFiles)>,
    based_on: Generation,
    newest_uid: u32,
}

/// Plans a manifest and changes nothing. `runs_as` is the user that the control plane will run as,
/// if another user plans in its place; `held_up` is why the house can't start.
pub(crate) async fn plan_without_applying(
    work: &Arc<WorkState>,
    body: ManifestBody,
    runs_as: Option<u32>,
    held_up: Option<String>,
) -> Result<PlanDoc> {
    let mut planned = plan_manifest(work, &body).await?;
    planned.plan.notes.extend(held_up.map(|text| Note {
        severity: Severity::Fatal,
        subject: "house".to_owned(),
        text,
    }));
    if let Some(user) = runs_as {
        let closed = file_access::unreadable_files(&planned.house, &body.base_dir, user);
        let fatal = closed.into_iter().map(|(subject, text)| Note {
            severity: Severity::Fatal,
            subject,
            text,
        });
        planned.plan.notes.extend(fatal);
    }
    let mut document = plan_document(&planned.plan, false);
    if let Some(kind) = &body.render {
        let registry = &planned.plan.registry;
        document.rendered = Some(render::render_for_host(&planned.house, registry, kind)?);
    }
    Ok(document)
}

/// Plans a manifest and commits the plan if it has no fatal note. `seen` is the generation that the
/// caller read; a newer one in force is an error. The caller holds the lock on plan changes,
/// reopens the operator API's listener, and then calls [`carry_out_plan`].
pub(crate) async fn commit_manifest(
    work: &Arc<WorkState>,
    body: ManifestBody,
    seen: Option<u64>,
    who: Principal,
) -> Result<PlanDoc> {
    if work.core.shutdown.is_requested() {
        let text = "the house is shutting down, and nothing can be changed; run `abbey up` again";
        return Err(Problem::new(FaultKind::Unavailable, text).into());
    }
    let planned = plan_manifest(work, &body).await?;
    if let Some(seen) = seen
        && seen != planned.based_on.0
    {
        let current = planned.based_on.0;
        return Err(abbey_store::Error::Stale {
            what: "the plan".to_owned(),
            seen,
            current,
        }
        .into());
    }
    if planned.plan.is_fatal() {
        let fatal = planned
            .plan
            .notes
            .iter()
            .filter(|n| n.severity == Severity::Fatal);
        let mut problem = Problem::new(
            FaultKind::Conflict,
            "the plan cannot be carried out on this host, for the reasons listed; nothing was changed",
        );
        problem.mistakes = fatal
            .map(|n| format!("{}: {}", n.subject, n.text))
            .collect();
        return Err(problem.into());
    }
    require_consent(&planned.plan, &body.consent)?;
    let environment = body.environment.clone().into_iter();
    let environment = environment.map(|(name, value)| (name, value.into()));
    let delivered = work.core.secrets.deliver_environment(environment);
    if !delivered.is_empty() {
        let note = abbey_store::NewAuditEntry {
            actor: who.clone(),
            action: "secrets.deliver".to_owned(),
            entity: "house".to_owned(),
            detail: serde_json::json!({ "variables": delivered }),
        };
        work.core.store.append_audit_entry(note).await?;
    }
    work.skills.reload();
    if !planned.plan.is_empty() {
        commit_plan(work, &planned, &body, who).await?;
    }
    work.cells.note_manifest();
    Ok(plan_document(&planned.plan, true))
}

/// Refuses a plan with a step that removes something without consent to it.
fn require_consent(plan: &Plan, consent: &[String]) -> std::result::Result<(), Problem> {
    let steps = plan.steps.iter();
    let refused: Vec<String> = steps
        .filter(|s| !consent.contains(&s.subject()))
        .filter_map(|s| s.removes.clone())
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    let text = "the plan requires consent; nothing was changed";
    let mut problem = Problem::new(FaultKind::Conflict, text)
        .remedy("repeat it with `--yes`, or with the steps under `consent`");
    problem.mistakes = refused;
    Err(problem)
}

/// Provisions the files of the plan in force, admits waiting tasks again, and requests a reconciler
/// pass, also if an owner could not be provisioned: it holds up no other.
pub(crate) async fn carry_out_plan(work: &Arc<WorkState>) -> Result<()> {
    let provisioned = provision::provision_plan(&work.cells).await;
    work.readmit_waiting_tasks().await?;
    work.cells.request_fresh_start(None);
    provisioned
}

/// Logs each change of an agent's model to the audit log: actor, reason, old and new model (S3-05).
async fn log_model_changes(
    work: &Arc<WorkState>,
    before: &AppliedPlan,
    planned: &Planned,
    reason: Option<&str>,
    who: &Principal,
) -> Result<()> {
    for (slug, (model, _)) in &planned.plan.applied.models {
        let Some((old, _)) = before.models.get(slug).filter(|(old, _)| old != model) else {
            continue;
        };
        let note = abbey_store::NewAuditEntry {
            actor: who.clone(),
            action: "agent.model".to_owned(),
            entity: format!("agent-{slug}"),
            detail: serde_json::json!({
                "from": old,
                "to": model,
                "reason": reason,
                "generation": planned.plan.generation,
                "effective": "from its next run on",
            }),
        };
        work.core.store.append_audit_entry(note).await?;
    }
    Ok(())
}

/// Stores the plan as a generation, puts it in force, and sets new cells to `up`.
async fn commit_plan(
    work: &Arc<WorkState>,
    planned: &Planned,
    body: &ManifestBody,
    who: Principal,
) -> Result<()> {
    let before = work
        .core
        .plan
        .current()
        .map(|c| c.applied.clone())
        .unwrap_or_default();
    let plan = &planned.plan;
    let changed = changed_providers(work, planned);
    let internal =
        |e: serde_json::Error| Error::Problem(Problem::new(FaultKind::Internal, e.to_string()));
    let commit = NewGeneration {
        generation: plan.generation.0,
        based_on: planned.based_on.0,
        actor: who.clone(),
        manifest: body.manifest.clone(),
        base_dir: body.base_dir.clone(),
        applied: serde_json::to_value(&plan.applied).map_err(internal)?,
        charters: serde_json::to_value(&planned.charters).map_err(internal)?,
        steps: serde_json::to_value(&plan.steps).map_err(internal)?,
        allocations: plan.registry.rows().map(stored_allocation).collect(),
        newest_uid: planned.newest_uid,
        budgets: budget_limits(&planned.house),
        timezone: planned.house.budget.timezone.clone(),
        renamed: planned.renamed.clone(),
        first_files: planned.first_files.clone(),
        hooks: planned.house.hooks.keys().cloned().collect(),
    };
    abbey_cells::crash::point("plan.commit");
    work.core.store.commit_generation(commit).await?;
    abbey_cells::crash::point("plan.committed");
    work.core.plan.replace(PlanInForce {
        house: planned.house.clone(),
        generation: plan.generation.0,
        applied: plan.applied.clone(),
        registry: plan.registry.clone(),
        newest_uid: planned.newest_uid,
        charters: planned.charters.clone(),
        manifest: body.manifest.clone(),
        base_dir: body.base_dir.clone(),
        left_out: Vec::new(),
    });
    log_model_changes(work, &before, planned, body.reason.as_deref(), &who).await?;
    work.providers.forget(changed, who).await?;
    // Only new cells are set to up: a stopped agent stays stopped.
    let known = work.core.store.cells().await?;
    let agents = planned.house.agents.keys().cloned().map(CellName::Agent);
    let services = planned
        .house
        .services
        .keys()
        .cloned()
        .map(CellName::Service);
    for cell in agents.chain(services).filter(|c| !known.contains_key(c)) {
        let change = CellChange {
            desired: Some((DesiredState::Up, None)),
            history: None,
        };
        work.core.store.set_cell(cell, change).await?;
    }
    Ok(())
}

/// Providers of the plan in force that the new plan changes or no longer has.
fn changed_providers(work: &WorkState, planned: &Planned) -> Vec<String> {
    let Some(current) = work.core.plan.current() else {
        return Vec::new();
    };
    let providers = current.house.providers.iter();
    let changed = providers.filter(|(name, old)| {
        let mut new = planned.house.providers.iter();
        new.find(|(n, _)| n == name)
            .is_none_or(|(_, new)| new != *old)
    });
    changed.map(|(name, _)| name.to_string()).collect()
}

/// Parses a manifest.
///
/// # Errors
/// One problem that lists every mistake.
pub(crate) fn parse_manifest(text: &str) -> std::result::Result<abbey_plan::House, Problem> {
    abbey_plan::parse(text).map_err(|mistakes| {
        let count = mistakes.len();
        let mut problem = Problem::new(
            FaultKind::Invalid,
            format!(
                "the manifest has {count} mistake{}",
                if count == 1 { "" } else { "s" }
            ),
        );
        problem.mistakes = mistakes.iter().map(ToString::to_string).collect();
        problem
    })
}

/// Parses a manifest and plans it against the host and the plan in force.
async fn plan_manifest(work: &Arc<WorkState>, body: &ManifestBody) -> Result<Planned> {
    let parsed = parse_manifest(&body.manifest)?;
    let charters = load_charters(&parsed, body)?;
    let current = work.core.plan.current();
    // After the plan in force and before the host, so that no renaming is missed that the plan has and the host has not.
    let pending = work.core.store.pending_renames().await?;
    let pending: Vec<(Slug, Slug)> = pending.into_iter().map(|r| (r.old, r.new)).collect();
    let helper = Arc::clone(&work.core.hostd);
    let containers = parsed.agents.values();
    let containers = containers.filter(|a| a.cell == CellKind::Container);
    let images = containers.map(|a| a.image.clone()).collect();
    let sizes_of = agents_with_drives(&parsed, current.as_deref());
    let mut host = hostd::call_blocking(move || helper.observe_host_for(images, sizes_of)).await?;
    let (generation, applied, registry, newest_uid) = match &current {
        Some(c) => (
            Generation(c.generation),
            c.applied.clone(),
            c.registry.clone(),
            c.newest_uid,
        ),
        None => (
            Generation(0),
            AppliedPlan::default(),
            Registry::default(),
            0,
        ),
    };
    // A port of the plan in force is no obstacle where the house itself has it: its cells release what they are to
    // release before another one starts, and a listener that moves is closed first.
    let own = registry.rows().filter(|r| r.kind == ResourceKind::Port);
    for port in own.filter_map(abbey_plan::Allocation::port) {
        if !host.foreign_ports.contains(&port) {
            host.ports.remove(&port);
        }
    }
    let operator_address = &work.cells.net.operator_address;
    let listens_elsewhere = operator_address.fixed().is_some();
    let moves = current.as_ref().map(|c| c.house.listen.address) != Some(parsed.listen.address);
    if let Some(bound) = operator_address
        .bound_address()
        .filter(|_| moves && !listens_elsewhere)
    {
        host.ports.remove(&bound.port());
    }
    let access = service_access::known_access(&work.cells).await?;
    let mut inventory = Inventory {
        generation,
        applied,
        current: current.as_ref().map(|c| CurrentHouse {
            house: c.house.clone(),
            charters: c.charters.clone(),
        }),
        registry,
        newest_uid,
        host,
        listens_elsewhere,
        charters: charters.clone(),
        renamed: BTreeMap::new(),
        restored: BTreeMap::new(),
        access: service_access::planned_access(&access),
        now: work.core.store.now(),
    };
    inventory.settle_pending_renames(&pending);
    let renamed = parse_renamed(&body.renamed, &parsed)?;
    for (old, new) in &renamed {
        let manifest = current.as_ref().map_or("", |c| c.manifest.as_str());
        inventory
            .rename_agent(old, new, manifest)
            .map_err(|m| refused_renaming(old, new, &m))?;
    }
    let first_files = check_first_files(work, &body.first_files, &parsed).await?;
    inventory.restored = archived_at(&first_files);
    // By their names in force: a renaming moves files only once it is.
    let lost = match &current {
        Some(current) => find_lost_files(&work.cells, &current.house, &inventory.host).await?,
        None => BTreeMap::new(),
    };
    let mut plan = abbey_plan::plan(&parsed, &inventory);
    plan.notes.extend(lost_files_notes(lost, &parsed, &renamed));
    let new = inventory.new_agents(&parsed);
    let notes = removed_files_notes(&work.core.hostd, new, &first_files).await;
    plan.notes.extend(notes);
    // What is left out of the manifest in force changes nothing by being corrected, yet its text is to be replaced.
    if plan.is_empty() && current.is_some_and(|c| !c.left_out.is_empty()) {
        plan.replace_text(
            "the manifest in force has a part that this version refuses and leaves out",
        );
    }
    plan.notes
        .extend(check_against_host(work, &parsed, body, &inventory.host));
    let uids = plan
        .registry
        .rows()
        .filter(|r| r.purpose == "uid")
        .filter_map(|r| r.value.parse().ok());
    let newest_uid = uids.max().unwrap_or(0).max(newest_uid);
    Ok(Planned {
        house: parsed,
        plan,
        charters,
        renamed,
        first_files,
        based_on: generation,
        newest_uid,
    })
}

/// Agents of the plan in force that have drives there, or have them in the manifest.
fn agents_with_drives(parsed: &abbey_plan::House, current: Option<&PlanInForce>) -> BTreeSet<Slug> {
    let before = current.map(|c| &c.house.agents).into_iter().flatten();
    let with_drives = before.filter(|(slug, old)| {
        let mut agents = parsed.agents.get(*slug).into_iter().chain([*old]);
        agents.any(|a| a.disks().is_some() || a.cell == CellKind::Microvm)
    });
    with_drives.map(|(slug, _)| slug.clone()).collect()
}

/// Fatal notes about agents and services that the manifest keeps and whose files are gone.
fn lost_files_notes(
    lost: BTreeMap<CellName, String>,
    parsed: &abbey_plan::House,
    renamed: &[(Slug, Slug)],
) -> Vec<Note> {
    let kept = lost.into_iter().filter(|(owner, _)| match owner {
        CellName::Agent(slug) => {
            parsed.agents.contains_key(slug) || renamed.iter().any(|(old, _)| old == slug)
        }
        CellName::Service(slug) => parsed.services.contains_key(slug),
        CellName::Run(_) => false,
    });
    let note = |(owner, text): (CellName, String)| Note {
        severity: Severity::Fatal,
        subject: owner.owner(),
        text,
    };
    kept.map(note).collect()
}

/// Agents that a request renames, as old and new name.
///
/// # Errors
/// If a name is not one, or the manifest of the request does not have the agent under its new name alone.
fn parse_renamed(
    renamed: &BTreeMap<String, String>,
    parsed: &abbey_plan::House,
) -> std::result::Result<Vec<(Slug, Slug)>, Problem> {
    let slug = |text: &String| {
        text.parse::<Slug>()
            .map_err(|e| Problem::new(FaultKind::Invalid, format!("`renamed`: {e}")))
    };
    let mut names = Vec::new();
    for (old, new) in renamed {
        let (old, new) = (slug(old)?, slug(new)?);
        if parsed.agents.contains_key(&old) || !parsed.agents.contains_key(&new) {
            let text = format!(
                "`renamed`: the manifest must have agent `{new}`, and `{old}` no more; nothing was changed"
            );
            return Err(Problem::new(FaultKind::Invalid, text));
        }
        names.push((old, new));
    }
    Ok(names)
}

/// New agents of a request with the source of their first files.
///
/// # Errors
/// If an agent is not a new one of the manifest, or there are no such files.
async fn check_first_files(
    work: &WorkState,
    requested: &BTreeMap<String, String>,
    parsed: &abbey_plan::House,
) -> Result<Vec<(Slug, FirstFiles)>> {
    let invalid =
        |e: &dyn std::fmt::Display| Problem::new(FaultKind::Invalid, format!("`first_files`: {e}"));
    let mut checked = Vec::new();
    for (agent, source) in requested {
        let agent: Slug = agent
            .parse()
            .map_err(|e| invalid(&e as &abbey_model::SlugError))?;
        let source: FirstFiles = source.parse().map_err(|e: String| invalid(&e))?;
        let current = work.core.plan.current();
        let exists = current.is_some_and(|c| c.house.agents.contains_key(&agent));
        if exists || !parsed.agents.contains_key(&agent) {
            let text = format!(
                "only a new agent of the manifest gets first files, and `{agent}` is not one; nothing was changed"
            );
            return Err(Problem::new(FaultKind::Conflict, text).into());
        }
        match &source {
            FirstFiles::Template(name) => {
                require_saved_template(&work.core.home, name)?;
            }
            FirstFiles::Agent(original) => {
                let current = work.core.plan.current();
                let exists = current.is_some_and(|c| c.house.agents.contains_key(original));
                if !exists || !parsed.agents.contains_key(original) {
                    let text = format!("there is no agent `{original}`; nothing was changed");
                    return Err(Problem::new(FaultKind::NotFound, text).into());
                }
            }
            FirstFiles::Archive(stamp) => {
                let kept = hostd::archived_files(&work.core.hostd, &agent).await?;
                if !kept.contains(stamp) {
                    let kept = match kept.is_empty() {
                        true => "none are kept".to_owned(),
                        false => format!("those of {} are kept", kept.join(", ")),
                    };
                    let text = format!(
                        "no files of agent `{agent}` have the time stamp {stamp}: {kept}; nothing was changed"
                    );
                    return Err(Problem::new(FaultKind::NotFound, text).into());
                }
            }
        }
        checked.push((agent, source));
    }
    Ok(checked)
}

/// Why the plan in force cannot be renamed.
fn refused_renaming(old: &Slug, new: &Slug, mistakes: &[abbey_plan::Mistake]) -> Problem {
    let text = format!("agent `{old}` cannot be renamed to `{new}`; nothing was changed");
    let mut problem = Problem::new(FaultKind::Conflict, text);
    problem.mistakes = mistakes.iter().map(|m| m.text.clone()).collect();
    problem
}

/// Fatal notes about what only the running control plane can check: secrets, programs, ports,
/// skills.
fn check_against_host(
    work: &WorkState,
    parsed: &abbey_plan::House,
    body: &ManifestBody,
    host: &abbey_plan::HostFacts,
) -> Vec<Note> {
    let mut notes = Vec::new();
    let models = parsed.agents.values().filter_map(|a| a.model.as_ref());
    let used: BTreeSet<String> = models.map(|m| format!("provider:{}", m.provider)).collect();
    let mut fatal = |subject: String, text: String| {
        // What nobody uses holds nobody up.
        let unused = subject.starts_with("provider:") && !used.contains(&subject);
        notes.push(Note {
            severity: match unused {
                true => Severity::Warning,
                false => Severity::Fatal,
            },
            subject,
            text,
        })
    };
    let comes_along = |secret: &SecretRef| matches!(secret, SecretRef::Env(name) if body.environment.contains_key(name));
    for (subject, secret) in parsed.secrets().filter(|(_, s)| !comes_along(s)) {
        if let Err(text) = work.core.secrets.read_secret(secret, &body.base_dir) {
            fatal(subject, text);
        }
    }
    for (name, provider) in &parsed.providers {
        if let Endpoint::Service(service) = &provider.endpoint
            && parsed.services.get(service).is_some_and(|s| !s.shared)
        {
            fatal(
                format!("provider:{name}"),
                format!("its service `{service}` is not shared; set `shared: true` on it"),
            );
        }
    }
    for service in parsed.services.values() {
        if service.at.is_some() {
            continue;
        }
        let found = match service.kind {
            ServiceKind::Command | ServiceKind::Tools => {
                specs::resolve_program(&service.command, &body.base_dir).map(drop)
            }
            kind => abbey_services::check_installed(kind.name()).map_err(|e| e.to_string()),
        };
        if let Err(text) = found {
            fatal(format!("service:{}", service.slug), text);
        }
    }
    let listen = parsed.listen.address;
    let moved = work
        .core
        .plan
        .current()
        .is_none_or(|c| c.house.listen.address != listen)
        && work.cells.net.operator_address.fixed().is_none();
    if moved
        && listen.port() != 0
        && let Err(e) = std::net::TcpListener::bind(listen)
        // What holds it may be what the plan takes it from.
        && (e.kind() != std::io::ErrorKind::AddrInUse || host.ports.contains_key(&listen.port()))
    {
        let holder = host.ports.get(&listen.port()).cloned();
        let why = holder.map_or_else(|| e.to_string(), |h| format!("the port is in use by {h}"));
        fatal(
            "listen".to_owned(),
            format!(
                "the operator API cannot listen on {listen}: {why}; stop that process or set another `listen.address`"
            ),
        );
    }
    if let Some((certificate, key)) = &parsed.listen.tls
        && let Err(text) = crate::core::tls::load_tls_acceptor(
            &work.core.secrets,
            &body.base_dir,
            certificate,
            key,
        )
    {
        fatal("listen".to_owned(), text);
    }
    // Read again, since files on disk may be newer than the loaded library.
    let skills = SkillSet::load(&work.core.home.skills_dir());
    for agent in parsed.agents.values() {
        for (name, schedule) in &agent.schedules {
            // A skill that does not exist is reported below, with the other skills of the agent.
            if let abbey_plan::ScheduleAction::Skill(skill, args) = &schedule.action
                && let Some(found) = skills.all.get(skill)
                && let Err(why) = abbey_agents::skill::check_arguments(
                    &found.args,
                    &serde_json::json!(convert_arguments(&found.args, args.clone())),
                )
            {
                let text = format!("its schedule `{name}`: skill `{skill}`: {why}");
                fatal(format!("agent:{}", agent.slug), text);
            }
            if let Err(why) =
                crate::work::schedules::parse_timing(schedule, &parsed.budget.timezone)
            {
                fatal(
                    format!("agent:{}", agent.slug),
                    format!("its schedule `{name}`: {why}"),
                );
            }
        }
    }
    for agent in parsed.agents.values() {
        for skill in agent.skills.iter().filter(|s| !skills.all.contains_key(*s)) {
            let text = skills.why_invalid(skill).unwrap_or_else(|| {
                format!("there is no skill `{skill}`; `abbey skill list` shows all")
            });
            fatal(format!("agent:{}", agent.slug), text);
        }
        for (name, wanted) in &agent.pins {
            let is = skills
                .all
                .get(name)
                .map(|s| s.version.as_deref().unwrap_or("none"));
            if let Some(is) = is.filter(|is| *is != wanted.as_str()) {
                let text = format!(
                    "it requires `{name}@{wanted}`, but the house has version {is}; review the changes, then write `{name}@{is}`"
                );
                fatal(format!("agent:{}", agent.slug), text);
            }
        }
    }
    notes
}

/// Charter text of each agent, from a template or from the request.
///
/// # Errors
/// A problem that lists every charter that is missing or too large.
fn load_charters(
    parsed: &abbey_plan::House,
    body: &ManifestBody,
) -> Result<BTreeMap<Slug, String>> {
    let mut charters = BTreeMap::new();
    let mut mistakes = Vec::new();
    for agent in parsed.agents.values() {
        let text = match &agent.charter {
            Charter::Stock(name) => templates::find(name).map(|t| t.charter.to_owned()),
            Charter::File(path) => body.charters.get(path).cloned(),
        };
        match text {
            Some(text) if text.len() <= CHARTER_MAX => {
                drop(charters.insert(agent.slug.clone(), text))
            }
            Some(_) => mistakes.push(format!(
                "line {}: the charter of agent `{}` is larger than {CHARTER_MAX} bytes",
                agent.line, agent.slug
            )),
            None => mistakes.push(format!(
                "line {}: the charter of agent `{}` cannot be read",
                agent.line, agent.slug
            )),
        }
    }
    if mistakes.is_empty() {
        return Ok(charters);
    }
    let mut problem = Problem::new(
        FaultKind::Invalid,
        "the request is missing the text of charter files that the manifest names",
    );
    problem.mistakes = mistakes;
    Err(problem.into())
}

/// Budget limits of the house and of each agent; metrics that are always counted have an entry
/// without a limit.
fn budget_limits(house: &abbey_plan::House) -> Vec<BudgetLimit> {
    let mut limits = Vec::new();
    let mut add = |scope: Scope, budget: &AgentBudget| {
        let values = [
            (Metric::Tokens, budget.tokens, true),
            (Metric::NanoUsd, budget.nano_usd, true),
            (Metric::Runs, budget.runs, true),
            (Metric::Seconds, budget.seconds, false),
        ];
        for (metric, limit, always) in values {
            if always || limit.is_some() {
                let warn_percent = house.budget.warn_percent;
                limits.push(BudgetLimit {
                    scope: scope.clone(),
                    metric,
                    window: Window::Day,
                    limit,
                    warn_percent,
                });
            }
        }
    };
    add(Scope::House, &house.budget.limits());
    for agent in house.agents.values() {
        add(Scope::Agent(agent.slug.clone()), &agent.budget());
    }
    limits
}

fn change_view(change: &abbey_plan::KeyChange) -> PlanChange {
    PlanChange {
        key: change.key.clone(),
        old: change.old.clone(),
        new: change.new.clone(),
        effect: match change.effect {
            Effect::Restart => ChangeEffect::Restart,
            Effect::Live => ChangeEffect::Live,
            Effect::None => ChangeEffect::None,
        },
    }
}

fn plan_document(plan: &Plan, applied: bool) -> PlanDoc {
    PlanDoc {
        rendered: None,
        version: VERSION,
        generation: plan.generation.0,
        applied: applied && !plan.is_empty(),
        requires_consent: plan.steps.iter().any(|s| s.removes.is_some()),
        steps: plan
            .steps
            .iter()
            .map(|s| PlanStep {
                id: s.id,
                action: match s.action {
                    Action::Create => PlanAction::Create,
                    Action::Update => PlanAction::Update,
                    Action::Restart => PlanAction::Restart,
                    Action::Remove => PlanAction::Remove,
                    Action::NotApplicable => PlanAction::NotApplicable,
                },
                resource: s.resource.clone(),
                agent: s.agent.clone(),
                detail: s.detail.clone(),
                removes: s.removes.clone(),
                changes: s.changes.iter().map(change_view).collect(),
            })
            .collect(),
        notes: plan
            .notes
            .iter()
            .map(|n| PlanNote {
                severity: match n.severity {
                    Severity::Info => PlanSeverity::Info,
                    Severity::Warning => PlanSeverity::Warning,
                    Severity::Fatal => PlanSeverity::Fatal,
                },
                subject: n.subject.clone(),
                text: n.text.clone(),
            })
            .collect(),
    }
}
