//! Programs on the agent's PostgreSQL database, which they find as every client does, by `PG…`
//! variables and the password file; no credential is in argv.

use super::outcome::Outcome;
use abbey_support::file;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// Directory of backups in the workspace.
const BACKUPS: &str = "backups/db";
/// Backups that are kept by default.
const KEEP: usize = 7;
/// Directory in which Debian installs the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Largest migration, bytes.
const MIGRATION_MAX: u64 = 16 << 20;
/// Creates the table of applied migrations.
const REMEMBER: &str = "CREATE TABLE IF NOT EXISTS abbey_migrations (
  number bigint PRIMARY KEY, name text NOT NULL, hash text NOT NULL, at timestamptz NOT NULL DEFAULT now())";

/// A program of the newest PostgreSQL version in this cell; a client may be newer than the server,
/// never older.
fn program(name: &str) -> Command {
    let number = |path: PathBuf| -> Option<(u32, PathBuf)> {
        Some((path.file_name()?.to_str()?.parse().ok()?, path))
    };
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let newest = versions.filter_map(|e| number(e.path())).max();
    let path = newest.map(|(_, dir)| dir.join("bin").join(name));
    Command::new(
        path.filter(|p| p.is_file())
            .unwrap_or_else(|| PathBuf::from(name)),
    )
}

fn database() -> Result<String, String> {
    std::env::var("PGDATABASE").map_err(|_| {
        "this agent has no database; give it one with `uses: [SERVICE]`, where the service is of `kind: postgres`".to_owned()
    })
}

fn successful_output(name: &str, output: std::io::Result<Output>) -> Result<String, String> {
    let output = output.map_err(|e| {
        format!("`{name}` could not be run: {e}; install PostgreSQL's clients on the host (on Debian: postgresql-client)")
    })?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!(
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// Runs an SQL script with psql and returns its output.
fn psql(script: &str) -> Result<String, String> {
    let child = program("psql")
        .args([
            "--no-psqlrc",
            "--quiet",
            "--tuples-only",
            "--no-align",
            "--no-password",
        ])
        .args(["--set", "ON_ERROR_STOP=1", "--file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => return successful_output("psql", Err(e)),
    };
    let feed = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // It may print before it has read everything.
        scope.spawn(|| {
            if let Some(mut pipe) = feed {
                let _it_says_why = pipe.write_all(script.as_bytes());
            }
        });
        child.wait_with_output()
    });
    successful_output("psql", output)
}

fn stamp() -> u128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_millis())
}

/// Program `backup-db`: writes a backup, verifies it by reading it back, and removes all but the
/// newest `keep` (default 7).
pub(super) fn back_up_database(keep: &str) -> Outcome {
    let keep = keep.parse().unwrap_or(KEEP);
    let (path, bytes) = write_backup(&database()?, keep)?;
    let text = format!(
        "backed up the database to {} ({bytes} bytes)",
        path.display()
    );
    Ok((text, json!({ "backup": path, "bytes": bytes })))
}

fn write_backup(name: &str, keep: usize) -> Result<(PathBuf, u64), String> {
    let dir = Path::new(BACKUPS);
    let told = |what: &str, path: &Path, e: std::io::Error| {
        format!("could not {what} `{}`: {e}", path.display())
    };
    fs::create_dir_all(dir).map_err(|e| told("make", dir, e))?;
    let path = dir.join(format!("{name}@{:015}.dump", stamp()));
    let new = path.with_extension("new");
    let dumped = program("pg_dump")
        .args(["--format=custom", "--no-password", "--file"])
        .arg(&new)
        .output();
    let checked = successful_output("pg_dump", dumped).and_then(|_| {
        successful_output(
            "pg_restore",
            program("pg_restore").arg("--list").arg(&new).output(),
        )
    });
    if let Err(why) = checked {
        let _nothing_half_made_stays = fs::remove_file(&new);
        return Err(why);
    }
    file::publish_finished(&new, &path, file::Sync::Content)
        .map_err(|e| told("publish", &path, e))?;
    let mut all = list_backups()?;
    let surplus = all.len().saturating_sub(keep.max(1));
    for old in all.drain(..surplus) {
        fs::remove_file(&old).map_err(|e| told("remove", &old, e))?;
    }
    let bytes = fs::metadata(&path).map_or(0, |m| m.len());
    Ok((path, bytes))
}

