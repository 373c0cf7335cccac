//! `abbey down`: stops every agent, every service and the control plane.

use crate::connect::{is_control_plane_up, operator_client};
use crate::control_plane::{
    ensure_control_plane_up, shut_down_house, stop_cells_without_control_plane,
};
use crate::exit::{self, Outcome};
use crate::output::{self, print_message};
use abbey_api::VERSION;
use abbey_daemon::Home;

/// `abbey down`: stops all agents, services and the control plane, and waits until they have exited. Exit code 0 if
/// no house is running.
pub(crate) async fn cmd_down(home: &Home, json: bool) -> Outcome {
    if !is_control_plane_up(home).await && !home.database_file().exists() {
        print_message(&format!(
            "no house is running in `{}`",
            home.root().display()
        ));
        return Ok(exit::OK);
    }
    // A control plane or hostd that was killed may have left cells: recover them first, then stop them.
    let ended = async {
        ensure_control_plane_up(home).await?;
        shut_down_house(home, &operator_client(home)?).await
    };
    match ended.await {
        // It is there, and does not do what it is asked.
        Err(failure) if matches!(failure.code(), exit::CONFLICT | exit::TIMEOUT) => {
            let stopped = stop_cells_without_control_plane(home).await?;
            print_message(&format!(
                "the control plane does not stop its cells: {stopped} were stopped without it"
            ));
            return Err(failure);
        }
        ended => ended?,
    }
    if json {
        output::print_json(&serde_json::json!({ "version": VERSION, "down": true }));
    } else {
        print_message("the house is down; its state is kept");
    }
    Ok(exit::OK)
}
