//! Backup and restore of a house: its database and its agents' files in one tar archive, without
//! credentials.

use crate::core::error::{Error, Result};
use crate::core::home::{Home, publish_file};
use crate::core::runtime;
use crate::core::state::CoreState;
use abbey_api::{BackupDoc, Problem, VERSION};
use abbey_cells::hostd::HostdOperation;
use abbey_model::FaultKind;
use abbey_store::{Sqlite, SqliteOptions, Storage, SystemClock};
use abbey_support::file;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Writes a backup archive to an absolute path that does not exist yet, while the control plane
/// runs, and returns its path, size and database digest. The archive appears under its name only
/// when it is complete.
pub(crate) async fn write_backup(core: &Arc<CoreState>, to: &Path) -> Result<BackupDoc> {
    if !to.is_absolute() {
        return Err(
            Problem::new(FaultKind::Invalid, "the path of a backup must be absolute").into(),
        );
    }
    if to.exists() {
        return Err(Problem::new(
            FaultKind::Conflict,
            format!(
                "the backup file `{}` exists already; choose another name",
                to.display()
            ),
        )
        .into());
    }
    let database = to.with_extension("db.partial");
    core.store.backup(database.clone()).await?;
    let hostd = Arc::clone(&core.hostd);
    let (target, copy) = (to.to_owned(), database.clone());
    let packed = runtime::run_blocking(move || -> Result<String> {
        let hash = hash_database_file(&copy)?;
        let temporary = target.with_extension("tar.partial");
        let file = fs::File::create(&temporary).map_err(Error::file("make", &temporary))?;
        let write_error = |e| Error::file("write", &temporary)(e);
        // The control plane's user can't read agents' files, so hostd packs them; the end of the archive is written here.
        hostd.call(HostdOperation::Pack { owner: None }, &[file.as_fd()])?;
        let mut archive = tar::Builder::new(file);
        archive
            .append_path_with_name(&copy, "abbey.db")
            .map_err(write_error)?;
        archive.into_inner().map_err(write_error)?;
        file::publish_finished(&temporary, &target, file::Sync::Entry)
            .map_err(Error::file("publish", &target))?;
        Ok(hash)
    });
    let outcome = packed
        .await
        .map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))?;
    let _part_of_the_archive_now = fs::remove_file(&database);
    let bytes = fs::metadata(to)
        .map_err(Error::file("read the metadata of", to))?
        .len();
    Ok(BackupDoc {
        version: VERSION,
        path: to.display().to_string(),
        state_hash: outcome?,
        bytes,
    })
}

/// Digest of the state in a database file that no process has open.
fn hash_database_file(database: &Path) -> Result<String> {
    let store = Sqlite::open(SqliteOptions {
        path: database.to_owned(),
        clock: Arc::new(SystemClock::new()),
        redactor: Arc::default(),
        signing_key: [0; 32],
        entropy: Arc::new(abbey_store::SystemEntropy),
        on_fatal: Box::new(|_| {}),
    })?;
    Ok(store.state_hash().wait()?)
}

/// Restores a backup archive into a home that has no database yet, and returns the digest of the
/// restored database.
///
/// # Errors
/// If the home already has a database, the archive is not a backup, or a file cannot be written.
pub fn restore_backup(root: PathBuf, from: &Path) -> std::result::Result<String, Error> {
    let home = Home::new(root);
    home.create_directories()?;
    let _lock = home.acquire_lock()?;
    if home.database_file().exists() {
        let text = format!(
            "`{}` already has state; restore into an empty home, or move that file to another directory first",
            home.root().display()
        );
        return Err(Problem::new(FaultKind::Conflict, text).into());
    }
    let file = fs::File::open(from).map_err(Error::file("open", from))?;
    let damaged = |why: String| Error::Damaged {
        path: from.to_owned(),
        why,
    };
    let mut archive = tar::Archive::new(file);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(rustix::process::geteuid().is_root());
    let staged = home.root().join("abbey.db.restored");
    let mut found = false;
    for entry in archive.entries().map_err(|e| damaged(e.to_string()))? {
        let mut entry = entry.map_err(|e| damaged(e.to_string()))?;
        let path = entry
            .path()
            .map_err(|e| damaged(e.to_string()))?
            .into_owned();
        if path == Path::new("abbey.db") {
            let mut bytes = Vec::new();
            entry
                .read_to_end(&mut bytes)
                .map_err(|e| damaged(e.to_string()))?;
            publish_file(&staged, &bytes, 0o600)?;
            found = true;
        } else if (path.starts_with("agents") || path == Path::new("hostd/claims.json"))
            && (entry.header().entry_type().is_file() || entry.header().entry_type().is_dir())
        {
            // `unpack_in` refuses paths that lead out of the directory.
            entry
                .unpack_in(home.root())
                .map_err(|e| damaged(e.to_string()))?;
        }
    }
    if !found {
        return Err(damaged(
            "it contains no `abbey.db`; use an archive that `abbey backup` wrote".to_owned(),
        ));
    }
    let hash = hash_database_file(&staged)?;
    for extension in ["db.restored-wal", "db.restored-shm"] {
        let _none = fs::remove_file(home.root().join("abbey").with_extension(extension));
    }
    file::publish_finished(&staged, &home.database_file(), file::Sync::Entry)
        .map_err(Error::file("publish", home.database_file()))?;
    Ok(hash)
}
