//! Backup of a running house: its state, the files of its agents and, on request, of its services in one archive,
//! without credentials.

use crate::cells::state::CellsState;
use crate::core::archive::{self, BackupContents, CHECKPOINTS, CONTENTS, DATABASE, MANIFEST};
use crate::core::audit_checkpoints;
use crate::core::error::{Error, Result};
use crate::core::home::Home;
use crate::core::plan::PlanInForce;
use crate::core::restore::hash_database_file;
use crate::core::runtime;
use crate::core::saved_templates::saved_template_names;
use abbey_api::{BackupBody, BackupDoc, Problem, Time, VERSION};
use abbey_cells::hostd::{HostdOperation, HostdReply};
use abbey_model::{CellName, FaultKind, Observed, Secret, Slug};
use abbey_plan::Charter;
use abbey_support::{digest, file};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Prefix of the directories in which backups are made.
const SCRATCH: &str = ".backup-";

/// Writes a backup archive to an absolute path that does not exist yet, while the control plane runs. The archive
/// appears under its name only when it is complete; of one that fails nothing is left.
pub(crate) async fn write_backup(cells: &Arc<CellsState>, body: BackupBody) -> Result<BackupDoc> {
    let to = PathBuf::from(&body.path);
    let parent = to.parent().unwrap_or(Path::new("/")).to_owned();
    let written = write_new_backup(cells, &to, body).await;
    written.map_err(|error| match error.is_full_disk() {
        true => no_space_for_working_copy(&parent),
        false => error,
    })
}

/// As [`write_backup`], with the errors as they come.
async fn write_new_backup(
    cells: &Arc<CellsState>,
    to: &Path,
    body: BackupBody,
) -> Result<BackupDoc> {
    if !to.is_absolute() {
        return Err(
            Problem::new(FaultKind::Invalid, "the path of a backup must be absolute").into(),
        );
    }
    if to.exists() {
        let text = format!(
            "the backup file `{}` exists already; choose another name",
            to.display()
        );
        return Err(Problem::new(FaultKind::Conflict, text).into());
    }
    // Removed when this returns, whatever happened; a crash leaves a name that the next backup sweeps.
    let parent = to.parent().unwrap_or(Path::new("/"));
    let scratch = tempfile::Builder::new()
        .prefix(SCRATCH)
        .tempdir_in(parent)
        .map_err(Error::file("make a directory in", parent))?;
    audit_checkpoints::publish_checkpoints(&cells.core).await?;
    // A backup is also evidence, so it is made of a damaged log too, and says so.
    let verdict = audit_checkpoints::verify_audit_log(&cells.core).await?;
    let damage = audit_checkpoints::describe_damage(&verdict);
    // Also when whoever asked is gone, and this ends in the middle.
    let _resumed = body.with_services.then(|| HeldPaused(Arc::clone(cells)));
    let running = match body.with_services {
        true => Some(pause_services(cells).await),
        false => None,
    };
    let (running, paused) = running.unzip();
    let written = async {
        if let Some(Err(why)) = paused {
            return Err(why);
        }
        let database = scratch.path().join(DATABASE);
        cells.core.store.backup(database).await?;
        let (state, dir) = (Arc::clone(cells), scratch.path().to_owned());
        let work = runtime::run_blocking(move || write_archive(&state, &dir, &body, damage));
        work.await
            .map_err(|e| Error::from(Problem::new(FaultKind::Internal, e.to_string())))?
    };
    let written = written.await;
    if let Some(running) = running {
        resume_services(cells, running).await;
    }
    let contents = written?;
    let made = scratch.path().join("archive");
    file::publish_finished(&made, to, file::Sync::Entry).map_err(Error::file("publish", to))?;
    let bytes = fs::metadata(to)
        .map_err(Error::file("read the metadata of", to))?
        .len();
    cells.core.store.record_backup().await?;
    Ok(BackupDoc {
        version: VERSION,
        path: to.display().to_string(),
        bytes,
        notes: contents
            .incomplete_notes()
            .chain(
                contents
                    .audit_log_damage
                    .as_deref()
                    .map(archive::damaged_log_note),
            )
            .collect(),
        complete: contents.incomplete.is_empty(),
        state_hash: contents.state_hash,
        left_out: contents.left_out,
    })
}

