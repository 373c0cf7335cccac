//! Checks whether the control plane's user will be able to read the files that a manifest names.

use abbey_cells::hostd::{check_secret_file, check_sink_file};
use abbey_model::SecretRef;
use abbey_plan::CheckpointSink;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Secret and TLS files of a manifest that user `runs_as` cannot read: subject of the note, and its
/// text with the remedy.
pub(super) fn unreadable_files(
    manifest: &abbey_plan::House,
    base_dir: &str,
    runs_as: u32,
) -> Vec<(String, String)> {
    let base = Path::new(base_dir);
    let secrets = manifest
        .secrets()
        .filter_map(|(subject, secret)| match secret {
            SecretRef::File(path) => Some((subject, base.join(path))),
            SecretRef::Env(_) | SecretRef::Credential(_) => None,
        });
    let tls = manifest.listen.tls.iter();
    let tls = tls.flat_map(|(certificate, key)| [certificate, key]);
    let tls = tls.map(|path| ("listen".to_owned(), base.join(path)));
    // hostd reads files of root's for the control plane.
    let not_of_root = |(_, path): &(String, PathBuf)| check_secret_file(path).is_err();
    let closed = secrets.chain(tls).filter(not_of_root).filter_map(|(subject, path)| {
        let at = first_denied_path(&path, runs_as)?;
        let text = format!(
            "`{}` cannot be read by user {runs_as}, which the control plane runs as: permission denied at {}; give the file to root, or store a secret with `abbey secret set NAME` and write `credential:NAME`",
            path.display(),
            at.display()
        );
        Some((subject, text))
    });
    closed.chain(refused_sink_files(manifest)).collect()
}

/// Files that a manifest names as checkpoint sinks and that hostd, as root, would not append to: subject of the note, and
/// its text with the remedy.
pub fn refused_sink_files(manifest: &abbey_plan::House) -> Vec<(String, String)> {
    let refused = manifest.checkpoint_sinks.iter().filter_map(|(name, sink)| match sink {
        CheckpointSink::File(path) => {
            let text = format!(
                "hostd cannot append to the file: {}; make a directory for it that belongs to root and that only root can write to",
                check_sink_file(path).err()?
            );
            Some((format!("checkpoint_sink:{name}"), text))
        }
        CheckpointSink::Syslog(_) | CheckpointSink::Http { .. } => None,
    });
    refused.collect()
}

/// First path among a file and its parent directories that a user without supplementary groups may
/// not read or enter, by its mode.
fn first_denied_path(path: &Path, user: u32) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let mut places: Vec<&Path> = path.ancestors().collect();
    places.reverse();
    let closed = places.into_iter().find(|place| {
        let Ok(found) = place.metadata() else {
            return true;
        };
        let wanted = if found.is_dir() { 0o1 } else { 0o4 };
        let shift = match (found.uid() == user, found.gid() == user) {
            (true, _) => 6,
            (_, true) => 3,
            _ => 0,
        };
        (found.mode() >> shift) & wanted == 0
    });
    closed.map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_closed_to_another_user_by_its_mode_or_by_a_directory_above() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let file = inner.join("key");
        fs::write(&file, "x").unwrap();
        let other = fs::metadata(&file).unwrap().uid() + 4242;
        let modes = |top, directory, mode| {
            let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
            set(&file, mode).unwrap();
            set(&inner, directory).unwrap();
            set(dir.path(), top).unwrap();
        };
        let real = dir.path().canonicalize().unwrap();
        modes(0o755, 0o755, 0o600);
        assert_eq!(
            first_denied_path(&file, other),
            Some(real.join("inner/key"))
        );
        modes(0o755, 0o755, 0o644);
        assert_eq!(first_denied_path(&file, other), None);
        modes(0o755, 0o700, 0o644);
        assert_eq!(first_denied_path(&file, other), Some(real.join("inner")));
    }
}
