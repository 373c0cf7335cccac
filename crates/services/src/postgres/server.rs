//! The PostgreSQL server: its cluster is created once, the listen address is configured at every start, and a stop does
//! not wait for clients.

use super::places::{ADMIN, PostgresPaths};
use crate::lost_data::check_data_not_lost;
use crate::{Error, Result};
use abbey_support::file;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// Connections that the server has room for; each consumer has a limit of its own.
const CONNECTIONS: u32 = 500;

/// Creates the database cluster in `home` if it is missing, and runs the PostgreSQL server on `address:port` until
/// it ends or `SIGTERM` arrives. Returns the exit status.
///
/// # Errors
/// When PostgreSQL is missing, or the database cluster can be neither made nor started.
pub async fn serve_postgres(home: &Path, address: &str, port: u16) -> Result<i32> {
    let places = PostgresPaths {
        home: home.to_owned(),
    };
    let programs = places.program_dir()?;
    for dir in [places.socket_dir(), places.backups_dir()] {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir);
        made.map_err(Error::file("make", &dir))?;
    }
    check_data_not_lost(home)?;
    if places.cluster_version().is_none() {
        make(&places, &programs)?;
    }
    // A server before this one is gone with its cell, which was swept before this boot; its number may be another
    // process's by now, and would keep the server from starting.
    let lock = places.data_dir().join("postmaster.pid");
    match fs::remove_file(&lock) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::file("remove", lock)(e));
        }
        _ => {}
    }
    certify(&places)?;
    rules(&places)?;
    let text = |path: std::path::PathBuf| path.display().to_string();
    let settings = [
        ("listen_addresses", address.to_owned()),
        ("port", port.to_string()),
        ("unix_socket_directories", text(places.socket_dir())),
        ("unix_socket_permissions", "0700".to_owned()),
        ("hba_file", text(places.home.join("pg_hba.conf"))),
        ("ident_file", text(places.home.join("pg_ident.conf"))),
        ("ssl", "on".to_owned()),
        ("ssl_cert_file", text(places.certificate_file())),
        ("ssl_key_file", text(places.key_file())),
        ("ssl_min_protocol_version", "TLSv1.2".to_owned()),
        ("password_encryption", "scram-sha-256".to_owned()),
        ("max_connections", CONNECTIONS.to_string()),
        // What processes share lies with the data, and not in the cell's memory files.
        ("dynamic_shared_memory_type", "mmap".to_owned()),
        ("log_destination", "stderr".to_owned()),
        ("logging_collector", "off".to_owned()),
        ("log_line_prefix", "%q%u@%d ".to_owned()),
    ];
    let mut command = tokio::process::Command::new(programs.join("postgres"));
    command.arg("-D").arg(places.data_dir());
    for (name, value) in settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    let watch = |kind| signal(kind).map_err(Error::file("watch", "signals"));
    let (mut end, mut interrupt) = (
        watch(SignalKind::terminate())?,
        watch(SignalKind::interrupt())?,
    );
    let program = programs.join("postgres");
    let mut server = command.spawn().map_err(Error::file("start", &program))?;
    // Without this it would wait for its clients to go. Source: PostgreSQL, "Shutting Down the Server".
    let pid = server
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let fast = || pid.map(|pid| kill_process(pid, Signal::INT));
    tokio::select! {
        _ = end.recv() => { fast(); }
        _ = interrupt.recv() => { fast(); }
        status = server.wait() => {
            let status = status.map_err(Error::file("wait for", &program))?;
            return Ok(status.code().unwrap_or(1));
        }
    }
    let status = server.wait().await;
    let status = status.map_err(Error::file("wait for", &program))?;
    Ok(status.code().unwrap_or(1))
}

/// Makes the database cluster, whole or not at all.
fn make(places: &PostgresPaths, programs: &Path) -> Result<()> {
    let new = places.home.join("data.new");
    match fs::remove_dir_all(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::file("remove", &new)(e));
        }
        _ => {}
    }
    let program = programs.join("initdb");
    let made = Command::new(&program)
        .arg("--pgdata")
        .arg(&new)
        .args(["--username", ADMIN, "--auth=reject", "--encoding=UTF8"])
        .args(["--locale=C.UTF-8", "--data-checksums", "--no-instructions"])
        .output()
        .map_err(Error::file("run", &program))?;
    if !made.status.success() {
        return Err(Error::Refused {
            what: "initdb",
            said: String::from_utf8_lossy(&made.stderr).trim().to_owned(),
        });
    }
    fs::rename(&new, places.data_dir()).map_err(Error::file("publish", places.data_dir()))
}

/// A certificate of its own, which consumers are given to trust.
fn certify(places: &PostgresPaths) -> Result<()> {
    if places.certificate_file().exists() && places.key_file().exists() {
        return Ok(());
    }
    let refused = |e: rcgen::Error| Error::Refused {
        what: "creating a certificate",
        said: e.to_string(),
    };
    let pair = rcgen::KeyPair::generate().map_err(refused)?;
    let named = rcgen::CertificateParams::new(vec!["database".to_owned()]);
    let certificate = named.and_then(|p| p.self_signed(&pair)).map_err(refused)?;
    write(&places.key_file(), 0o600, &pair.serialize_pem())?;
    write(&places.certificate_file(), 0o644, &certificate.pem())
}

/// Text of `pg_hba.conf`: which users may connect, and how they authenticate.
fn rules(places: &PostgresPaths) -> Result<()> {
    let mine = Command::new("id").arg("-un").output();
    let mine = mine.map_err(Error::file("run", "id"))?;
    let user = String::from_utf8_lossy(&mine.stdout).trim().to_owned();
    if user.is_empty() {
        return Err(Error::Refused {
            what: "id -un",
            said: String::from_utf8_lossy(&mine.stderr).trim().to_owned(),
        });
    }
    // The administrator by the socket alone; consumers by TLS and password alone.
    // Source: PostgreSQL, "The pg_hba.conf File" and "User Name Maps".
    let hba = format!(
        "local   all all      peer map=house\nhost    all {ADMIN} all reject\nhostssl all all   all scram-sha-256\n"
    );
    write(&places.home.join("pg_hba.conf"), 0o600, &hba)?;
    write(
        &places.home.join("pg_ident.conf"),
        0o600,
        &format!("house \"{user}\" {ADMIN}\n"),
    )
}

fn write(path: &Path, mode: u32, text: &str) -> Result<()> {
    file::publish(path, text, mode, file::Sync::Content).map_err(Error::file("write", path))
}
