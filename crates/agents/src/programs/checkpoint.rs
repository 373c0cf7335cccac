//! Programs `checkpoint` and `checkpoint-restore`: checkpoints of the workspace in a bare git
//! repository beside it. Each is a commit without parent under a ref of its time, so that old ones
//! can be removed. Files with secrets and live databases are excluded (S2-19).

use super::git::run_in_store;
use super::outcome::Outcome;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Largest file in a checkpoint, bytes.
const FILE_MAX: u64 = 16 << 20;
/// Most files in a checkpoint.
const FILES_MAX: usize = 50_000;
/// Checkpoints that are kept by default.
const KEEP: usize = 48;
/// First bytes of an SQLite database.
const SQLITE: &[u8] = b"SQLite format 3\0";
/// Top directories that belong to the house or are temporary.
const NOT_OURS: [&str; 3] = ["shared", "work", "restored"];

/// Reason for excluding a file by its name, if any.
fn excluded_name(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|e| lower.ends_with(e));
    let begins = |begins: &[&str]| begins.iter().any(|b| lower.starts_with(b));
    let secret = begins(&[
        ".env",
        "id_rsa",
        "id_ed25519",
        "id_ecdsa",
        "credentials",
        "secrets",
    ]) || ends(&[".pem", ".key", ".p12", ".pfx", ".kdbx", ".secret", ".token"])
        || ["token", ".netrc", ".pgpass", ".npmrc", ".git-credentials"].contains(&lower.as_str());
    let database = ends(&[
        ".db", ".sqlite", ".sqlite3", "-wal", "-shm", "-journal", ".db3",
    ]);
    match (secret, database) {
        (true, _) => Some("may be a secret"),
        (false, true) => Some("is a database"),
        (false, false) => None,
    }
}

/// Files of the workspace: included ones, and excluded ones with the reason.
struct Found {
    files: Vec<(String, PathBuf, bool)>,
    out: BTreeMap<String, &'static str>,
}

/// Values of the agent's credentials; a file that contains one is excluded.
fn own_secrets() -> Vec<Vec<u8>> {
    let token = std::env::var("ABBEY_TOKEN_FILE").ok();
    let token = token.and_then(|path| fs::read(path).ok());
    let keys = ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"];
    let keys = keys.iter().filter_map(|k| std::env::var(k).ok());
    token
        .into_iter()
        .chain(keys.map(String::into_bytes))
        .map(|s| s.trim_ascii().to_vec())
        .filter(|s| s.len() >= 8)
        .collect()
}

fn collect_files(
    dir: &Path,
    at: &str,
    secrets: &[Vec<u8>],
    found: &mut Found,
) -> Result<(), String> {
    let told = |e: std::io::Error| format!("could not list `{}`: {e}", dir.display());
    let mut entries: Vec<_> = fs::read_dir(dir)
        .map_err(told)?
        .collect::<Result<_, _>>()
        .map_err(told)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|n| !n.contains(['\n', '\0'])) else {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.out.insert(format!("{at}{name}"), "has an odd name");
            continue;
        };
        let path = format!("{at}{name}");
        // It may have gone since it was listed.
        let Ok(meta) = entry.path().symlink_metadata() else {
            continue;
        };
        let top = at.is_empty() && (NOT_OURS.contains(&name) || name.starts_with("restored-"));
        if top || name == ".git" {
            continue;
        }
        let why = match () {
            () if meta.is_symlink() => Some("is a link"),
            () if meta.is_dir() && entry.path().join("PG_VERSION").exists() => {
                Some("is a database")
            }
            () if meta.is_dir() => {
                collect_files(&entry.path(), &format!("{path}/"), secrets, found)?;
                continue;
            }
            () if !meta.is_file() => Some("is no file"),
            () if meta.len() > FILE_MAX => Some("is too large"),
            () => excluded_name(name).or_else(|| excluded_content(&entry.path(), secrets)),
        };
        match why {
            Some(why) => drop(found.out.insert(path, why)),
            None => {
                let executable = meta.permissions().mode() & 0o111 != 0;
                found.files.push((path, entry.path(), executable));
            }
        }
        if found.files.len() > FILES_MAX {
            return Err(format!("the workspace has more than {FILES_MAX} files"));
        }
    }
    Ok(())
}

/// Reason for excluding a file by its content, if any.
fn excluded_content(path: &Path, secrets: &[Vec<u8>]) -> Option<&'static str> {
    let mut bytes = Vec::new();
    let opened = fs::File::open(path).and_then(|f| f.take(FILE_MAX).read_to_end(&mut bytes));
    match opened {
        Err(_) => Some("cannot be read"),
        Ok(_) if bytes.starts_with(SQLITE) => Some("is a database"),
        Ok(_) => {
            let holds = |s: &Vec<u8>| bytes.windows(s.len()).any(|w| w == s.as_slice());
            secrets
                .iter()
                .any(holds)
                .then_some("holds a credential of this agent")
        }
    }
}

/// Path of the repository of checkpoints, which is created if it is missing.
fn open_or_create_store() -> Result<PathBuf, String> {
    let home = std::env::var("HOME").map_err(|_| "HOME is not set".to_owned())?;
    let path = Path::new(&home).join("checkpoints.git");
    if !path.join("HEAD").exists() {
        run_in_store(&path, &["init", "--quiet", "--bare"], &[], "")?;
    }
    Ok(path)
}

