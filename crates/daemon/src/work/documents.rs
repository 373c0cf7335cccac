//! Shared documents: a text with one writer, a log that is only appended to, or a report that is
//! made at every reading (S3-17, S3-26, S3-41). Readers also find texts and logs in their read-only
//! `shared/`.

use crate::cells::lost_files::require_directory;
use crate::core::error::Result;
use crate::core::hostd;
use crate::work::state::WorkState;
use abbey_api::{DocumentBody, DocumentType, DocumentView, DocumentsDoc, Problem, Time, VERSION};
use abbey_cells::hostd::{FileEntry, FileName, HostdOperation};
use abbey_model::{CellName, FaultKind, Principal, Slug};
use abbey_plan::{Document, DocumentKind};
use abbey_store::{DocumentRow, NewDocumentVersion, Topic};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Longest text, bytes, chosen so that all documents fit into the instructions of a microVM.
const TEXT_MAX: usize = 32 << 10;
/// Longest entry of a log, bytes.
const ENTRY_MAX: usize = 4 << 10;
/// Most entries of a log that are shown.
const ENTRIES_MAX: u32 = 500;
/// Pause before a failed distribution is retried.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Whether a caller may read a document; only agents are restricted.
fn may_read(document: &Document, who: &Principal) -> bool {
    match who {
        Principal::Agent(agent) => document.read_by(agent),
        _ => true,
    }
}

/// Declared document with this name.
///
/// # Errors
/// `NotFound` if there is none or the caller may not read it.
pub(crate) fn find_readable_document(
    work: &WorkState,
    name: &str,
    who: &Principal,
) -> Result<(Slug, Document)> {
    let current = work.core.plan.current();
    let found = name.parse::<Slug>().ok().and_then(|slug| {
        let document = current.as_ref()?.house.documents.get(&slug)?;
        may_read(document, who).then(|| (slug, document.clone()))
    });
    let missing = || {
        Problem::new(
            FaultKind::NotFound,
            format!("there is no document `{name}`"),
        )
        .remedy("`abbey document list` lists the documents")
    };
    Ok(found.ok_or_else(missing)?)
}

/// A declared document as an API document, with the newest version if it has one.
pub(crate) fn document_view(
    work: &WorkState,
    name: &Slug,
    document: &Document,
    newest: Option<&DocumentRow>,
) -> DocumentView {
    let current = work.core.plan.current();
    let all = || current.iter().flat_map(|c| c.house.agents.keys());
    let operator = || vec![Principal::Operator.to_string()];
    let (kind, writers) = match &document.kind {
        DocumentKind::Text(writer) => {
            let named = writer.as_ref().map(|w| vec![w.to_string()]);
            (DocumentType::Text, named.unwrap_or_else(operator))
        }
        DocumentKind::Log(_) => {
            let named = all().filter(|a| document.written_by(a));
            let named = named.map(ToString::to_string);
            (DocumentType::Log, named.chain(operator()).collect())
        }
        DocumentKind::Report(_) => (DocumentType::Report, Vec::new()),
    };
    let readers = all().filter(|a| document.read_by(a));
    DocumentView {
        name: name.to_string(),
        kind,
        writers,
        readers: readers.map(ToString::to_string).collect(),
        newest: newest.map_or(0, |n| n.version),
        at: newest.map(|n| Time(n.at)),
        author: newest.map(|n| n.author.to_string()),
    }
}

/// Lists the documents that a caller may read.
pub(crate) async fn list_documents(work: &Arc<WorkState>, who: &Principal) -> Result<DocumentsDoc> {
    let rows = work.core.store.documents().await?;
    let current = work.core.plan.current();
    let declared = current.iter().flat_map(|c| &c.house.documents);
    let shown = declared.filter(|(_, d)| may_read(d, who)).map(|(name, d)| {
        let newest = rows.iter().find(|r| r.name == *name);
        document_view(work, name, d, newest)
    });
    Ok(DocumentsDoc {
        version: VERSION,
        documents: shown.collect(),
        cursor: None,
    })
}

/// Text of a document up to version `through`, and its rows, newest first; for a log the newest
/// entries that fit.
pub(crate) async fn read_document_text(
    work: &WorkState,
    name: &Slug,
    kind: &DocumentKind,
    through: u64,
) -> Result<(Vec<DocumentRow>, String)> {
    let limit = match kind {
        DocumentKind::Log(_) => ENTRIES_MAX,
        DocumentKind::Text(_) | DocumentKind::Report(_) => 1,
    };
    let rows = work
        .core
        .store
        .document(name.clone(), through, limit)
        .await?;
    let text = match kind {
        DocumentKind::Log(_) => {
            let lines = rows.iter().map(|row| {
                let text = row.text.trim_end().replace('\n', "\n  ");
                format!("{} {}: {text}\n", Time(row.at), row.author)
            });
            // As many of the newest as fit, the oldest of them first.
            let mut room = TEXT_MAX;
            let fitting = lines.take_while(|line| {
                let fits = line.len() <= room;
                room = room.saturating_sub(line.len());
                fits
            });
            let mut lines: Vec<String> = fitting.collect();
            lines.reverse();
            lines.concat()
        }
        DocumentKind::Text(_) | DocumentKind::Report(_) => {
            rows.first().map(|r| r.text.clone()).unwrap_or_default()
        }
    };
    Ok((rows, text))
}

