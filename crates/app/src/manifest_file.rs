//! The manifest file: reading it with the charters that it names, and editing it in place. An edit is first planned, then
//! written, then applied.

use crate::connect::operator_client;
use crate::consent::Consent;
use crate::exit::{self, Failure, Outcome};
use crate::follow::{UNLIMITED, activity_of, follow};
use crate::manifest_arg;
use crate::manifest_edit::{
    ManifestTurn, PendingEdit, require_no_interrupted_edit, require_unedited, wait_for_turn,
};
use crate::output::{self, Progress};
use crate::plan_output::{print_plan, refusal};
use crate::readiness::PROGRESS_WITHIN;
use abbey_api::client::{Client, Error};
use abbey_api::headers::IfMatch;
use abbey_api::{ManifestBody, PlanDoc, SecretText};
use abbey_cells::hostd::{NamedFiles, allow_low_ports, allow_named_files};
use abbey_daemon::manifest::{CheckpointSink, Mistake};
use abbey_daemon::{Home, manifest};
use abbey_model::{FirstFiles, SecretRef, Slug};
use abbey_support::beneath::DirHandle;
use abbey_support::input::{InputError, read_input_text, read_text_within};
use abbey_support::shell::shell_path;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Longest manifest, bytes.
pub(crate) const MANIFEST_MAX: u64 = manifest::MANIFEST_MAX as u64;

/// Reads a manifest file and the charter files that it names, as the body of a request to plan or apply it.
///
/// # Errors
/// Exit code 2 if a file cannot be read.
pub(crate) fn read_manifest(file: &Path) -> Result<ManifestBody, Failure> {
    let text = read_input_text(file, MANIFEST_MAX).map_err(|e| cannot_read_manifest(file, e))?;
    manifest_request(file, text)
}

/// As [`read_manifest`], of the manifest of a house: where its file is gone, the failure says how to get it back.
///
/// # Errors
/// As [`read_manifest`]; whom the home belongs to, if that is another user.
pub(crate) fn read_manifest_of(home: &Home, file: &Path) -> Result<ManifestBody, Failure> {
    let has_state = std::fs::symlink_metadata(home.database_file()).is_ok();
    // A link that leads nowhere is no place to write to.
    let is_gone = || {
        let found = std::fs::symlink_metadata(file);
        found.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    };
    let manifest = read_manifest(file);
    if manifest.is_err() {
        home.require_own()?;
    }
    manifest.map_err(|failure| match has_state && is_gone() {
        true => failure.hint(format!(
            "`abbey plan --in-force > {}` brings back the manifest that was applied last; `-f` selects another file",
            shell_path(file)
        )),
        false => failure,
    })
}

/// Failure with exit code 2 of a manifest that cannot be read.
pub(crate) fn cannot_read_manifest(file: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::unusable_path("cannot read the manifest", file, why)
        .hint("`abbey init` writes a manifest to start from; `-f` selects another file")
}

/// Body of a request to plan or apply the manifest `text`. Charter files are read from paths relative to the
/// directory of `file`, in which they must be.
///
/// # Errors
/// Exit code 2 if a charter file cannot be read, or is elsewhere.
pub(crate) fn manifest_request(file: &Path, text: String) -> Result<ManifestBody, Failure> {
    manifest_request_with(file, text, &BTreeMap::new())
}

/// As [`manifest_request`], with the texts of charters in `given`, by path, which need not be written yet.
///
/// # Errors
/// As [`manifest_request`].
pub(crate) fn manifest_request_with(
    file: &Path,
    text: String,
    given: &BTreeMap<String, String>,
) -> Result<ManifestBody, Failure> {
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let base = path
        .parent()
        .map_or_else(|| PathBuf::from("/"), Path::to_owned);
    let (mut charters, mut environment) = (BTreeMap::new(), BTreeMap::new());
    if let Ok(house) = manifest::parse(&text) {
        // Its process has the environment of whoever started it, and may lack what was set since.
        for (_, secret) in house.secrets() {
            if let SecretRef::Env(name) = secret
                && let Ok(value) = std::env::var(name)
            {
                environment.insert(name.clone(), SecretText::new(value));
            }
        }
        for agent in house.agents.values() {
            if let manifest::Charter::File(name) = &agent.charter {
                let text = match given.get(name) {
                    Some(text) => text.clone(),
                    None => read_beside(&base, name).map_err(|e| {
                        Failure::plain(format!(
                            "{}:{}: cannot read the charter `{name}` of agent `{}`: {e}",
                            file.display(),
                            agent.line,
                            agent.slug
                        ))
                        .with_code(exit::USAGE)
                    })?,
                };
                charters.insert(name.clone(), text);
            }
        }
    }
    Ok(ManifestBody {
        render: None,
        manifest: text,
        base_dir: base.display().to_string(),
        charters,
        reason: None,
        consent: Vec::new(),
        environment,
        renamed: BTreeMap::new(),
        first_files: BTreeMap::new(),
    })
}

