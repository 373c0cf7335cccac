//! What is left of a house whose control plane or hostd was killed while it was shut down.

use crate::control_plane::{is_house_down, repair_home, stop_cells_without_control_plane};
use crate::exit::{self, Failure};
use crate::output::print_message;
use abbey_cells::hostd::{listening_process, unit_of};
use abbey_daemon::{Error, Home};

/// Ends what is left of a house that was shut down: cells, hostd with the interfaces and the firewall of the house, and the
/// files by which a killed control plane is recognized. Does nothing if another command has started the house again.
///
/// # Errors
/// If something cannot be ended; exit code 7 if it is left after that.
pub(crate) async fn finish_shutdown(home: &Home) -> Result<(), Failure> {
    if is_all_ended(home) {
        return Ok(());
    }
    // Whoever starts the house meanwhile waits for the lock.
    let lock = match home.acquire_lock() {
        Ok(lock) => lock,
        Err(Error::Locked { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let stopped = stop_cells_without_control_plane(home).await?;
    if stopped > 0 {
        print_message(&format!(
            "the control plane was killed before it had stopped every cell; cells that were stopped without it: {stopped}"
        ));
    }
    // Only hostd can remove interfaces and the firewall, which it does as it ends.
    repair_home(home).await?;
    abbey_daemon::end_started_hostd(home.root());
    let sockets = [
        home.operator_api_socket(),
        home.agent_api_socket(),
        home.egress_socket(),
        home.dns_socket(),
    ];
    let files = [home.announcement_file(), home.run_dir().join("serve.lock")];
    for file in sockets.into_iter().chain(files) {
        let _gone_already = std::fs::remove_file(file);
    }
    drop(lock);
    match describe_rest(home) {
        None => Ok(()),
        Some(rest) => Err(Failure::plain(format!("the house is not all down: {rest}"))
            .hint("run `abbey down` again; `abbey doctor` checks what is left")
            .with_code(exit::DEGRADED)),
    }
}

/// Whether a house that was shut down left nothing. A hostd that systemd manages is not ended by commands.
fn is_all_ended(home: &Home) -> bool {
    if listening_process(home.root()).is_some_and(|pid| unit_of(pid).is_some()) {
        return true;
    }
    is_house_down(home) && !home.announcement_file().exists() && !home.cell_records_dir().exists()
}

/// What still runs; none if nothing does.
fn describe_rest(home: &Home) -> Option<String> {
    if is_house_down(home) {
        return None;
    }
    let cells = std::fs::read_dir(home.cell_records_dir()).into_iter();
    let names = cells.flatten().flatten().map(|e| e.file_name());
    let cells = names.map(|name| format!("cell `{}` is left", name.to_string_lossy()));
    let hostd = listening_process(home.root()).into_iter();
    let hostd = hostd.map(|pid| format!("hostd (process {pid}) still runs"));
    let all: Vec<String> = hostd.chain(cells).collect();
    Some(all.join(", "))
}
