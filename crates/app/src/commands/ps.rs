//! `abbey ps`: lists the agents.

use crate::connect::client;
use crate::exit::{self, Outcome};
use crate::fleet_output::print_fleet;
use crate::output;
use abbey_api::FleetDoc;
use abbey_daemon::Home;

pub(crate) async fn cmd_ps(home: &Home, json: bool) -> Outcome {
    let fleet: FleetDoc = client(home)?.get("/api/v1/agents").await?;
    if json {
        output::json(&fleet)
    } else {
        print_fleet(&fleet)
    }
    Ok(exit::OK)
}
