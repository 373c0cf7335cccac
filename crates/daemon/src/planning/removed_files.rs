//! Files of removed agents whose names a manifest has again.

use crate::core::hostd::archived_files_of_all;
use abbey_api::Time;
use abbey_cells::hostd::HostdApi;
use abbey_model::{FirstFiles, Slug, Timestamp};
use abbey_plan::{Note, Severity};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of agents that come with archived files, the instants at which those were archived.
pub(super) fn archived_at(first_files: &[(Slug, FirstFiles)]) -> BTreeMap<Slug, Timestamp> {
    let archived = first_files
        .iter()
        .filter_map(|(agent, source)| match source {
            FirstFiles::Archive(stamp) => Some((agent.clone(), Time::from_stamp(stamp)?.0)),
            FirstFiles::Template(_) | FirstFiles::Agent(_) => None,
        });
    archived.collect()
}

/// What the operator may have expected of new agents that begin without files: those of removed agents of their names. Nothing
/// if the host does not say what it keeps.
pub(super) async fn removed_files_notes(
    helper: &Arc<dyn HostdApi>,
    new: Vec<Slug>,
    first_files: &[(Slug, FirstFiles)],
) -> Vec<Note> {
    let without_files = |agent: &Slug| !first_files.iter().any(|(filled, _)| filled == agent);
    let new: Vec<Slug> = new.into_iter().filter(without_files).collect();
    if new.is_empty() {
        return Vec::new();
    }
    let mut kept: BTreeMap<Slug, String> = BTreeMap::new();
    // Oldest first, so that the newest stays.
    kept.extend(archived_files_of_all(helper).await.unwrap_or_default());
    let notes = new.into_iter().filter_map(|agent| {
        let stamp = kept.get(&agent)?;
        Some(Note {
            severity: Severity::Warning,
            subject: format!("agent:{agent}"),
            text: format!(
                "it is a new agent without files, and `removed/{agent}-{stamp}` in the state directory keeps those of a removed agent of this name: to have that one back, take `{agent}` out of the manifest and run `abbey agent restore {agent} --at {stamp}`; once this plan is applied, run `abbey agent rm {agent}` before that"
            ),
        })
    });
    notes.collect()
}
