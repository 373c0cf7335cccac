//! Rotation of the key that signs heads of the audit log.
//!
//! The next key is on disk before the log states it, and takes the place of the earlier one afterwards. The log alone
//! says which of the two is in force, so a crash anywhere between is finished at the next start.

use crate::core::audit_checkpoints::publish_checkpoints;
use crate::core::error::Result;
use crate::core::home::Home;
use crate::core::restore::open_store;
use crate::core::runtime;
use crate::core::state::CoreState;
use abbey_api::{Problem, RotatedKeyDoc, VERSION};
use abbey_cells::crash;
use abbey_model::{FaultKind, Principal};
use abbey_store::{Storage, public_key};
use std::sync::Arc;

/// Puts a new signing key in force, in an entry of the audit log that the earlier key confirms, and has the next head
/// signed with it.
///
/// # Errors
/// If the key cannot be stored or logged; the earlier one is in force then.
pub(crate) async fn rotate_signing_key(
    core: &Arc<CoreState>,
    actor: Principal,
) -> Result<RotatedKeyDoc> {
    let rotation = {
        let core = Arc::clone(core);
        async move {
            let mut in_force = core.audit_key.write().await;
            let (home, stated) = (core.home.clone(), in_force.clone());
            let staged = runtime::run_blocking(move || {
                settle_staged_key(&home, &stated)?;
                home.stage_signing_key()
            });
            let next = staged.await.map_err(internal)??;
            crash::point("audit.key_staged");
            let entry = core.store.rotate_audit_key(actor, next).await?;
            crash::point("audit.key_logged");
            let key = public_key(&next);
            let previous_key = std::mem::replace(&mut *in_force, key.clone());
            let home = core.home.clone();
            runtime::run_blocking(move || home.adopt_staged_signing_key())
                .await
                .map_err(internal)??;
            drop(in_force);
            publish_checkpoints(&core).await?;
            Ok(RotatedKeyDoc {
                version: VERSION,
                entry,
                previous_key,
                key,
            })
        }
    };
    // A client that goes away interrupts nothing.
    core.rt.spawn(rotation).await.map_err(internal)?
}

fn internal(error: impl std::fmt::Display) -> Problem {
    Problem::new(FaultKind::Internal, error.to_string())
}

/// Finishes a rotation that a crash interrupted, if the audit log of this home states the next key, or drops the key.
/// The database must not be open.
pub(crate) async fn finish_interrupted_rotation(home: &Home) -> Result<()> {
    if home.staged_signing_key()?.is_none() {
        return Ok(());
    }
    let home = home.clone();
    let finish = move || {
        let key = home.load_or_create_signing_key()?;
        let store = open_store(&home.database_file(), key)?;
        let stated = store.stated_key().wait()?;
        drop(store);
        settle_staged_key(&home, &stated.unwrap_or_default())
    };
    runtime::run_blocking(finish).await.map_err(internal)?
}

/// Adopts the staged key if it is the one that the log states, and removes it otherwise.
fn settle_staged_key(home: &Home, stated: &str) -> Result<()> {
    match home.staged_signing_key()? {
        Some(staged) if public_key(&staged) == stated => home.adopt_staged_signing_key(),
        Some(_) => home.remove_staged_signing_key(),
        None => Ok(()),
    }
}
