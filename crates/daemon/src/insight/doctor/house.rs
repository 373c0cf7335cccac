//! Checks of the foundations of a house: database, credentials, hostd, and host.

use super::checks::Checks;
use crate::cells::lost_files::find_lost_files;
use crate::core::error::{Error, Result};
use crate::core::runtime;
use crate::core::{audit_checkpoints, checkpoint_sinks};
use crate::work::state::WorkState;
use abbey_api::{CheckSeverity, Problem, Time};
use abbey_engine::saga::State;
use abbey_model::{CellKind, Metric, Millis};
use abbey_plan::HostFacts;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Open files that a program in a cell may have where the host allows it.
const FILES_USUAL: u64 = 4096;
/// Most that the store's clock may be ahead of the host's, milliseconds.
const CLOCK_AHEAD_MOST: i64 = 2000;

/// Age of an undelivered head from which on its sink lags.
const SINK_LATE: Millis = Millis::from_secs(120);

/// Longest wait for hostd.
const HOSTD_WITHIN: Duration = Duration::from_secs(4);

/// Adds checks of the audit log, budgets, disk space, hostd and the host's features, and returns the host facts, if a
/// hostd reported them. `running`: whether the control plane runs, so that it has an address and a hostd.
pub(super) async fn check_host(
    work: &Arc<WorkState>,
    running: bool,
    checks: &mut Checks,
) -> Result<Option<HostFacts>> {
    let mut add = |id: &str, good, severity: CheckSeverity, text, remedy: &str| {
        checks.add(id, good, severity, text, remedy);
    };
    // What could not be checked says nothing about the log.
    let unchecked = |error: Error| {
        let problem = Problem::from(error);
        (problem.detail, problem.remedy.unwrap_or_default())
    };
    match audit_checkpoints::verify_audit_log(&work.core).await {
        Err(error) => {
            let (text, remedy) = unchecked(error);
            add("activity_chain", false, CheckSeverity::Warn, text, &remedy);
        }
        Ok(verdict) => add(
            "activity_chain",
            verdict.ok,
            CheckSeverity::Fail,
            match &verdict.why {
                None => format!(
                    "{} entries verify, {} signed checkpoints",
                    verdict.entries, verdict.checkpoints
                ),
                Some(why) => format!(
                    "entry {} does not verify: {why}",
                    verdict.first_bad.unwrap_or(0)
                ),
            },
            "keep the file as evidence and restore a backup from before that entry",
        ),
    }
    let plan = work.core.plan.current();
    let left_out: Vec<String> = plan.map_or_else(Vec::new, |plan| plan.left_out.clone());
    if !left_out.is_empty() {
        let applied = match work.core.store.current_generation().await? {
            Some(row) => format!(
                " (generation {}, applied {} ago, at {})",
                row.generation,
                work.core.store.now().since(row.at).human(),
                Time(row.at)
            ),
            None => String::new(),
        };
        checks.add(
            "manifest",
            false,
            CheckSeverity::Warn,
            format!(
                "this version refuses a part of the manifest in force{applied}, and leaves it out: {}",
                left_out.join("; ")
            ),
            "change those lines of the manifest, then run `abbey up`",
        );
    }
    if let Err(error) = check_sinks(work, checks).await {
        let (text, remedy) = unchecked(error);
        checks.add(
            "checkpoint_sinks",
            false,
            CheckSeverity::Warn,
            text,
            &remedy,
        );
    }
    let mut add = |id: &str, good, severity: CheckSeverity, text, remedy: &str| {
        checks.add(id, good, severity, text, remedy);
    };
    let accounts = work.core.store.budgets().await?;
    let over = accounts
        .iter()
        .filter(|a| a.metric == Metric::Tokens && a.remaining() == Some(0) && a.limit != Some(0))
        .count();
    add(
        "budgets",
        over == 0,
        CheckSeverity::Warn,
        match over {
            1 => "1 token budget is used up".to_owned(),
            n => format!("{n} token budgets are used up"),
        },
        "raise them in the manifest, or wait for their reset (`abbey budget show`)",
    );
    super::files::check_place(&work.core.home, checks);
    super::files::check_disk_space(&work.core.home, checks);
    if let Some(files) = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum
        && files < FILES_USUAL
    {
        checks.add(
            "open_files",
            false,
            CheckSeverity::Warn,
            format!("the control plane may open only {files} files, and so may each program in a cell"),
            "raise the limit to 4096 or more with `ulimit -n` before `abbey up`, or with `LimitNOFILE=` in its unit",
        );
    }
    super::files::check_home_files(&work.core.home, checks);
    let mut add = |id: &str, good, severity: CheckSeverity, text, remedy: &str| {
        checks.add(id, good, severity, text, remedy);
    };
    let planned = work.core.plan.current();
    if let Some(current) = planned.filter(|_| running) {
        let bound = work.cells.net.operator_address.bound_text();
        add(
            "operator_address",
            !bound.is_empty(),
            CheckSeverity::Fail,
            match bound.is_empty() {
                false => format!("the operator API answers at {bound}"),
                true => format!(
                    "the operator API could not listen on {}; it answers at its Unix socket only",
                    current.house.listen.address
                ),
            },
            "free that address or set another `listen.address`, then run `abbey up`",
        );
    }
    let skills = work.skills.current();
    add(
        "skills",
        skills.invalid.is_empty(),
        CheckSeverity::Warn,
        match skills.invalid.as_slice() {
            [] => format!("{} skills are valid", skills.all.len()),
            [one] => one.to_string(),
            [first, ..] => {
                let names = skills.invalid.iter().map(|s| format!("`{}`", s.name));
                let names: Vec<String> = names.collect();
                format!(
                    "{} skills are not valid: {}; {first}",
                    names.len(),
                    names.join(", ")
                )
            }
        },
        "`abbey skill check DIR` lists every mistake",
    );
    let stuck = work
        .core
        .store
        .open_sagas()
        .await?
        .into_iter()
        .filter(|s| matches!(s.state, State::Stuck(_)))
        .count();
    add(
        "sagas",
        stuck == 0,
        CheckSeverity::Fail,
        format!("{stuck} sagas are stuck"),
        "read the log of the control plane, fix the cause, and apply the manifest again",
    );
    if running {
        add(
            "control_plane",
            true,
            CheckSeverity::Info,
            format!(
                "{} model calls and {} skipped wakes since its start",
                work.counters.model_calls.load(Ordering::Relaxed),
                work.counters.wakes_skipped.load(Ordering::Relaxed)
            ),
            "",
        );
    }
    check_clock(work, checks);
    check_credentials(work, checks);
    let facts = match running {
        true => ask_hostd(work, checks).await,
        false => super::offline::observe_without_hostd(work, checks).await,
    };
    if let Some(facts) = &facts {
        check_features(work, facts, checks);
        check_files(work, facts, checks).await?;
    }
    Ok(facts)
}

