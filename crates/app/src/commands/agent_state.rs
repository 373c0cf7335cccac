//! `abbey start`, `stop`, `restart`, `pause` and `resume`: the desired state of agents.

use crate::commands::why::find_service;
use crate::connect::operator_client;
use crate::exit::{self, Failure, Outcome};
use crate::fleet_output::print_agents;
use crate::hostd_notice::report_missing_hostd;
use crate::names::distinct;
use crate::output;
use crate::readiness::{WaitArgs, WaitFor};
use abbey_api::FleetQuery;
use abbey_daemon::Home;
use abbey_model::Presence;
use clap::Args;
use futures_util::StreamExt;

#[derive(Debug, Args)]
pub(crate) struct AgentsArgs {
    /// Names of agents.
    #[arg(required_unless_present = "all")]
    pub(crate) agents: Vec<String>,
    /// All agents.
    #[arg(long, conflicts_with = "agents")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

/// Most requests that are under way at the same time.
const CONCURRENT_REQUESTS: usize = 8;

/// `abbey start`, `stop`, `restart`, `pause` and `resume`: sets the desired state of agents, waits until they
/// reach it or it is known that they will not, and prints their table. Exit code is that of the last agent for which the
/// request failed, and 7 if one did not reach the state.
pub(crate) async fn cmd_set_agent_state(
    home: &Home,
    json: bool,
    verb: &str,
    args: &AgentsArgs,
) -> Outcome {
    let client = operator_client(home)?;
    if !json {
        // Before a wait that it may prolong.
        report_missing_hostd(home).await;
    }
    let fleet = client.agents().list(&FleetQuery::default()).await?;
    let names: Vec<String> = if args.all {
        // Those that are stopped stay so until `start`.
        let passes = |stopped: bool| !(stopped && matches!(verb, "pause" | "resume"));
        let agents = fleet.agents.iter();
        let agents = agents.filter(|a| passes(a.presence == Presence::Stopped));
        agents.map(|a| a.name.clone()).collect()
    } else {
        distinct(&args.agents)
    };
    // Each agent for itself: the failure of one is reported at the end and does not stop the others (S5-14).
    let requests = futures_util::stream::iter(&names).map(async |name| {
        let agents = client.agents();
        let answer = match verb {
            "stop" => agents.stop(name).await,
            "pause" => agents.pause(name).await,
            "resume" => agents.resume(name).await,
            "restart" => agents.restart(name).await,
            _ => agents.start(name).await,
        };
        (name, answer)
    });
    let failures: Vec<(String, _)> = requests
        .buffered(CONCURRENT_REQUESTS)
        .filter_map(async |(name, answer)| Some((name.clone(), answer.err()?)))
        .collect()
        .await;
    let failed = |name: &String| failures.iter().any(|(failed, _)| failed == name);
    let asked: Vec<String> = names.iter().filter(|n| !failed(n)).cloned().collect();
    let mut code = match asked.is_empty() {
        true => exit::OK,
        false => args.wait.wait(&client, WaitFor::Agents(asked)).await?,
    };
    let fleet = client.agents().list(&FleetQuery::default()).await?;
    match (failures.len() < names.len(), json) {
        (false, _) => {}
        (true, true) => output::print_json(&fleet),
        (true, false) => print_agents(&fleet),
    }
    for (name, error) in failures {
        let mut failure = Failure::from(error);
        code = failure.code();
        if let Some(service) = find_service(&client, &name, code).await? {
            let service = service.name;
            failure = failure.with_text(&format!("`{service}` is a service, not an agent"));
            failure = failure.hint(match verb {
                "restart" => format!("`abbey service restart {service}` restarts it"),
                _ => "it runs for as long as the manifest has it".to_owned(),
            });
        }
        failure.about(&format!("{verb} {name}")).print(json);
    }
    Ok(code)
}