/// A temporary git index, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn in_store(store: &Path) -> Scratch {
        for entry in fs::read_dir(store).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|n| n.strip_prefix("index-"));
            let own = std::process::id().to_string();
            if pid.is_some_and(|p| p == own || !Path::new("/proc").join(p).exists()) {
                let _another_was_quicker = fs::remove_file(entry.path());
            }
        }
        Scratch(store.join(format!("index-{}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _nothing_was_written = fs::remove_file(&self.0);
    }
}

/// Name and tree of every checkpoint, oldest first.
fn list_checkpoints(store: &Path) -> Result<Vec<(String, String)>, String> {
    let format = "--format=%(refname:lstrip=2) %(tree)";
    let text = run_in_store(
        store,
        &[
            "for-each-ref",
            "--sort=refname",
            format,
            "refs/checkpoints/",
        ],
        &[],
        "",
    )?;
    let line = |l: &str| l.split_once(' ').map(|(n, t)| (n.to_owned(), t.to_owned()));
    Ok(text.lines().filter_map(line).collect())
}

/// Saves the workspace (the working directory) as a checkpoint, and removes all but the newest
/// `keep` (default 48).
pub(super) fn create_checkpoint(keep: &str) -> Outcome {
    let keep = keep.parse().unwrap_or(KEEP);
    let store = open_or_create_store()?;
    let mut found = Found {
        files: Vec::new(),
        out: BTreeMap::new(),
    };
    let here = std::env::current_dir().map_err(|e| e.to_string())?;
    collect_files(&here, "", &own_secrets(), &mut found)?;
    let mut places = String::new();
    for (_, place, _) in &found.files {
        let _to_a_string = writeln!(places, "{}", place.display());
    }
    let ids = run_in_store(
        &store,
        &["hash-object", "-w", "--no-filters", "--stdin-paths"],
        &[],
        &places,
    )?;
    let ids: Vec<&str> = ids.lines().collect();
    if ids.len() != found.files.len() {
        return Err(
            "git stored a different number of files than the checkpoint contains".to_owned(),
        );
    }
    let mut index = String::new();
    for ((path, _, executable), id) in found.files.iter().zip(&ids) {
        let mode = if *executable { "100755" } else { "100644" };
        let _to_a_string = write!(index, "{mode} {id}\t{path}\0");
    }
    let scratch = Scratch::in_store(&store);
    let scratch_text = scratch.0.display().to_string();
    let env = [("GIT_INDEX_FILE", scratch_text.as_str())];
    run_in_store(
        &store,
        &["update-index", "-z", "--index-info"],
        &env,
        &index,
    )?;
    let tree = run_in_store(&store, &["write-tree"], &env, "")?;
    let before = list_checkpoints(&store)?;
    let out = json!(found.out);
    if let Some((name, _)) = before.last().filter(|(_, t)| *t == tree) {
        let text = format!("nothing changed since checkpoint {name}");
        return Ok((
            text,
            json!({ "checkpoint": name, "made": false, "left_out": out }),
        ));
    }
    let commit = run_in_store(&store, &["commit-tree", &tree, "-m", "checkpoint"], &[], "")?;
    let format = [
        "show",
        "-s",
        "--format=%cd",
        "--date=format-local:%Y%m%dT%H%M%SZ",
        &commit,
    ];
    let now = run_in_store(&store, &format, &[], "")?;
    // The names sort by time, and two in one second are two.
    let mut name = now.clone();
    let mut more = 0;
    while before.iter().any(|(n, _)| *n == name) {
        more += 1;
        name = format!("{now}{more:03}");
    }
    let reference = format!("refs/checkpoints/{name}");
    run_in_store(&store, &["update-ref", &reference, &commit], &[], "")?;
    let all = list_checkpoints(&store)?;
    let old = all.len().saturating_sub(keep);
    for (name, _) in &all[..old] {
        let reference = format!("refs/checkpoints/{name}");
        run_in_store(&store, &["update-ref", "-d", &reference], &[], "")?;
    }
    if old > 0 {
        run_in_store(&store, &["prune", "--expire=now"], &[], "")?;
    }
    let text = format!(
        "checkpoint {name}: {} files, {} left out, {} kept",
        found.files.len(),
        found.out.len(),
        all.len() - old
    );
    Ok((
        text,
        json!({ "checkpoint": name, "made": true, "files": found.files.len(), "left_out": out, "kept": all.len() - old }),
    ))
}

/// Restores a checkpoint into a directory of the workspace that does not exist yet.
pub(super) fn restore_checkpoint(checkpoint: &str, into: &str) -> Outcome {
    let store = open_or_create_store()?;
    let all = list_checkpoints(&store)?;
    let found = match checkpoint {
        "" => all.last(),
        name => all.iter().find(|(n, _)| n == name),
    };
    let Some((name, tree)) = found else {
        let names: Vec<&str> = all.iter().map(|(n, _)| n.as_str()).collect();
        return Err(match names.as_slice() {
            [] => "no checkpoint has been created yet".to_owned(),
            names => format!(
                "there is no checkpoint `{checkpoint}`; existing checkpoints: {}",
                names.join(", ")
            ),
        });
    };
    let usual = format!("restored-{name}");
    let into = if into.is_empty() { &usual } else { into };
    fs::create_dir(into).map_err(|e| format!("could not make `{into}`: {e}"))?;
    let scratch = Scratch::in_store(&store);
    let scratch_text = scratch.0.display().to_string();
    let env = [("GIT_INDEX_FILE", scratch_text.as_str())];
    run_in_store(&store, &["read-tree", tree], &env, "")?;
    let here = std::env::current_dir().map_err(|e| e.to_string())?;
    let place = here.join(into).display().to_string();
    run_in_store(
        &store,
        &["--work-tree", &place, "checkout-index", "--all", "--force"],
        &env,
        "",
    )?;
    let count = run_in_store(&store, &["ls-files", "--cached"], &env, "")?
        .lines()
        .count();
    let text = format!("checkpoint {name} is in `{into}`: {count} files");
    Ok((
        text,
        json!({ "checkpoint": name, "into": into, "files": count }),
    ))
}