/// Reads a file that a manifest names and whose text reaches a cell. It is in the manifest's directory: the manifest may
/// be anybody's, and who applies it may read more than its author. So what is opened is found in one step, which no link
/// leads out of, and is a regular file.
fn read_beside(base: &Path, name: &str) -> Result<String, InputError> {
    let elsewhere = || {
        std::io::Error::new(
            std::io::ErrorKind::PermissionDenied,
            "it is not in the directory of the manifest; copy it there and write its relative path",
        )
    };
    let path = Path::new(name);
    let below = match path.is_absolute() {
        true => path.strip_prefix(base).map_err(|_| elsewhere())?,
        false => path,
    };
    let dir = DirHandle::open_trusted(base)?;
    let file = dir.open_file_through_links(below).map_err(|e| {
        match e.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error()) {
            true => elsewhere(),
            false => e,
        }
    })?;
    read_text_within(file, manifest::CHARTER_MAX as u64)
}

/// As root, lets hostd use the files that a manifest names for a control plane that runs as another user: read secrets and
/// files for TLS, append to checkpoint sinks. With `only`, no others any more.
///
/// # Errors
/// If this cannot be recorded in the home; exit code 4 if hostd would not append to a sink.
pub(crate) fn allow_root_files(
    home: &Home,
    body: &ManifestBody,
    only: bool,
) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Ok(house) = manifest::parse(&body.manifest) else {
        return Ok(());
    };
    if let Some((subject, text)) = manifest::refused_sink_files(&house).into_iter().next() {
        return Err(Failure::plain(format!("{subject}: {text}")).with_code(exit::CONFLICT));
    }
    let base = Path::new(&body.base_dir);
    let secrets = house.secrets().filter_map(|(_, secret)| match secret {
        SecretRef::File(path) => Some(base.join(path)),
        SecretRef::Env(_) | SecretRef::Credential(_) => None,
    });
    let sinks = house
        .checkpoint_sinks
        .values()
        .filter_map(|sink| match sink {
            CheckpointSink::File(path) => Some(path.clone()),
            CheckpointSink::Syslog(_) | CheckpointSink::Http { .. } => None,
        });
    let tls = house.listen.tls.iter();
    let tls = tls.flat_map(|(certificate, key)| [base.join(certificate), base.join(key)]);
    let read = secrets.chain(tls).collect();
    allow_named_files(home.root(), NamedFiles::Secrets, read, only)
        .and_then(|()| allow_named_files(home.root(), NamedFiles::Sinks, sinks.collect(), only))
        .map_err(|e| Failure::plain(e.to_string()))
}

/// As root, lets cells listen on the ports of the host below 1024 that a manifest names, when it is applied. With `only`,
/// on no others any more, once it is in force.
///
/// # Errors
/// If this cannot be recorded in the home.
pub(crate) fn allow_root_ports(home: &Home, manifest: &str, only: bool) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Ok(house) = manifest::parse(manifest) else {
        return Ok(());
    };
    let exposed = house.services.values().filter_map(|s| s.expose);
    let (first, last) = house.network.ports;
    let ports = exposed.chain(first..=last).collect();
    allow_low_ports(home.root(), ports, only).map_err(|e| Failure::plain(e.to_string()))
}

/// Reads the manifest file, once no other command edits it, and returns the edit that `change` makes of its text; the file
/// is not written.
pub(crate) async fn edit_manifest(
    home: &Home,
    file: &Path,
    change: impl FnOnce(&str) -> Result<String, Failure>,
) -> Result<ManifestEdit, Failure> {
    home.require_own()?;
    let turn = wait_for_turn(home).await?;
    let text = read_input_text(file, MANIFEST_MAX).map_err(|e| cannot_read_manifest(file, e))?;
    // An edit is no place to be told of mistakes that were there before.
    abbey_daemon::check_manifest(&text)?;
    let edited = change(&text)?;
    // Edits write the line ends of Unix; a file of Windows keeps its own.
    let edited = match text.contains("\r\n") {
        true => edited.replace("\r\n", "\n").replace('\n', "\r\n"),
        false => edited,
    };
    Ok(ManifestEdit {
        before: text,
        text: edited,
        renamed: BTreeMap::new(),
        first_files: BTreeMap::new(),
        turn,
    })
}