/// Paths of the backups, oldest first.
fn list_backups() -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(BACKUPS).map_err(|e| format!("could not list `{BACKUPS}`: {e}"))?;
    let paths = entries.flatten().map(|e| e.path());
    let mut all: Vec<PathBuf> = paths
        .filter(|p| p.extension().is_some_and(|e| e == "dump"))
        .collect();
    all.sort_by_key(|p| p.to_string_lossy().rsplit('@').next().map(str::to_owned));
    Ok(all)
}

fn database_size() -> Result<u64, String> {
    let text = psql("SELECT pg_database_size(current_database());")?;
    text.parse()
        .map_err(|_| format!("the server answered `{text}` instead of a size"))
}

/// Program `db-vacuum`: vacuums and analyzes the database, and reports its size before and after.
pub(super) fn vacuum_database() -> Outcome {
    let name = database()?;
    let before = database_size()?;
    psql("VACUUM (ANALYZE, SKIP_LOCKED);")?;
    let after = database_size()?;
    let tables = psql(
        "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'm', 'p') AND relnamespace = 'public'::regnamespace;",
    )?;
    let text = format!("vacuumed {name}: {tables} tables, {before} bytes before and {after} after");
    Ok((
        text,
        json!({ "database": name, "before": before, "after": after }),
    ))
}

/// A migration file.
struct Migration {
    number: i64,
    name: String,
    hash: String,
    text: String,
}

/// Program `db-migrate`: applies the migrations of a directory that were not applied yet, in the
/// order of their numbers, each in a transaction.
pub(super) fn apply_migrations(directory: &str) -> Outcome {
    let name = database()?;
    let directory = if directory.is_empty() {
        "migrations"
    } else {
        directory
    };
    let all = read_migrations(directory)?;
    psql(&format!("SET client_min_messages = warning; {REMEMBER};"))?;
    let known = applied_migrations()?;
    for migration in &all {
        let before = known.iter().find(|(number, _)| *number == migration.number);
        if before.is_some_and(|(_, hash)| *hash != migration.hash) {
            return Err(format!(
                "`{}` was changed after it was applied; write a new migration instead of editing it",
                migration.name
            ));
        }
    }
    let mut done = Vec::new();
    for migration in &all {
        if apply_migration(migration)? {
            done.push(migration.name.clone());
        }
    }
    let text = match done.is_empty() {
        true => format!("{name} is up to date: {} migrations, none new", all.len()),
        false => format!("applied to {name}: {}", done.join(", ")),
    };
    Ok((
        text,
        json!({ "database": name, "applied": done, "known": all.len() }),
    ))
}

fn read_migrations(directory: &str) -> Result<Vec<Migration>, String> {
    if directory.split('/').any(|part| part == "..") {
        return Err(format!("`{directory}` is outside the workspace"));
    }
    let entries = fs::read_dir(directory)
        .map_err(|e| format!("the migrations in `{directory}` cannot be read: {e}"))?;
    let mut all: Vec<Migration> = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".sql") else {
            continue;
        };
        let number = stem.split(['_', '-']).next().and_then(|n| n.parse().ok());
        let number = number.ok_or_else(|| {
            format!("`{name}` does not begin with a number, as `12_name.sql` does")
        })?;
        if let Some(other) = all.iter().find(|m| m.number == number) {
            return Err(format!(
                "`{}` and `{name}` have the same number",
                other.name
            ));
        }
        if entry.metadata().map_or(0, |m| m.len()) > MIGRATION_MAX {
            return Err(format!("`{name}` is larger than {MIGRATION_MAX} bytes"));
        }
        let text = fs::read_to_string(entry.path())
            .map_err(|e| format!("`{name}` cannot be read: {e}"))?;
        let hash = abbey_support::digest::sha256_hex(text.as_bytes());
        all.push(Migration {
            number,
            name,
            hash,
            text,
        });
    }
    all.sort_by_key(|m| m.number);
    Ok(all)
}

fn applied_migrations() -> Result<Vec<(i64, String)>, String> {
    let text = psql("SELECT number || ' ' || hash FROM abbey_migrations ORDER BY number;")?;
    let row = |line: &str| {
        let (number, hash) = line.split_once(' ')?;
        Some((number.parse().ok()?, hash.to_owned()))
    };
    Ok(text.lines().filter_map(row).collect())
}

/// A random word that a migration cannot guess, so that it cannot end the block in which it runs.
fn random_word() -> Result<String, String> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| format!("no random numbers: {e}"))?;
    Ok(abbey_support::digest::hex(bytes))
}