/// Replaces the text of a document, or appends an entry to a log, and returns its name. A repeated
/// `key` writes once.
///
/// # Errors
/// If the caller may not write it, the text is too long, or `seen` is not the newest version.
pub(crate) async fn write_document(
    work: &Arc<WorkState>,
    name: &str,
    who: Principal,
    body: DocumentBody,
    key: Option<String>,
) -> Result<Slug> {
    let (name, document) = find_readable_document(work, name, &who)?;
    let refuse = |kind, text: String| Problem::new(kind, format!("document `{name}`: {text}"));
    let allowed = match (&document.kind, &who) {
        (DocumentKind::Report(_), _) => {
            let text =
                "it is a report, which is made at every reading and cannot be written".to_owned();
            return Err(refuse(FaultKind::Forbidden, text).into());
        }
        (_, Principal::Agent(agent)) => document.written_by(agent),
        (DocumentKind::Text(writer), _) => writer.is_none(),
        (DocumentKind::Log(_), _) => true,
    };
    if !allowed {
        let writers = document_view(work, &name, &document, None)
            .writers
            .join(", ");
        let text = format!("{who} may not write this document; its writers are: {writers}");
        return Err(refuse(FaultKind::Forbidden, text).into());
    }
    let (based_on, most) = match (&document.kind, body.seen) {
        (DocumentKind::Log(_), None) => (None, ENTRY_MAX),
        (DocumentKind::Log(_), Some(_)) => {
            let text = "entries are appended to a log, so leave out `seen`".to_owned();
            return Err(refuse(FaultKind::Invalid, text).into());
        }
        (_, Some(seen)) => (Some(seen), TEXT_MAX),
        (_, None) => {
            let text = "`seen` is missing: the version that you read, 0 for none".to_owned();
            return Err(refuse(FaultKind::Invalid, text).into());
        }
    };
    if body.text.trim().is_empty() || body.text.len() > most {
        let text = format!(
            "`text` must have 1 to {most} bytes, not {}",
            body.text.len()
        );
        return Err(refuse(FaultKind::Invalid, text).into());
    }
    let new = NewDocumentVersion {
        name: name.clone(),
        text: body.text,
        author: who.clone(),
        based_on,
        key,
    };
    work.core.store.write_document(new).await?;
    Ok(name)
}

/// Writes changed documents into `shared/` of their readers until the control plane stops.
pub(crate) async fn run_document_distribution(work: Arc<WorkState>) {
    let mut plans = work.core.plan.subscribe();
    let mut distributed = BTreeMap::new();
    let mut documents = work.core.store.subscribe(Topic::Documents);
    // A new reader has a `shared/` once its saga is done.
    let mut sagas = work.core.store.subscribe(Topic::Sagas);
    loop {
        let all = distribute_documents(&work, &mut distributed).await;
        if let Err(error) = &all {
            tracing::warn!(
                error = error.chain(),
                "a shared document could not be written for a reader; retrying in 5 seconds"
            );
        }
        let again = async {
            match all {
                Ok(()) => std::future::pending().await,
                Err(_) => work.core.rt.sleep(RETRY_PAUSE).await,
            }
        };
        tokio::select! {
            () = work.core.rt.stopped() => return,
            _ = documents.changed() => {}
            _ = sagas.changed() => {}
            changed = plans.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// Digests of what each agent has in its `shared/`, by document.
type DistributedDigests = BTreeMap<Slug, BTreeMap<Slug, String>>;

/// Writes every document that changed into `shared/` of each of its readers, and removes those that
/// an agent may not read any more.
async fn distribute_documents(
    work: &Arc<WorkState>,
    distributed: &mut DistributedDigests,
) -> Result<()> {
    let Some(current) = work.core.plan.current() else {
        return Ok(());
    };
    distributed.retain(|agent, _| current.house.agents.contains_key(agent));
    let known: BTreeSet<Slug> = work
        .core
        .store
        .documents()
        .await?
        .into_iter()
        .map(|r| r.name)
        .collect();
    let mut texts = BTreeMap::new();
    for name in known {
        let declared = current.house.documents.get(&name);
        let text = match declared {
            Some(Document { kind, .. }) => read_document_text(work, &name, kind, u64::MAX).await?.1,
            None => String::new(),
        };
        texts.insert(name, (declared, text));
    }
    let mut outcome = Ok(());
    for agent in current.house.agents.keys() {
        let had = distributed.entry(agent.clone()).or_default();
        let (mut files, mut digests) = (Vec::new(), Vec::new());
        for (name, (declared, text)) in &texts {
            let reads = declared.is_some_and(|d| d.read_by(agent));
            let content = if reads { text.as_str() } else { "" };
            let digest = abbey_support::digest::sha256_hex(content.as_bytes());
            if had.get(name) != Some(&digest) {
                files.push(FileEntry {
                    name: FileName::Shared(name.clone()),
                    content: content.to_owned(),
                });
                digests.push((name.clone(), digest));
            }
        }
        if files.is_empty() {
            continue;
        }
        let owner = CellName::Agent(agent.clone());
        let prepare = || HostdOperation::Prepare {
            owner: owner.clone(),
            files,
        };
        // Its directory would be made, and look like one that has the agent's files.
        let written = match require_directory(&work.cells, &owner) {
            Ok(()) => hostd::run_operation(&work.core.hostd, prepare()).await,
            missing => missing,
        };
        match written {
            Ok(()) => had.extend(digests),
            // An agent whose files do not exist yet does not hold up the others.
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}