/// Checks that each agent and service which was started before has its files.
async fn check_files(work: &Arc<WorkState>, facts: &HostFacts, checks: &mut Checks) -> Result<()> {
    let Some(current) = work.core.plan.current() else {
        return Ok(());
    };
    let lost = find_lost_files(&work.cells, &current.house, facts).await?;
    for (owner, why) in lost {
        checks.add(
            &format!("files.{}", owner.slug()),
            false,
            CheckSeverity::Fail,
            format!("{}: {why}", owner.owner()),
            "`abbey up` changes nothing until then",
        );
    }
    Ok(())
}

/// Checks that every checkpoint sink has what was signed. A delivery that is under way is no finding.
async fn check_sinks(work: &Arc<WorkState>, checks: &mut Checks) -> Result<()> {
    let sinks = checkpoint_sinks::sink_views(&work.core).await?;
    let now = work.core.store.now();
    let late = sinks.iter().filter_map(|sink| {
        let since = sink.missing_since?;
        let late = sink.failing.is_some() || now.since(since.0) > SINK_LATE;
        let why = sink.failing.as_deref();
        let why = why.unwrap_or("the delivery has not ended");
        late.then(|| {
            format!(
                "`{}` lacks {} signed heads of the audit log, the oldest of {since}: {why}",
                sink.name, sink.missing
            )
        })
    });
    let late: Vec<String> = late.collect();
    let sinks = sinks.len();
    if sinks > 0 {
        let text = match late.is_empty() {
            true => format!("{sinks} checkpoint sinks have every signed head of the audit log"),
            false => late.join("; "),
        };
        checks.add(
            "checkpoint_sinks",
            late.is_empty(),
            CheckSeverity::Warn,
            text,
            "make the sink reachable, or change `checkpoint_sinks` in the manifest; nothing is lost meanwhile, and the rest is delivered in order",
        );
    }
    Ok(())
}

