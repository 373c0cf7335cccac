//! Database and role of each consumer. PostgreSQL itself stores which consumers are closed and since when, so that its
//! catalog is the whole state, also after a backup of it was restored.

use super::places::{ADMIN, PostgresPaths};
use crate::ask::{ConsumerState, ServiceReply, ServiceRequest};
use crate::registry::{remove_unfinished, require_space};
use crate::{Error, Result};
use abbey_support::file;
use serde::Deserialize;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Bytes of a dump that are written between two looks at the disk.
const CHECK_EVERY: u64 = 1 << 20;
/// Bytes that are kept of what a program says on standard error.
const SAID_MAX: u64 = 16 << 10;

/// How the comment of a closed database begins.
const CLOSED: &str = "closed by abbey at ";

/// Databases that are a consumer's, with their roles.
const STATE: &str = "
SELECT coalesce(json_agg(json_build_object('name', d.datname, 'open', r.rolcanlogin, 'connections', r.rolconnlimit,
       'comment', shobj_description(d.oid, 'pg_database')) ORDER BY d.datname), '[]')
FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba
WHERE r.rolname = d.datname AND shobj_description(r.oid, 'pg_authid') = 'of abbey';
";

/// Makes what is not there yet; each statement may find its work done.
const OPEN: &str = r#"
SET log_statement = 'none'; SET log_min_error_statement = 'panic';
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') AS new \gset
\if :new
  BEGIN;
  CREATE ROLE :"name" NOLOGIN;
  COMMENT ON ROLE :"name" IS 'of abbey';
  COMMIT;
\endif
ALTER ROLE :"name" NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT :connections;
SELECT format('CREATE DATABASE %I OWNER %I TEMPLATE template0', :'name', :'name')
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
REVOKE ALL ON DATABASE postgres FROM PUBLIC;
REVOKE ALL ON DATABASE template1 FROM PUBLIC;
COMMENT ON DATABASE :"name" IS NULL;
ALTER ROLE :"name" LOGIN PASSWORD :'secret';
"#;

/// What has this name and is none of ours.
const FOREIGN: &str = "
SELECT 'a role' FROM pg_roles
  WHERE rolname = :'name' AND shobj_description(oid, 'pg_authid') IS DISTINCT FROM 'of abbey'
UNION ALL
SELECT 'a database' FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba
  WHERE d.datname = :'name' AND r.rolname <> d.datname;
";

/// Keeps a consumer out, also where it is in.
const SHUT: &str = r#"
ALTER ROLE :"name" NOLOGIN PASSWORD NULL;
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = :'name' OR usename = :'name';
"#;

const MARK: &str = r#"
COMMENT ON DATABASE :"name" IS :'comment';
"#;

const DROP: &str = r#"
SELECT format('DROP DATABASE %I WITH (FORCE)', :'name')
  WHERE EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SELECT format('DROP ROLE %I', :'name')
  WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
"#;

#[derive(Deserialize)]
struct Row {
    name: String,
    open: bool,
    connections: i64,
    comment: Option<String>,
}

/// Performs a request of the control plane on the databases and roles of the consumers.
pub(super) fn perform_request(
    places: &PostgresPaths,
    question: ServiceRequest,
) -> Result<ServiceReply> {
    let done = ServiceReply::Done {
        backup: None,
        bytes: 0,
    };
    match question {
        ServiceRequest::State {} => {
            let path = places.certificate_file();
            let certificate = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
            Ok(ServiceReply::State {
                holdings: holdings(places)?,
                certificate: Some(certificate),
            })
        }
        ServiceRequest::Open {
            name,
            secret,
            connections,
            ..
        } => {
            let foreign = psql(places, &[("name", &name)], FOREIGN)?;
            if !foreign.is_empty() {
                let text = format!(
                    "{foreign} `{name}` is there already and is not of the house; give its agent another name in `names`"
                );
                return Err(Error::InvalidRequest(text.replace('\n', " and ")));
            }
            let connections = connections.to_string();
            let set = [
                ("name", name.as_str()),
                ("secret", &secret),
                ("connections", &connections),
            ];
            psql(places, &set, OPEN)?;
            Ok(done)
        }
        ServiceRequest::Close { name, at_ms } => {
            let Some(held) = find(places, &name)? else {
                return Ok(done);
            };
            psql(places, &[("name", &name)], SHUT)?;
            if held.closed_ms.is_some() {
                return Ok(done);
            }
            let copy = backup(places, &name, at_ms)?;
            let comment = format!("{CLOSED}{at_ms}");
            let marked = psql(places, &[("name", &name), ("comment", &comment)], MARK);
            if marked.is_err() {
                // The next attempt makes one of its own.
                let _stays_then = fs::remove_file(copy_path(places, &name, at_ms));
            }
            marked.map(|_| copy)
        }
        ServiceRequest::Drop { name, at_ms } => {
            let Some(held) = find(places, &name)? else {
                return Ok(done);
            };
            if held.open {
                return Err(Error::InvalidRequest(format!(
                    "`{name}` is in use; it is closed first"
                )));
            }
            // Nobody can have changed it since it was closed, so the copy of then is the last one, however often this is tried.
            let closed = held.closed_ms.unwrap_or(at_ms);
            let path = copy_path(places, &name, closed);
            let copy = match fs::metadata(&path) {
                Ok(found) => copied(places, &path, found.len()),
                Err(_) => backup(places, &name, closed)?,
            };
            psql(places, &[("name", &name)], DROP)?;
            Ok(copy)
        }
    }
}

fn find(places: &PostgresPaths, name: &str) -> Result<Option<ConsumerState>> {
    Ok(holdings(places)?.into_iter().find(|h| h.name == name))
}

