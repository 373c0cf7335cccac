//! `abbey ps`: lists the agents and services.

use crate::commands::service::{print_services, print_troubles};
use crate::connect::operator_client;
use crate::control_plane::{ANOTHER_BUILD, runs_another_build};
use crate::exit::{self, Failure, Outcome};
use crate::fleet_output::print_agents;
use crate::hostd_notice::report_missing_hostd;
use crate::manifest_arg::refused_manifest;
use crate::output;
use crate::stdout;
use abbey_api::client::Client;
use abbey_api::{FleetDoc, FleetQuery, ServiceView, ServicesQuery};
use abbey_daemon::Home;
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// Agents as the API lists them, and the services beside them.
#[derive(Serialize)]
struct PsDoc {
    #[serde(flatten)]
    fleet: FleetDoc,
    services: Vec<ServiceView>,
}

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
    let mut looked = false;
    loop {
        let doc = match look(&client).await {
            // It is being restarted, or comes back: whoever watches does not have to begin anew.
            Err(failure) if looked && failure.code() == exit::UNREACHABLE => {
                output::print_message("the control plane does not answer; looking again every 2 s");
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            looked => looked?,
        };
        looked = true;
        match (json, args.watch) {
            (true, false) => output::print_json(&doc),
            (true, true) => output::print_json_line(&doc),
            (false, watch) => {
                if watch {
                    output::clear_screen();
                }
                print_fleet(&doc.fleet, &doc.services);
                print_troubles(&doc.services);
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
async fn look(client: &Client) -> Result<PsDoc, Failure> {
    let fleet = client.agents().list(&FleetQuery::default()).await?;
    let services = client.services().list(&ServicesQuery::default()).await?;
    Ok(PsDoc {
        fleet,
        services: services.services,
    })
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
