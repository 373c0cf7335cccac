//! `abbey ps`: lists the agents.

use crate::connect::operator_client;
use crate::exit::{self, Outcome};
use crate::fleet_output::print_agents;
use crate::output;
use abbey_api::FleetQuery;
use abbey_daemon::Home;

/// `abbey ps`: prints the table of agents.
pub(crate) async fn cmd_ps(home: &Home, json: bool) -> Outcome {
    let client = operator_client(home)?;
    let fleet = client.agents().list(&FleetQuery::default()).await?;
    if json {
        output::print_json(&fleet)
    } else {
        print_agents(&fleet)
    }
    Ok(exit::OK)
}
