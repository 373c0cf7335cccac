//! `abbey down`: stops every agent, every service and the control plane.

use crate::connect::{client, is_up};
use crate::control_plane::{ensure_up, take_down};
use crate::exit::{self, Outcome};
use crate::output::{self, say};
use abbey_api::VERSION;
use abbey_daemon::Home;

pub(crate) async fn cmd_down(home: &Home, json: bool) -> Outcome {
    if !is_up(home).await && !home.database_file().exists() {
        say(&format!(
            "no house is running in `{}`",
            home.root().display()
        ));
        return Ok(exit::OK);
    }
    // A control plane or hostd that was killed may have left cells: recover them first, then stop them.
    ensure_up(home).await?;
    take_down(home, &client(home)?).await?;
    if json {
        output::json(&serde_json::json!({ "version": VERSION, "down": true }));
    } else {
        say("the house is down; its state is kept");
    }
    Ok(exit::OK)
}