/// Host facts from hostd, and a check that it answers.
async fn ask_hostd(work: &Arc<WorkState>, checks: &mut Checks) -> Option<HostFacts> {
    let hostd = Arc::clone(&work.core.hostd);
    let call =
        crate::core::hostd::call_blocking(move || Ok((hostd.hello()?, hostd.observe_host()?)));
    let answer = work.core.rt.timeout(HOSTD_WITHIN, call).await;
    let (text, facts) = match answer {
        Ok(Ok((hello, facts))) => {
            let privilege = if hello.privileged { "with" } else { "without" };
            let text = format!(
                "hostd answers as process {} {privilege} privilege",
                hello.pid
            );
            (text, Some(facts))
        }
        Ok(Err(error)) => (error.chain(), None),
        Err(_) => {
            let pid = abbey_cells::hostd::listening_process(work.core.home.root());
            let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            let seconds = HOSTD_WITHIN.as_secs();
            let text = format!("hostd{process} does not answer within {seconds} s");
            (text, None)
        }
    };
    checks.add(
        "hostd",
        facts.is_some(),
        CheckSeverity::Fail,
        text,
        "if its process is stopped or hangs, end it (`kill -9 PID`); `abbey up` starts hostd again, and cells go on without it",
    );
    facts
}

/// Adds checks of what the host can do for cells.
fn check_features(work: &Arc<WorkState>, facts: &HostFacts, checks: &mut Checks) {
    let mut add = |id: &str, good, severity: CheckSeverity, text, remedy: &str| {
        checks.add(id, good, severity, text, remedy);
    };
    let limits = facts.no_limits.clone();
    add(
        "limits",
        limits.is_none(),
        CheckSeverity::Warn,
        limits.map_or_else(
            || "control groups enforce memory, CPU and processes".to_owned(),
            |why| format!("limits cannot be enforced: {why}"),
        ),
        "run as root or delegate a control group",
    );
    let network = facts.no_network.clone();
    add(
        "network",
        network.is_none(),
        CheckSeverity::Warn,
        network.map_or_else(
            || "cells can have their own networks".to_owned(),
            |why| format!("cells have loopback and the egress proxy only: {why}"),
        ),
        "start the house as root, with nftables installed",
    );
    let current = work.core.plan.current();
    let uses = |kind: CellKind| {
        let house = current.as_ref().map(|c| &c.house);
        house.is_some_and(|h| {
            h.agents.values().any(|a| a.cell == kind) || h.services.values().any(|s| s.cell == kind)
        })
    };
    let sandboxed = uses(CellKind::Sandbox) || uses(CellKind::Microvm);
    add(
        "sandboxes",
        facts.no_sandboxes.is_none() || !sandboxed,
        CheckSeverity::Warn,
        match &facts.no_sandboxes {
            None => "sandboxes can be built".to_owned(),
            Some(why) => format!("sandboxes cannot be built: {why}"),
        },
        "allow user namespaces (sysctl), or use another kind of cell",
    );
    add(
        "landlock",
        facts.no_landlock.is_none() || !sandboxed,
        CheckSeverity::Warn,
        match &facts.no_landlock {
            None => "sandboxes have the layer `landlock`".to_owned(),
            Some(why) => format!("sandboxes are without the layer `landlock`: {why}"),
        },
        "add `landlock` to the kernel's parameter `lsm=` and boot again",
    );
    let images = facts.images.len();
    add(
        "machines",
        facts.no_machines.is_none() || !uses(CellKind::Microvm),
        CheckSeverity::Warn,
        match &facts.no_machines {
            None => format!("microVMs can run; {images} images"),
            Some(why) => format!("microVMs cannot run: {why}"),
        },
        "install what is missing, then `abbey image build`",
    );
    add(
        "containers",
        facts.no_containers.is_none() || !uses(CellKind::Container),
        CheckSeverity::Warn,
        match &facts.no_containers {
            None => "containers can run".to_owned(),
            Some(why) => format!("containers cannot run: {why}"),
        },
        "install what is missing, or use another kind of cell",
    );
    let uids = facts.uid_first.is_some();
    add(
        "users",
        uids,
        CheckSeverity::Warn,
        if uids {
            "each agent has a user of its own"
        } else {
            "agents share the user of the house"
        }
        .to_owned(),
        "run the house as root for one user per agent",
    );
    let blocked = facts.forward_blocked_by.clone();
    add(
        "forwarding",
        blocked.is_none(),
        CheckSeverity::Fail,
        blocked.clone().map_or_else(
            || "no other firewall table drops what cells send".to_owned(),
            |by| format!("{by} drops what cells send to other hosts, so no direct `egress` works"),
        ),
        "accept the interfaces of the house in that chain; for Docker: `iptables -I DOCKER-USER -i IFACE+ -j ACCEPT` and `iptables -I DOCKER-USER -o IFACE+ -j ACCEPT`, with the prefix that the text names; for rules of `iptables-legacy`, `iptables-legacy -I FORWARD` in their place",
    );
}