/// Edited text of a manifest, which no other command edits meanwhile.
pub(crate) struct ManifestEdit {
    before: String,
    /// The edited text.
    pub(crate) text: String,
    renamed: BTreeMap<String, String>,
    first_files: BTreeMap<String, String>,
    turn: ManifestTurn,
}

impl ManifestEdit {
    /// The edit, which adds `agent`, whose first files come from elsewhere.
    pub(crate) fn filling(self, agent: &Slug, files: &FirstFiles) -> ManifestEdit {
        ManifestEdit {
            first_files: BTreeMap::from([(agent.to_string(), files.to_string())]),
            ..self
        }
    }

    /// The edit, which gives an agent another name.
    pub(crate) fn renaming(self, old: &Slug, new: &Slug) -> ManifestEdit {
        ManifestEdit {
            renamed: BTreeMap::from([(old.to_string(), new.to_string())]),
            ..self
        }
    }
}

/// A plan of an edited manifest.
struct PlannedEdit {
    body: ManifestBody,
    plan: PlanDoc,
    /// Generation of the manifest in force when it was planned.
    after: u64,
}

/// Plans the edited text of a manifest, and changes nothing.
///
/// # Errors
/// Exit code 2 if the text would not be a valid manifest, 4 if the plan has fatal notes.
async fn plan_edit(
    home: &Home,
    file: &Path,
    client: &Client,
    edited: &ManifestEdit,
) -> Result<PlannedEdit, Failure> {
    abbey_daemon::check_manifest(&edited.text).map_err(|e| unsaved(e.into()))?;
    let patient = client.clone().timeout(UNLIMITED);
    let activity = async || activity_of(client).await;
    let mut progress = Progress::new();
    require_no_interrupted_edit(home, client, file).await?;
    let after = client.house().manifest().await?.generation;
    let mut body = manifest_request(file, edited.text.clone())?;
    body.renamed = edited.renamed.clone();
    body.first_files = edited.first_files.clone();
    allow_root_files(home, &body, false)?;
    let house = patient.house();
    let planned = follow(house.plan(&body), &activity, PROGRESS_WITHIN, &mut progress).await;
    progress.end();
    let plan = planned??;
    match refusal(&plan) {
        Some(refusal) => Err(refusal),
        None => Ok(PlannedEdit { body, plan, after }),
    }
}

/// Refuses an edit that could not be applied, before a command does what others notice.
///
/// # Errors
/// As [`apply_edit`] fails before it writes anything.
pub(crate) async fn require_applicable(
    home: &Home,
    file: &Path,
    edited: &ManifestEdit,
) -> Result<(), Failure> {
    let client = operator_client(home)?;
    plan_edit(home, file, &client, edited).await.map(drop)
}

/// Refuses the removal of an agent that the rest of the manifest names, if the text without it is no valid manifest.
///
/// # Errors
/// Exit code 2, with the keys that name the agent.
pub(crate) fn require_unnamed(file: &Path, text: &str, agent: &Slug) -> Result<(), Failure> {
    let keys = manifest::references(text, agent);
    if keys.is_empty() || manifest::parse(text).is_ok() {
        return Ok(());
    }
    let named: Vec<String> = keys.iter().map(|key| format!("`{key}` names it")).collect();
    let text = format!("agent `{agent}` cannot be removed: {}", named.join(", "));
    Err(Failure::usage(text).hint(format!(
        "take `{agent}` out of {} in {}, then remove it; nothing was changed",
        if keys.len() == 1 {
            "that key"
        } else {
            "those keys"
        },
        file.display()
    )))
}