/// Applies a migration in a transaction; returns whether it was applied now, since a concurrent
/// program may have done so.
fn apply_migration(migration: &Migration) -> Result<bool, String> {
    let Migration {
        number, hash, text, ..
    } = migration;
    let name = migration.name.replace('\'', "''");
    let word = random_word()?;
    // The server runs the text from within a block: there a command that would end the transaction is an error, and psql
    // sees a quoted text, of which it carries out nothing. Source: PostgreSQL, "Executing Dynamic Commands".
    let script = format!(
        "BEGIN;
SELECT pg_advisory_xact_lock(hashtext('abbey_migrations'));
SELECT EXISTS (SELECT FROM abbey_migrations WHERE number = {number}) AS there \\gset
\\if :there
  \\echo there
  \\q
\\endif
DO $do{word}$ BEGIN EXECUTE $sql{word}$
{text}
$sql{word}$; END $do{word}$;
INSERT INTO abbey_migrations (number, name, hash) VALUES ({number}, '{name}', '{hash}');
COMMIT;
\\echo done
"
    );
    match psql(&script) {
        Ok(said) => Ok(said.lines().any(|l| l == "done")),
        Err(why) if why.contains("EXECUTE of transaction commands") => Err(format!(
            "`{}` was not applied: it ends its own transaction (`COMMIT`, `ROLLBACK` or another command for transactions), so it could not be applied whole; take that out",
            migration.name
        )),
        Err(why) => Err(format!("`{}` was not applied: {why}", migration.name)),
    }
}

/// Program `db-restore`: replaces the database with a backup. Unless `approved`, requests an
/// approval that says what would be lost.
pub(super) fn restore_database(backup: &str, approved: bool) -> Outcome {
    let name = database()?;
    let path = Path::new(BACKUPS).join(backup.strip_prefix("backups/db/").unwrap_or(backup));
    let listed = program("pg_restore").arg("--list").arg(&path).output();
    if backup.contains("..") || !path.is_file() {
        let have: Vec<String> = list_backups()
            .unwrap_or_default()
            .iter()
            .filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned()))
            .collect();
        return Err(format!(
            "there is no backup `{backup}`; existing backups: {}",
            have.join(", ")
        ));
    }
    let listed = successful_output("pg_restore", listed)?;
    let tables = |text: &str| text.lines().filter(|l| l.contains(" TABLE DATA ")).count();
    if !approved {
        let now = psql(
            "SELECT coalesce(string_agg(relname || ' (' || n_live_tup || ' rows)', ', ' ORDER BY relname), 'nothing') FROM pg_stat_user_tables;",
        )?;
        let why = format!(
            "{name} is replaced by {backup}, with {} tables; it contains now: {now}. A backup of the present content is made first",
            tables(&listed)
        );
        return Ok((why.clone(), json!({ super::ASK: { "why": why } })));
    }
    let (before, _) = write_backup(&name, usize::MAX)?;
    let restored = program("pg_restore")
        .args([
            "--clean",
            "--if-exists",
            "--no-owner",
            "--single-transaction",
            "--exit-on-error",
            "--no-password",
        ])
        .args(["--dbname", &name])
        .arg(&path)
        .output();
    successful_output("pg_restore", restored)
        .map_err(|why| format!("nothing was changed: {why}"))?;
    let text = format!(
        "restored {name} from {backup}; the previous content is in {}",
        before.display()
    );
    Ok((
        text,
        json!({ "database": name, "tables": tables(&listed), "before": before }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_taken_by_number_and_named_like_one() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| fs::write(dir.path().join(name), "SELECT 1;").unwrap();
        put("10_second.sql");
        put("2_first.sql");
        put("notes.txt");
        let path = dir.path().to_str().unwrap();
        let names = |all: Vec<Migration>| all.into_iter().map(|m| m.name).collect::<Vec<_>>();
        assert_eq!(
            names(read_migrations(path).unwrap()),
            ["2_first.sql", "10_second.sql"]
        );
        put("002_again.sql");
        assert!(
            read_migrations(path)
                .err()
                .unwrap()
                .contains("the same number")
        );
        fs::remove_file(dir.path().join("002_again.sql")).unwrap();
        put("first.sql");
        assert!(
            read_migrations(path)
                .err()
                .unwrap()
                .contains("does not begin with a number")
        );
        assert!(
            read_migrations("../elsewhere")
                .err()
                .unwrap()
                .contains("is outside the workspace")
        );
    }
}