fn holdings(places: &PostgresPaths) -> Result<Vec<ConsumerState>> {
    let text = psql(places, &[], STATE)?;
    let rows: Vec<Row> = serde_json::from_str(&text).map_err(|e| Error::Refused {
        what: "listing the databases",
        said: e.to_string(),
    })?;
    let holding = |row: Row| ConsumerState {
        closed_ms: row
            .comment
            .as_deref()
            .and_then(|c| c.strip_prefix(CLOSED)?.parse().ok()),
        name: row.name,
        open: row.open,
        connections: row.connections,
    };
    Ok(rows.into_iter().map(holding).collect())
}

/// Runs a script as the administrator. Values are quoted by psql; they come by its standard input and not in argv.
fn psql(places: &PostgresPaths, set: &[(&str, &str)], script: &str) -> Result<String> {
    let program = places.program_dir()?.join("psql");
    let child = Command::new(&program)
        .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
        .args([
            "--set",
            "ON_ERROR_STOP=1",
            "--username",
            ADMIN,
            "--dbname",
            "postgres",
        ])
        .arg("--host")
        .arg(places.socket_dir())
        .args(["--port", &port()])
        .args(["--file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(Error::file("run", &program))?;
    let mut text = String::new();
    for (name, value) in set {
        // Names, numbers and credentials are words; a comment is one of ours.
        text.push_str(&format!("\\set {name} '{value}'\n"));
    }
    text.push_str(script);
    if let Some(mut input) = child.stdin.take() {
        let written = input.write_all(text.as_bytes());
        written.map_err(Error::file("tell", &program))?;
    }
    let out = child
        .wait_with_output()
        .map_err(Error::file("run", &program))?;
    if !out.status.success() {
        return Err(Error::Refused {
            what: "the database server",
            said: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// The port is also part of the socket's name.
fn port() -> String {
    std::env::var("PORT").unwrap_or_else(|_| "5432".to_owned())
}

/// A copy that can be read back, or none. It stays until somebody deletes it: it may be the only one with what an agent had.
fn backup(places: &PostgresPaths, name: &str, at_ms: i64) -> Result<ServiceReply> {
    let bin = places.program_dir()?;
    let path = copy_path(places, name, at_ms);
    let new = path.with_extension("new");
    remove_unfinished(&places.backups_dir(), name)?;
    let made = write_copy(&bin, places, name, &new);
    if made.is_err() {
        let _removed_by_the_next = fs::remove_file(&new);
    }
    made?;
    file::publish_finished(&new, &path, file::Sync::Content)
        .map_err(Error::file("publish", &path))?;
    let bytes = fs::metadata(&path).map_or(0, |m| m.len());
    Ok(copied(places, &path, bytes))
}

/// Dumps a database into a file, and reads that back. The disk keeps its reserve.
fn write_copy(bin: &Path, places: &PostgresPaths, name: &str, to: &Path) -> Result<()> {
    let dump = bin.join("pg_dump");
    let mut command = Command::new(&dump);
    command
        .args([
            "--format=custom",
            "--no-password",
            "--username",
            ADMIN,
            "--dbname",
            name,
        ])
        .arg("--host")
        .arg(places.socket_dir())
        .args(["--port", &port()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // Before the program starts, which nobody would wait for if this failed.
    let mut file = fs::File::create(to).map_err(Error::file("make", to))?;
    let mut child = command.spawn().map_err(Error::file("run", &dump))?;
    // Read at once, or a program that complains much would wait for that with its output.
    let said = child.stderr.take().map(|mut errors| {
        std::thread::spawn(move || {
            let mut said = Vec::new();
            let read = errors.by_ref().take(SAID_MAX).read_to_end(&mut said);
            let _the_rest = read.and_then(|_| std::io::copy(&mut errors, &mut std::io::sink()));
            said
        })
    });
    let written = match child.stdout.take() {
        Some(output) => copy_above_reserve(output, &mut file),
        None => Ok(()),
    };
    if written.is_err() {
        let _ended_by_itself = child.kill();
    }
    let mut out = child
        .wait_with_output()
        .map_err(Error::file("run", &dump))?;
    out.stderr = said.and_then(|said| said.join().ok()).unwrap_or_default();
    written.map_err(Error::file("write", to))?;
    succeeded(&out, "pg_dump")?;
    let restore = bin.join("pg_restore");
    complete(
        Command::new(&restore).arg("--list").arg(to),
        "pg_restore --list",
        &restore,
    )
}

/// Writes what is read into a file, as long as the disk keeps its reserve.
fn copy_above_reserve(mut from: impl Read, to: &mut fs::File) -> std::io::Result<()> {
    loop {
        require_space(to, CHECK_EVERY)?;
        if std::io::copy(&mut from.by_ref().take(CHECK_EVERY), to)? == 0 {
            return Ok(());
        }
    }
}

/// Path of the copy of a database that is made at this instant.
fn copy_path(places: &PostgresPaths, name: &str, at_ms: i64) -> PathBuf {
    places
        .backups_dir()
        .join(format!("{name}@{at_ms:015}.dump"))
}

/// The reply that names a copy.
fn copied(places: &PostgresPaths, path: &Path, bytes: u64) -> ServiceReply {
    let relative = path.strip_prefix(&places.home).unwrap_or(path);
    ServiceReply::Done {
        backup: Some(relative.display().to_string()),
        bytes,
    }
}

fn complete(command: &mut Command, what: &'static str, program: &Path) -> Result<()> {
    let out = command.output().map_err(Error::file("run", program))?;
    succeeded(&out, what)
}

fn succeeded(out: &Output, what: &'static str) -> Result<()> {
    match out.status.success() {
        true => Ok(()),
        false => Err(Error::Refused {
            what,
            said: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        }),
    }
}