/// That the file system of `dir`, where a backup is made, is full.
fn no_space_for_working_copy(dir: &Path) -> Error {
    let text = format!(
        "could not make the backup: no space is left in `{}`, where its working copy is made, also if it goes to another disk",
        dir.display()
    );
    Error::Problem(
        Problem::new(FaultKind::Host, text)
            .remedy("free some space on the file system of the home, and run the backup again"),
    )
}

/// Removes from the house's own directory of backups what a control plane left that ended while it wrote one.
pub(crate) fn sweep_scratch(home: &Home) {
    for entry in fs::read_dir(home.backups_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(SCRATCH) {
            let _stays_until_the_next = fs::remove_dir_all(entry.path());
        }
        // Made for a command line that did not fetch it; with what earlier releases left beside it.
        if name.starts_with("asked-") {
            let _stays_until_the_next = fs::remove_file(entry.path());
        }
    }
}

/// Pauses every running service, so that the files of all are of one instant: those to resume, and whether all are
/// paused. The reconciler leaves them paused; if the control plane ends meanwhile, the next one resumes them.
async fn pause_services(cells: &Arc<CellsState>) -> (BTreeSet<CellName>, Result<()>) {
    let seen = cells.observations.snapshot();
    let running = seen.iter().filter(|(cell, seen)| {
        let runs = matches!(seen.observed, Observed::Running { paused: false, .. });
        runs && matches!(cell, CellName::Service(_))
    });
    let running: BTreeSet<CellName> = running.map(|(cell, _)| cell.clone()).collect();
    cells.hold_paused(running.clone());
    let paused = set_paused(cells, &running, true).await;
    (running, paused)
}

/// Services that are held paused for a backup until this is dropped; the reconciler resumes them.
struct HeldPaused(Arc<CellsState>);

impl Drop for HeldPaused {
    fn drop(&mut self) {
        self.0.hold_paused(BTreeSet::new());
        self.0.request_reconcile();
    }
}

async fn resume_services(cells: &Arc<CellsState>, running: BTreeSet<CellName>) {
    cells.hold_paused(BTreeSet::new());
    // The reconciler resumes what this did not.
    let _logged = set_paused(cells, &running, false).await;
    cells.request_reconcile();
}

async fn set_paused(
    cells: &Arc<CellsState>,
    names: &BTreeSet<CellName>,
    pause: bool,
) -> Result<()> {
    let mut outcome = Ok(());
    for cell in names {
        let (backend, name) = (Arc::clone(&cells.backend), cell.clone());
        let done = crate::core::hostd::call_blocking(move || backend.pause(&name, pause)).await;
        if let Err(error) = done {
            tracing::warn!(%cell, pause, error = error.chain(), "a service could not be paused or resumed for a backup");
            let text = format!(
                "service `{}` could not be paused, so the files of services would not be of one instant: {}",
                cell.slug(),
                error.chain()
            );
            let problem = Problem::new(FaultKind::Unavailable, text)
                .remedy("try again once `abbey service list` shows it as ready");
            outcome = outcome.and(Err(problem.into()));
        }
    }
    outcome
}