/// Plans the edited text of a manifest, writes it to `file`, applies it to the house, and calls `show` with the outcome. If
/// the plan has fatal notes, nothing is written, and the exit code is 4; so it is if the plan removes something and nobody
/// consents to it, and if the file was edited meanwhile.
pub(crate) async fn apply_edit(
    home: &Home,
    file: &Path,
    edited: ManifestEdit,
    reason: Option<String>,
    consent: Consent,
    show: impl FnOnce(&PlanDoc),
) -> Outcome {
    let client = operator_client(home)?;
    let patient = client.clone().timeout(UNLIMITED);
    let activity = async || activity_of(&client).await;
    let mut progress = Progress::new();
    let house = patient.house();
    let PlannedEdit {
        mut body,
        plan: planned,
        after,
    } = plan_edit(home, file, &client, &edited).await?;
    body.reason = reason;
    // While the operator is asked, other commands can edit the file, so it is compared after that.
    let mut turn = Some(edited.turn);
    body.consent = consent.obtain(&planned, || turn = None).await?;
    let _turn = match turn {
        Some(turn) => turn,
        None => wait_for_turn(home).await?,
    };
    require_unedited(file, &edited.before)?;
    allow_root_ports(home, &body.manifest, false)?;
    // A file that is as the house is to be needs no edit.
    let edit = match edited.before == body.manifest {
        true => None,
        false => Some(PendingEdit::begin(
            home,
            file,
            &edited.before,
            &body.manifest,
        )?),
    };
    let seen = Some(IfMatch(after));
    let applying = house.apply(&body, seen);
    let applied = follow(applying, &activity, PROGRESS_WITHIN, &mut progress).await;
    progress.end();
    let doc = match (applied?, edit) {
        (Ok(doc), edit) => {
            edit.into_iter().for_each(PendingEdit::accepted);
            doc
        }
        (Err(refused @ Error::Refused(_)), Some(edit)) => {
            // Also a plan that is in force can fail in part.
            match client.house().manifest().await {
                Ok(now) if now.manifest == body.manifest => edit.accepted(),
                Ok(_) => edit.refused()?,
                Err(_) => {}
            }
            return Err(refused.into());
        }
        // Whether the house accepted it is found out by the next command.
        (Err(failed), _) => return Err(failed.into()),
    };
    manifest_arg::remember(home, file);
    show(&doc);
    Ok(exit::OK)
}

/// Failure of an edit that nobody has seen: a line and a column of its text would mislead.
fn unsaved(failure: Failure) -> Failure {
    let failure = failure.map_details(|detail| match detail.split_once(": ") {
        Some((place, text)) if place.starts_with("line ") => text.to_owned(),
        _ => detail,
    });
    let failure = failure.with_text("with this change the manifest would not be valid");
    failure.hint("nothing was changed")
}

/// Function that prints an applied plan: as JSON with `json`, otherwise as tables.
pub(crate) fn print_applied_plan(json: bool) -> impl FnOnce(&PlanDoc) {
    move |plan| match json {
        true => output::print_json(plan),
        false => print_plan(plan),
    }
}

/// Parses the name of an agent or other object.
///
/// # Errors
/// Exit code 2 with what is wrong with the name.
pub(crate) fn parse_slug(text: &str) -> Result<Slug, Failure> {
    text.parse()
        .map_err(|e: abbey_model::SlugError| Failure::plain(e.to_string()).with_code(exit::USAGE))
}

/// Failure with exit code 4 that lists the mistakes of a manifest in one line.
///
/// Where in the manifest they are is left out: nobody has seen the text of an edit.
pub(crate) fn manifest_failure(list: &[Mistake]) -> Failure {
    let texts: Vec<&str> = list.iter().map(|m| m.text.as_str()).collect();
    Failure::plain(texts.join("; ")).with_code(exit::CONFLICT)
}

/// As [`manifest_failure`], for an edit of the entry of an agent: exit code 3 if the manifest has no such agent.
pub(crate) fn agent_edit_failure(text: &str, agent: &Slug, list: &[Mistake]) -> Failure {
    let is_known = |house: &manifest::House| house.agents.contains_key(agent);
    let hint = "`abbey ps` lists the agents of the house, and the manifest declares them";
    entry_edit_failure(text, is_known, list, hint)
}

/// As [`agent_edit_failure`], for the entry of a service.
pub(crate) fn service_edit_failure(text: &str, service: &Slug, list: &[Mistake]) -> Failure {
    let is_known = |house: &manifest::House| {
        house.services.contains_key(service) || house.disabled.contains(service)
    };
    let hint = "`abbey service list` lists the services of the house, also disabled ones";
    entry_edit_failure(text, is_known, list, hint)
}

fn entry_edit_failure(
    text: &str,
    is_known: impl FnOnce(&manifest::House) -> bool,
    list: &[Mistake],
    hint: &str,
) -> Failure {
    // A manifest that can't be read has another mistake than a missing entry.
    let known = manifest::parse(text).map_or(true, |house| is_known(&house));
    let failure = manifest_failure(list);
    match known {
        true => failure,
        false => failure.with_code(exit::NOT_FOUND).hint(hint),
    }
}
