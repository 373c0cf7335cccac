//! Data of a service that was lost is not replaced by nothing.

use crate::{Error, Result};
use abbey_support::service_data;
use std::path::Path;

/// Checks that the service in `home` has its data directory or never had data.
///
/// # Errors
/// [`Error::Missing`] with the remedies.
pub(crate) fn check_data_not_lost(home: &Path) -> Result<()> {
    let data = home.join(service_data::DIRECTORY);
    let had = service_data::MARKS
        .iter()
        .any(|mark| home.join(mark).exists());
    match !had || data.exists() {
        true => Ok(()),
        false => Err(Error::Missing {
            what: "the directory `data` of this service",
            remedy:
                "put it back or restore a backup; `abbey doctor` says how to begin anew without it"
                    .to_owned(),
        }),
    }
}
