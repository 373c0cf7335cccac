//! Files of removed agents whose names a manifest has again.

use abbey_api::Time;
use abbey_model::{FirstFiles, Slug, Timestamp};
use std::collections::BTreeMap;

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
