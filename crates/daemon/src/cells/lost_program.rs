//! Why a further program in a cell ended without an exit status: the process of hostd that follows it is in the control
//! groups of the cell, so what ends all of the cell ends that as well.

use crate::cells::state::CellsState;
use crate::core::error::Error;
use abbey_api::Problem;
use abbey_cells::{CellRecord, ControlGroups, is_alive};
use abbey_model::{Bytes, CellName, ExitKind, FaultKind, Observed};
use std::time::Duration;

/// Longest wait for the exit record of a cell whose first process has ended.
const RECORD_WITHIN: Duration = Duration::from_secs(3);
/// Longest wait for the first process of a cell that is being killed.
const END_WITHIN: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(20);

/// Error of a program in a cell whose `record` was read before it started. Waits for up to [`RECORD_WITHIN`] if the cell
/// ended.
pub(super) async fn explain_lost_program(
    cells: &CellsState,
    cell: &CellName,
    record: &CellRecord,
    memory: Bytes,
    error: abbey_cells::Error,
) -> Error {
    if !matches!(error, abbey_cells::Error::HostdLost { .. }) {
        return Error::Cell(error);
    }
    let name = cell.described();
    let problem = |text: String| Problem::new(FaultKind::Host, text).into();
    let limit = memory.human();
    let out_of_memory = || ControlGroups::from_paths(record.groups.clone()).ran_out_of_memory();
    let began = cells.core.rt.now();
    loop {
        match exit_of(cells, cell, record) {
            Some(ExitKind::OutOfMemory) => {
                return problem(format!(
                    "{name} was killed: over its memory limit ({limit})"
                ));
            }
            Some(exit) => return problem(format!("the cell of {name} ended meanwhile: {exit}")),
            None => {}
        }
        let lives = record.child.as_ref().is_some_and(is_alive);
        let waited = cells.core.rt.now().duration_since(began);
        if lives && waited >= END_WITHIN && out_of_memory() {
            return problem(format!(
                "the program was killed: {name} was over its memory limit ({limit}); what else runs in it goes on"
            ));
        }
        if waited >= RECORD_WITHIN || lives && waited >= END_WITHIN {
            return Error::Cell(error);
        }
        cells.core.rt.sleep(PAUSE).await;
    }
}

/// How this boot of a cell ended, as its exit record says, or the reconciler that has swept it.
fn exit_of(cells: &CellsState, cell: &CellName, record: &CellRecord) -> Option<ExitKind> {
    let seen = cells.observations.seen(cell);
    let swept = seen.and_then(|seen| seen.history.last_exit);
    let left = match cells.backend.observe(cell) {
        Ok(Observed::Exited(left)) => Some(left),
        _ => None,
    };
    let of_this_boot = |e: &abbey_model::ExitRecord| e.generation == record.generation;
    let exits = swept.into_iter().chain(left);
    exits.filter(of_this_boot).map(|e| e.exit).next()
}
