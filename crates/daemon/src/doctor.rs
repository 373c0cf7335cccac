//! Checks of a house, each with a remedy.

use crate::error::Result;
use crate::house::House;
use crate::view;
use abbey_api::{CheckView, DoctorDoc, VERSION};
use abbey_engine::saga::State;
use abbey_model::{CellKind, CellName, Metric};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Free space below which the state is in danger, bytes.
const SPACE_LEAST: u64 = 64 << 20;

/// Runs every check.
pub(crate) async fn examine(house: &Arc<House>) -> Result<DoctorDoc> {
    let mut checks = Vec::new();
    let mut add = |id: &str, good: bool, severity: &str, text: String, remedy: &str| {
        checks.push(CheckView {
            id: id.to_owned(),
            severity: if good { "info" } else { severity }.to_owned(),
            state: if good {
                "ok"
            } else if severity == "fail" {
                "failed"
            } else {
                "attention"
            }
            .to_owned(),
            text,
            remedy: (!good).then(|| remedy.to_owned()),
        });
    };
    let verdict = house.store.verify().await?;
    add(
        "activity_chain",
        verdict.ok,
        "fail",
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
    );
    let accounts = house.store.budgets().await?;
    let over = accounts
        .iter()
        .filter(|a| a.metric == Metric::Tokens && a.left() == Some(0) && a.limit != Some(0))
        .count();
    add(
        "budgets",
        over == 0,
        "warn",
        format!("{over} token budgets are used up"),
        "raise them in the manifest, or wait for their reset (`abbey budget show`)",
    );
    let stat = rustix::fs::statvfs(house.home.root()).ok();
    let free = stat.map_or(0, |s| s.f_bavail * s.f_frsize);
    add(
        "disk_space",
        free >= SPACE_LEAST,
        "fail",
        format!("{} MiB are free for the state", free >> 20),
        "free some space on that file system",
    );
    let mode = std::fs::metadata(house.home.operator_token())
        .map_or(0o777, |m| m.permissions().mode() & 0o777);
    add(
        "operator_credential",
        mode == 0o600,
        "fail",
        format!("the operator's credential has mode {mode:03o}"),
        "chmod 600 the file `operator.token`",
    );
    let hostd = Arc::clone(&house.hostd);
    let helper = crate::hostd::ask(move || Ok((hostd.hello()?, hostd.observe()?))).await;
    add(
        "hostd",
        helper.is_ok(),
        "fail",
        match &helper {
            Ok((hello, _)) if hello.privileged => {
                format!("hostd answers as process {} with privilege", hello.pid)
            }
            Ok((hello, _)) => format!("hostd answers as process {} without privilege", hello.pid),
            Err(error) => error.chain(),
        },
        "`abbey up` starts it again; cells go on without it",
    );
    let facts = helper.ok().map(|(_, facts)| facts).unwrap_or_default();
    let limits = facts.no_limits;
    add(
        "limits",
        limits.is_none(),
        "warn",
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
        "warn",
        network.map_or_else(
            || "cells can have networks of their own".to_owned(),
            |why| format!("cells have loopback and the egress proxy only: {why}"),
        ),
        "start the house as root, with nftables installed",
    );
    let uses = |kind: CellKind| {
        let current = house.current();
        current.is_some_and(|c| c.house.agents.values().any(|a| a.cell == kind))
    };
    let images = facts.images.len();
    add(
        "machines",
        facts.no_machines.is_none() || !uses(CellKind::Microvm),
        "warn",
        match &facts.no_machines {
            None => format!("microVMs can run; {images} images"),
            Some(why) => format!("microVMs cannot run: {why}"),
        },
        "install what is missing, then `abbey image build`",
    );
    add(
        "containers",
        facts.no_containers.is_none() || !uses(CellKind::Container),
        "warn",
        match &facts.no_containers {
            None => "containers can run".to_owned(),
            Some(why) => format!("containers cannot run: {why}"),
        },
        "install what is missing, or use another kind of cell",
    );
    let skills = house.skills();
    add(
        "skills",
        skills.invalid.is_empty(),
        "warn",
        match skills.invalid.first() {
            None => format!("{} skills are valid", skills.all.len()),
            Some(first) => first.clone(),
        },
        "`abbey skill check DIR` tells every mistake",
    );
    let stuck = house
        .store
        .open_sagas()
        .await?
        .into_iter()
        .filter(|s| matches!(s.state, State::Stuck(_)))
        .count();
    add(
        "sagas",
        stuck == 0,
        "fail",
        format!("{stuck} sagas are stuck"),
        "look at the log of the control plane, mend the cause, and apply the manifest again",
    );
    let uids = facts.uid_first.is_some();
    add(
        "users",
        uids,
        "warn",
        if uids {
            "each agent has a user of its own"
        } else {
            "agents share the user of the house"
        }
        .to_owned(),
        "run the house as root for one user per agent",
    );
    for agent in view::fleet(house).await?.agents {
        let wanted = matches!(
            view::seen(house)
                .get(&CellName::Agent(match agent.name.parse() {
                    Ok(s) => s,
                    Err(_) => continue,
                }))
                .map(|s| s.desired.clone()),
            Some(abbey_engine::supervision::Desired::Up { .. })
        );
        let good = !wanted || matches!(agent.presence.as_str(), "robed" | "starting");
        add(
            &format!("agent.{}", agent.name),
            good,
            "warn",
            format!("{} is {}", agent.name, agent.presence),
            &format!("`abbey why {}` explains it", agent.name),
        );
    }
    for service in view::services(house).await?.services {
        let good = service.healthy != Some(false) && service.presence != "degraded";
        add(
            &format!("service.{}", service.name),
            good,
            "warn",
            format!("{} is {}", service.name, service.presence),
            &format!("`abbey service logs {}` shows its output", service.name),
        );
    }
    add(
        "control_plane",
        true,
        "info",
        format!(
            "{} model calls and {} skipped wakes since its start",
            house.model_calls.load(Ordering::Relaxed),
            house.wakes_skipped.load(Ordering::Relaxed)
        ),
        "",
    );
    Ok(DoctorDoc {
        version: VERSION,
        checks,
    })
}
