//! `abbey backup` and `abbey restore`: the state and the agents' files in one archive.

use crate::connect::operator_client;
use crate::exit::{self, Failure, Outcome};
use crate::output;
use abbey_api::{BackupBody, VERSION};
use abbey_daemon::Home;
use std::path::Path;
use std::time::Duration;

/// `abbey backup`: writes a backup of the running house into a new archive and prints its hash. Exit code 4 if the
/// file exists.
pub(crate) async fn cmd_backup(home: &Home, json: bool, file: &Path) -> Outcome {
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let exists = || {
        Failure::plain(format!("`{}` exists; choose another name", path.display()))
            .with_code(exit::CONFLICT)
    };
    if path.exists() {
        return Err(exists());
    }
    // The control plane can write in its own directory only; this process, which runs as the caller, copies the archive
    // to its destination.
    let made = home
        .backups_dir()
        .join(format!("asked-{}.tar", std::process::id()));
    let client = operator_client(home)?.timeout(Duration::from_secs(600));
    let body = BackupBody {
        path: made.display().to_string(),
    };
    let mut doc = client.house().back_up(&body).await?;
    let place = || -> std::io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut to = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        std::io::copy(&mut std::fs::File::open(&made)?, &mut to)?;
        to.sync_all()
    };
    let placed = place();
    let _gone_already = std::fs::remove_file(&made);
    placed.map_err(|e| {
        Failure::plain(format!("cannot write the backup `{}`: {e}", path.display()))
    })?;
    doc.path = path.display().to_string();
    if json {
        output::print_json(&doc);
    } else {
        output::print_line(&format!(
            "{} ({} bytes), state hash {}",
            doc.path, doc.bytes, doc.state_hash
        ));
    }
    Ok(exit::OK)
}

/// `abbey restore`: restores a backup into a home that has no state, without a control plane, and prints the hash
/// of the state.
pub(crate) async fn cmd_restore(home: &Home, json: bool, file: &Path) -> Outcome {
    let (root, from) = (home.root().to_owned(), file.to_owned());
    let restored =
        tokio::task::spawn_blocking(move || abbey_daemon::restore_backup(root, &from)).await;
    let hash =
        restored.map_err(|e| Failure::plain(format!("cannot restore the backup: {e}")))??;
    if json {
        output::print_json(&serde_json::json!({ "version": VERSION, "state_hash": hash }));
    } else {
        output::print_line(&format!(
            "restored into {}, state hash {hash}",
            home.root().display()
        ));
    }
    Ok(exit::OK)
}