/// Writes the archive with the copy of the database that is in `scratch`, to `scratch/archive`.
/// `audit_log_damage`: why the audit log does not verify.
fn write_archive(
    cells: &CellsState,
    scratch: &Path,
    body: &BackupBody,
    audit_log_damage: Option<String>,
) -> Result<BackupContents> {
    let core = &cells.core;
    let database = scratch.join(DATABASE);
    let state_hash = hash_database_file(&database)?;
    let path = scratch.join("archive");
    let open = || {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
    };
    let file = open().map_err(Error::file("make", &path))?;
    let write_error = |e| Error::file("write", &path)(e);
    // The control plane's user can't read the files of agents, so hostd packs them; the end of the archive is written here.
    let pack = HostdOperation::Pack {
        owner: None,
        services: body.with_services,
    };
    let (unpacked, incomplete) = match core.hostd.call(pack, &[file.as_fd()])? {
        HostdReply::Packed {
            left_out,
            incomplete,
        } => (left_out, incomplete),
        _ => (Vec::new(), Vec::new()),
    };
    let current = core.plan.current();
    let mut tar = tar::Builder::new(file);
    tar.sparse(false);
    let mut left_out = describe_left_out(current.as_deref(), body);
    if let Some(current) = &current {
        append(&mut tar, MANIFEST, current.manifest.as_bytes()).map_err(write_error)?;
        for agent in current.house.agents.values() {
            let Charter::File(name) = &agent.charter else {
                continue;
            };
            let beside = Path::new(name)
                .components()
                .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
            match beside {
                true => append(&mut tar, &format!("manifest/{name}"), current.charter_of(&agent.slug).as_bytes())
                    .map_err(write_error)?,
                false => left_out.push(format!(
                    "the file `{name}`, the charter of agent `{}`, which is outside the manifest's directory; its text is in the state",
                    agent.slug
                )),
            }
        }
    }
    for template in saved_template_names(&core.home)? {
        let name = format!("{template}.tar");
        let path = core.home.templates_dir().join(&name);
        tar.append_path_with_name(&path, format!("templates/{name}"))
            .map_err(write_error)?;
    }
    let checkpoints = abbey_cells::hostd::checkpoint_file(&core.home.hostd_dir());
    let lines = fs::read(&checkpoints).map_err(Error::file("read", checkpoints))?;
    append(&mut tar, CHECKPOINTS, &lines).map_err(write_error)?;
    tar.append_path_with_name(&database, DATABASE)
        .map_err(write_error)?;
    let bytes = tar.get_mut().metadata().map_err(write_error)?.len();
    let written = open().map_err(Error::file("read", &path))?.take(bytes);
    let signing_key = match &body.passphrase {
        Some(passphrase) => {
            let key = core.home.load_or_create_signing_key()?;
            Some(archive::wrap_signing_key(&key, &Secret::new(passphrase))?)
        }
        None => None,
    };
    left_out.extend(unpacked);
    let contents = BackupContents {
        version: VERSION,
        software: env!("CARGO_PKG_VERSION").to_owned(),
        at: Time(core.store.now()),
        state_hash,
        bytes,
        sha256: digest::sha256_hex_of_reader(written).map_err(Error::file("read", &path))?,
        services: match body.with_services {
            true => services_with_data(current.as_deref()),
            false => Vec::new(),
        },
        signing_key,
        left_out,
        audit_log_damage,
        incomplete,
    };
    let text = serde_json::to_vec(&contents)
        .map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))?;
    append(&mut tar, CONTENTS, &text).map_err(write_error)?;
    tar.into_inner().map_err(write_error)?;
    Ok(contents)
}

fn append(tar: &mut tar::Builder<File>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, name, bytes)
}

/// Services that run in the house, and so have files there.
fn services_with_data(current: Option<&PlanInForce>) -> Vec<Slug> {
    let services = current.iter().flat_map(|c| c.house.services.values());
    services
        .filter(|s| s.at.is_none())
        .map(|s| s.slug.clone())
        .collect()
}

/// What a backup never holds, and what was not asked for.
fn describe_left_out(current: Option<&PlanInForce>, body: &BackupBody) -> Vec<String> {
    let mut lines = Vec::new();
    let services = services_with_data(current);
    if !services.is_empty() && !body.with_services {
        let names: Vec<&str> = services.iter().map(Slug::as_str).collect();
        lines.push(format!(
            "the data of services: {} (`abbey backup --with-services` takes them along)",
            names.join(", ")
        ));
    }
    lines.push("credentials of the operator and of agents, and named tokens; a restored house makes new ones".to_owned());
    let secrets = current.iter().flat_map(|c| c.house.secrets());
    let secrets: BTreeSet<String> = secrets
        .map(|(whose, secret)| format!("{secret} of {whose}"))
        .collect();
    if !secrets.is_empty() {
        let names: Vec<String> = secrets.into_iter().collect();
        lines.push(format!(
            "secrets, which must be put back by hand: {}",
            names.join(", ")
        ));
    }
    let services = current.iter().flat_map(|c| c.house.services.values());
    let programs: Vec<String> = services
        .filter(|s| s.at.is_none())
        .filter_map(|s| Some(format!("`{}` of service {}", s.command.first()?, s.slug)))
        .collect();
    if !programs.is_empty() {
        lines.push(format!(
            "programs of this host, which the other host needs too (those beside the manifest: beside the restored one): {}",
            programs.join(", ")
        ));
    }
    if body.passphrase.is_none() {
        lines.push("the signing key of the audit log (`--passphrase-file` takes it along); a restored house goes on with a new key".to_owned());
    }
    lines.push("logs, images, TLS certificates, and files of removed agents".to_owned());
    lines
}