/// Checks that the host's clock was not set back: the store's clock never goes back, so it is ahead until the host's
/// has caught up.
fn check_clock(work: &WorkState, checks: &mut Checks) {
    let ahead = work
        .core
        .store
        .now()
        .0
        .saturating_sub(runtime::host_wall_clock().0);
    checks.add(
        "clock",
        ahead <= CLOCK_AHEAD_MOST,
        CheckSeverity::Warn,
        match ahead <= CLOCK_AHEAD_MOST {
            true => "the clocks of the host and the control plane agree".to_owned(),
            false => format!(
                "the host's clock was set back: the control plane's clock is {} s ahead, and runs at half speed until both agree, in {} s; meanwhile schedules and budgets come early by what it is ahead",
                ahead / 1000,
                ahead / 500
            ),
        },
        "if the host's clock is wrong, correct it, by NTP if possible; if it was corrected, there is nothing to do",
    );
}

/// Checks that the control plane can read every secret that the manifest references.
fn check_credentials(work: &WorkState, checks: &mut Checks) {
    let Some(current) = work.core.plan.current() else {
        return;
    };
    let mut missing = Vec::new();
    let mut count = 0;
    for (subject, secret) in current.house.secrets() {
        count += 1;
        if let Err(why) = work.core.secrets.read_secret(secret, &current.base_dir) {
            missing.push(format!("{subject}: {why}"));
        }
    }
    checks.add(
        "credentials",
        missing.is_empty(),
        CheckSeverity::Fail,
        match missing.is_empty() {
            true => format!("{count} credentials can be read"),
            false => missing.join("; "),
        },
        "do what is said of each, then run `abbey up`",
    );
}
