//! `abbey start`, `stop`, `restart`, `pause` and `resume`: the desired state of agents.

use crate::connect::operator_client;
use crate::control_plane::DOWN_WITHIN;
use crate::exit::{self, Failure, Outcome};
use crate::fleet_output::print_agents;
use crate::output::{self, Progress, print_message};
use abbey_api::{AgentView, FleetQuery};
use abbey_daemon::Home;
use abbey_model::Presence;
use clap::Args;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub(crate) struct AgentsArgs {
    /// Names of agents.
    #[arg(required_unless_present = "all")]
    pub(crate) agents: Vec<String>,
    /// All agents.
    #[arg(long, conflicts_with = "agents")]
    pub(crate) all: bool,
}

/// Most requests that are under way at the same time.
const CONCURRENT_REQUESTS: usize = 8;

/// `abbey start`, `stop`, `restart`, `pause` and `resume`: sets the desired state of agents, waits at most 60
/// seconds until they reach it, and prints their table. Exit code is that of the last agent for which the request
/// failed, and 7 if one did not reach the state in time.
pub(crate) async fn cmd_set_agent_state(
    home: &Home,
    json: bool,
    verb: &str,
    args: &AgentsArgs,
) -> Outcome {
    let client = operator_client(home)?;
    let fleet = client.agents().list(&FleetQuery::default()).await?;
    let names: Vec<String> = if args.all {
        fleet.agents.iter().map(|a| a.name.clone()).collect()
    } else {
        args.agents.clone()
    };
    let boots: BTreeMap<String, u64> = fleet
        .agents
        .iter()
        .map(|a| (a.name.clone(), a.generation))
        .collect();
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
    let reached = |a: &AgentView| match verb {
        "stop" => a.pid.is_none(),
        "pause" => a.presence == Presence::Paused,
        "restart" => {
            matches!(a.presence, Presence::Ready | Presence::Degraded)
                && boots.get(&a.name).is_none_or(|old| a.generation > *old)
        }
        _ => matches!(a.presence, Presence::Ready | Presence::Degraded),
    };
    let until = Instant::now() + DOWN_WITHIN;
    let mut progress = Progress::new();
    let (late, degraded): (Vec<String>, Vec<String>) = loop {
        let fleet = client.agents().list(&FleetQuery::default()).await?;
        let mine =
            |a: &&AgentView| names.contains(&a.name) && !failures.iter().any(|(n, _)| *n == a.name);
        let waiting: Vec<&str> = fleet
            .agents
            .iter()
            .filter(mine)
            .filter(|a| !reached(a))
            .map(|a| a.name.as_str())
            .collect();
        if waiting.is_empty() || Instant::now() >= until {
            progress.end();
            if json {
                output::print_json(&fleet)
            } else {
                print_agents(&fleet)
            }
            let late = waiting.into_iter().map(str::to_owned).collect();
            // It was started, and that failed: it is tried again later.
            let degraded = |a: &&AgentView| {
                matches!(verb, "start" | "restart") && a.presence == Presence::Degraded
            };
            let degraded = fleet.agents.iter().filter(mine).filter(degraded);
            break (late, degraded.map(|a| a.name.clone()).collect());
        }
        progress.show(&format!("{verb}: waiting for {}", waiting.join(", ")));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let mut code = exit::OK;
    for name in degraded {
        print_message(&format!(
            "agent `{name}` is degraded; `abbey why {name}` says why"
        ));
        code = exit::DEGRADED;
    }
    for name in late {
        print_message(&format!(
            "{verb} {name}: not done after {} s; `abbey why {name}` says why",
            DOWN_WITHIN.as_secs()
        ));
        code = exit::DEGRADED;
    }
    for (name, error) in failures {
        let failure = Failure::from(error);
        print_message(&format!("{verb} {name}:"));
        failure.print(json);
        code = failure.code();
    }
    Ok(code)
}
