//! `abbey ps`: lists the agents.

use crate::connect::client;
use crate::exit::{self, Outcome};
use crate::fleet_output::print_fleet;
use crate::output;
use abbey_api::FleetQuery;
use abbey_daemon::Home;

pub(crate) async fn cmd_ps(home: &Home, json: bool) -> Outcome {
    let client = client(home)?;
    let fleet = client.agents().list(&FleetQuery::default()).await?;
    if json {
        output::json(&fleet)
    } else {
        print_fleet(&fleet)
    }
    Ok(exit::OK)
}
