//! `abbey ps`: lists the agents and services.

use crate::commands::service::print_services;
use crate::connect::operator_client;
use crate::exit::{self, Outcome};
use crate::fleet_output::print_agents;
use crate::output;
use abbey_api::{FleetDoc, FleetQuery, ServiceView, ServicesQuery};
use abbey_daemon::Home;
use serde::Serialize;

/// Agents as the API lists them, and the services beside them.
#[derive(Serialize)]
struct PsDoc {
    #[serde(flatten)]
    fleet: FleetDoc,
    services: Vec<ServiceView>,
}

/// `abbey ps`: prints the table of agents, and that of services where there are some.
pub(crate) async fn cmd_ps(home: &Home, json: bool) -> Outcome {
    let client = operator_client(home)?;
    let fleet = client.agents().list(&FleetQuery::default()).await?;
    let services = client.services().list(&ServicesQuery::default()).await?;
    let doc = PsDoc {
        fleet,
        services: services.services,
    };
    if json {
        output::print_json(&doc);
        return Ok(exit::OK);
    }
    print_agents(&doc.fleet);
    if !doc.services.is_empty() {
        output::print_line("");
        print_services(&doc.services);
    }
    Ok(exit::OK)
}
