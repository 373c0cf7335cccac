//! `abbey down`: stops every agent, every service and the control plane.

use crate::connect::{is_control_plane_up, operator_client};
use crate::control_plane::{
    ensure_control_plane_up, is_house_down, shut_down_house, stop_cells_without_control_plane,
};
use crate::exit::{self, Outcome};
use crate::moved_home::refuse_moved_home;
use crate::output::{self, print_message};
use crate::stopped_control_plane::kill_stopped_control_plane;
use abbey_api::VERSION;
use abbey_cells::hostd::clean_up_after_deleted_homes;
use abbey_daemon::Home;

/// `abbey down`: stops all agents, services and the control plane, and waits until they have exited. Exit code 0 if
/// no house is running.
pub(crate) async fn cmd_down(home: &Home, json: bool) -> Outcome {
    refuse_moved_home(home)?;
    kill_stopped_control_plane(home)?;
    if !is_control_plane_up(home).await {
        home.require_own()?;
        if is_house_down(home) && ended_cleanly(home) {
            clean_up_after_deleted_homes(home.root());
            let text = match home.database_file().exists() {
                true => "the house is down already".to_owned(),
                false => format!("no house is running in `{}`", home.root().display()),
            };
            return Ok(tell(json, &text));
        }
    }
    // A control plane or hostd that was killed may have left cells: recover them first, then stop them.
    let ended = async {
        ensure_control_plane_up(home).await?;
        shut_down_house(home, &operator_client(home)?).await
    };
    if let Err(failure) = ended.await {
        // It is there and does not do what it is asked, or it cannot be started.
        let is_stuck = matches!(failure.code(), exit::CONFLICT | exit::TIMEOUT);
        if is_stuck || !is_control_plane_up(home).await {
            let stopped = stop_cells_without_control_plane(home).await?;
            if stopped > 0 {
                print_message(&format!(
                    "the control plane does not stop its cells: {stopped} were stopped without it"
                ));
            }
        }
        return Err(failure);
    }
    Ok(tell(json, "the house is down; its state is kept"))
}

/// Whether no control plane was killed, so that it left nothing to recover, and none is starting.
fn ended_cleanly(home: &Home) -> bool {
    let lock = home.lock_file();
    !home.announcement_file().exists() && (!lock.exists() || home.acquire_lock().is_ok())
}

fn tell(json: bool, text: &str) -> u8 {
    match json {
        true => output::print_json(&serde_json::json!({ "version": VERSION, "down": true })),
        false => print_message(text),
    }
    exit::OK
}
