//! `abbey up`: starts the control plane and applies the manifest.

use crate::connect::operator_client;
use crate::control_plane::{ensure_control_plane_up, shut_down_house};
use crate::exit::{self, Outcome};
use crate::fleet_output::print_agents;
use crate::manifest_file::read_manifest;
use crate::output::{self, Progress, print_message};
use abbey_api::HouseQuery;
use abbey_api::{AgentView, FleetQuery, PlanAction};
use abbey_daemon::Home;
use abbey_model::Presence;
use clap::Args;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Path of the manifest.
    #[arg(short, long, default_value = "abbey.yaml")]
    pub(crate) file: PathBuf,
    /// Return at once instead of waiting until the agents are ready.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// Longest wait until the agents are ready.
const UP_WITHIN: Duration = Duration::from_secs(90);

/// `abbey up`: starts the control plane if none is running, applies the manifest, and waits at most 90 seconds
/// until the agents are ready. Exit code 7 if one is not.
pub(crate) async fn cmd_up(home: &Home, json: bool, args: &UpArgs) -> Outcome {
    let body = read_manifest(&args.file)?;
    // An invalid manifest must not leave a control plane running.
    abbey_daemon::check_manifest(&body.manifest)?;
    let mut progress = Progress::new();
    progress.show("starting the control plane");
    let started = ensure_control_plane_up(home).await?;
    let client = operator_client(home)?;
    progress.show("applying the manifest");
    let applied = client.house().apply(&body, None).await;
    let doc = match applied {
        Ok(doc) => doc,
        Err(error) => {
            progress.end();
            let empty = client.house().show(&HouseQuery::default()).await?;
            if started && empty.house.is_none() {
                // It was started for this manifest only; leave the host as it was.
                shut_down_house(home, &client).await?;
            }
            return Err(error.into());
        }
    };
    let until = Instant::now()
        + if args.no_wait {
            Duration::ZERO
        } else {
            UP_WITHIN
        };
    let fleet = loop {
        let fleet = client.agents().list(&FleetQuery::default()).await?;
        let moving: Vec<&str> = fleet
            .agents
            .iter()
            .filter(|a| {
                !matches!(a.presence, Presence::Ready | Presence::Degraded) && is_waited_for(a)
            })
            .map(|a| a.name.as_str())
            .collect();
        if moving.is_empty() || Instant::now() >= until {
            break fleet;
        }
        progress.show(&format!("waiting for {}", moving.join(", ")));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    progress.end();
    let house = client.house().show(&HouseQuery::default()).await?;
    if json {
        output::print_json(&fleet);
    } else {
        let steps = doc
            .steps
            .iter()
            .filter(|s| s.action != PlanAction::NotApplicable)
            .count();
        let change = if doc.applied {
            format!("{steps} steps")
        } else {
            "nothing to change".to_owned()
        };
        print_message(&format!(
            "house {} is up, generation {} ({change}), operator API {}",
            fleet.house, doc.generation, house.address
        ));
        print_agents(&fleet);
    }
    let late = !args.no_wait
        && fleet
            .agents
            .iter()
            .any(|a| a.presence != Presence::Ready && is_waited_for(a));
    Ok(if late { exit::DEGRADED } else { exit::OK })
}

/// Whether `up` waits for an agent; not for those that were stopped or paused on purpose.
fn is_waited_for(agent: &AgentView) -> bool {
    !matches!(agent.presence, Presence::Paused | Presence::Stopped)
        && (agent.presence != Presence::Down || agent.generation == 0)
}
