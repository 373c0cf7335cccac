//! `abbey ps`: lists the agents and services.

use crate::commands::service::{print_services, print_troubles};
use crate::connect::operator_client;
use crate::control_plane::{ANOTHER_BUILD, is_house_down, runs_another_build};
use crate::exit::{self, Failure, Outcome};
use crate::fleet_output::print_agents;
use crate::hostd_notice::report_missing_hostd;
use crate::manifest_arg::refused_manifest;
use crate::output;
use crate::stdout;
use crate::task_output::waits_for;
use abbey_api::client::Client;
use abbey_api::{FleetDoc, FleetQuery, ServiceView, ServicesQuery, TaskQuery, TaskView};
use abbey_daemon::Home;
use abbey_model::{TaskState, WaitKind};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Agents as the API lists them, and the services beside them.
#[derive(Serialize)]
struct PsDoc {
    #[serde(flatten)]
    fleet: FleetDoc,
    services: Vec<ServiceView>,
    /// Number of tasks by the budget or the stopped agents that they wait for, for people.
    #[serde(skip)]
    waits: BTreeMap<String, usize>,
}

/// Tasks of a state whose waits are counted.
const WAITS_MAX: u32 = 1000;
/// Pause between two looks of `--watch`.
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Print again every 2 seconds, until Ctrl-C; on a terminal in place, with `--json` a line each.
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// `abbey ps`: prints the table of agents, and that of services where there are some; again and again with `--watch`.
pub(crate) async fn cmd_ps(home: &Home, json: bool, args: &PsArgs) -> Outcome {
    let client = operator_client(home)?;
    if !json && runs_another_build(home) {
        output::print_message(ANOTHER_BUILD);
    }
    if !json {
        report_missing_hostd(home).await;
    }
    let (mut looked, mut silent) = (false, 0);
    loop {
        let doc = match look(&client, json).await {
            // It is being restarted, or comes back: whoever watches does not have to begin anew. A house that is down does not.
            Err(failure) if looked && failure.code() == exit::UNREACHABLE => {
                silent += 1;
                if silent > 1 && is_house_down(home) {
                    return Err(failure);
                }
                if silent == 1 {
                    output::print_message(
                        "the control plane does not answer; looking again every 2 s",
                    );
                }
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            looked => looked?,
        };
        (looked, silent) = (true, 0);
        match (json, args.watch) {
            (true, false) => output::print_json(&doc),
            (true, true) => output::print_json_line(&doc),
            (false, watch) => {
                if watch {
                    output::clear_screen();
                }
                print_fleet(&doc.fleet, &doc.services);
                print_troubles(&doc.services);
                print_waits(&doc.waits);
            }
        }
        if !json && let Some(refused) = refused_manifest(home) {
            output::print_message(&format!("{}; {}", refused.text, refused.remedy));
        }
        if !args.watch || stdout::is_broken() {
            return Ok(exit::OK);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What there is at this moment.
async fn look(client: &Client, json: bool) -> Result<PsDoc, Failure> {
    let fleet = client.agents().list(&FleetQuery::default()).await?;
    let services = client.services().list(&ServicesQuery::default()).await?;
    Ok(PsDoc {
        fleet,
        services: services.services,
        waits: match json {
            true => BTreeMap::new(),
            false => count_waits(client).await?,
        },
    })
}

/// Number of tasks by the budget that they wait for, or the agents that an operator stopped.
async fn count_waits(client: &Client) -> Result<BTreeMap<String, usize>, Failure> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for state in [TaskState::Parked, TaskState::Ready] {
        let query = TaskQuery {
            state: Some(state.name().to_owned()),
            agent: None,
            limit: Some(WAITS_MAX),
            cursor: None,
        };
        let listed = client.tasks().list(&query).await?;
        for text in listed.tasks.iter().filter_map(wait_of_others) {
            *counts.entry(text).or_default() += 1;
        }
    }
    Ok(counts)
}

/// What a task waits for, if that is a budget, or a stopped agent that does not start by itself.
fn wait_of_others(task: &TaskView) -> Option<String> {
    let wait = task.waiting_for.as_ref()?;
    match wait.stopped_agents.as_slice() {
        [] if wait.kind == WaitKind::Budget => waits_for(task).map(|text| format!("the {text}")),
        [] => None,
        [agent] => Some(format!("{agent}, which was stopped or paused")),
        agents => Some(format!(
            "one of {}, which were stopped or paused",
            agents.join(", ")
        )),
    }
}

/// Prints what tasks wait for, a line for each.
fn print_waits(counts: &BTreeMap<String, usize>) {
    for (text, count) in counts {
        let tasks = match count {
            1 => "1 task waits".to_owned(),
            _ => format!("{count} tasks wait"),
        };
        output::print_line("");
        output::print_hanging("", format!("{tasks} for {text}"));
    }
}

/// Prints the table of agents, and that of services where there are some.
pub(crate) fn print_fleet(fleet: &FleetDoc, services: &[ServiceView]) {
    print_agents(fleet);
    if !services.is_empty() {
        output::print_line("");
        print_services(services, &[]);
    }
    for provider in &fleet.failing_providers {
        output::print_line("");
        output::print_hanging("", output::with_local_times(&provider.text));
    }
}
