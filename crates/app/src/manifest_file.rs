//! The manifest file: reading it with the charters that it names, and editing it in place. An edit is first planned, then
//! applied, then written.

use crate::connect::operator_client;
use crate::consent::Consent;
use crate::exit::{self, Failure, Outcome};
use crate::manifest_arg;
use crate::manifest_edit::{PendingEdit, require_no_interrupted_edit};
use crate::output;
use crate::plan_output::print_plan;
use abbey_api::client::Error;
use abbey_api::headers::IfMatch;
use abbey_api::{FillBody, ManifestBody, PlanDoc, PlanSeverity, SecretText};
use abbey_cells::hostd::{NamedFiles, allow_named_files};
use abbey_daemon::manifest::CheckpointSink;
use abbey_daemon::{Home, manifest};
use abbey_model::{SecretRef, Slug};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest time for a new agent to get the files of a template.
const FILL_WITHIN: Duration = Duration::from_secs(3600);

/// Reads a manifest file and the charter files that it names, as the body of a request to plan or apply it.
///
/// # Errors
/// Exit code 2 if a file cannot be read.
pub(crate) fn read_manifest(file: &Path) -> Result<ManifestBody, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        Failure::plain(format!(
            "cannot read the manifest `{}`: {e}",
            file.display()
        ))
        .hint("`abbey init` writes a manifest to start from; `-f` selects another file")
        .with_code(exit::USAGE)
    })?;
    manifest_request(file, text)
}

/// Body of a request to plan or apply the manifest `text`. Charter files are read from paths relative to the
/// directory of `file`, in which they must be.
///
/// # Errors
/// Exit code 2 if a charter file cannot be read, or is elsewhere.
pub(crate) fn manifest_request(file: &Path, text: String) -> Result<ManifestBody, Failure> {
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
                let text = read_beside(&base, name).map_err(|e| {
                    Failure::plain(format!(
                        "{}:{}: cannot read the charter `{name}` of agent `{}`: {e}",
                        file.display(),
                        agent.line,
                        agent.slug
                    ))
                    .with_code(exit::USAGE)
                })?;
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
    })
}

/// Reads a file that a manifest names and whose text reaches a cell. It is in the manifest's directory: the manifest may
/// be anybody's, and who applies it may read more than its author.
fn read_beside(base: &Path, name: &str) -> std::io::Result<String> {
    let path = base.join(name).canonicalize()?;
    if !path.starts_with(base.canonicalize()?) {
        return Err(std::io::Error::new(
            std::io::ErrorKind::PermissionDenied,
            "it is not in the directory of the manifest; copy it there and write its relative path",
        ));
    }
    std::fs::read_to_string(path)
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

/// Reads the manifest file and returns the text that `change` makes from it; the file is not written.
pub(crate) fn edit_manifest(
    file: &Path,
    change: impl FnOnce(&str) -> Result<String, Failure>,
) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        Failure::plain(format!(
            "cannot read the manifest `{}`: {e}",
            file.display()
        ))
        .with_code(exit::USAGE)
    })?;
    change(&text)
}

/// Edited text of a manifest.
pub(crate) struct ManifestEdit {
    text: String,
    renamed: BTreeMap<String, String>,
    /// A new agent, and the saved template whose files it gets.
    filled: Option<(Slug, Slug)>,
}

impl From<String> for ManifestEdit {
    fn from(text: String) -> ManifestEdit {
        ManifestEdit {
            text,
            renamed: BTreeMap::new(),
            filled: None,
        }
    }
}

impl ManifestEdit {
    /// An edit that adds `agent`, which gets the files of a saved template before the plan creates it.
    pub(crate) fn filling(text: String, agent: &Slug, template: &Slug) -> ManifestEdit {
        ManifestEdit {
            filled: Some((agent.clone(), template.clone())),
            ..ManifestEdit::from(text)
        }
    }

    /// An edit that gives an agent another name.
    pub(crate) fn renaming(text: String, old: &Slug, new: &Slug) -> ManifestEdit {
        ManifestEdit {
            renamed: BTreeMap::from([(old.to_string(), new.to_string())]),
            ..ManifestEdit::from(text)
        }
    }
}

/// Plans the edited text of a manifest, applies it to the house, writes it to `file`, and calls `show` with the
/// outcome. If the plan has fatal notes, they are printed, nothing is written, and the exit code is 4; so it is if the plan
/// removes something and nobody consents to it.
pub(crate) async fn apply_edit(
    home: &Home,
    file: &Path,
    edited: impl Into<ManifestEdit>,
    reason: Option<String>,
    consent: Consent,
    show: impl FnOnce(&PlanDoc),
) -> Outcome {
    let edited = edited.into();
    abbey_daemon::check_manifest(&edited.text).map_err(|e| unsaved(e.into()))?;
    let client = operator_client(home)?;
    require_no_interrupted_edit(&client, file).await?;
    let current = client.house().manifest().await?;
    let mut body = manifest_request(file, edited.text)?;
    body.renamed = edited.renamed;
    body.reason = reason;
    allow_root_files(home, &body, false)?;
    let planned = client.house().plan(&body).await?;
    if planned
        .notes
        .iter()
        .any(|n| n.severity == PlanSeverity::Fatal)
    {
        print_plan(&planned);
        return Ok(exit::CONFLICT);
    }
    body.consent = consent.obtain(&planned)?;
    if let Some((agent, template)) = edited.filled {
        let body = FillBody {
            template: template.to_string(),
        };
        let client = operator_client(home)?.timeout(FILL_WITHIN);
        client.templates().fill(agent.as_str(), &body).await?;
    }
    let edit = PendingEdit::stage(file, &body.manifest)?;
    let seen = Some(IfMatch(current.generation));
    let doc = match client.house().apply(&body, seen).await {
        Ok(doc) => doc,
        Err(refused @ Error::Refused(_)) => {
            edit.discard();
            return Err(refused.into());
        }
        // Whether the house accepted it is found out by the next command.
        Err(lost) => return Err(lost.into()),
    };
    edit.finish()?;
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
pub(crate) fn manifest_failure(list: &[impl std::fmt::Display]) -> Failure {
    Failure::plain(
        list.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; "),
    )
    .with_code(exit::CONFLICT)
}
