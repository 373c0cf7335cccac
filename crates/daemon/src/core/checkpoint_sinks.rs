//! Delivery of signed heads of the audit log to the checkpoint sinks of the manifest.
//!
//! hostd's checkpoint file is the queue: a sink's bookmark is the line that it got last, so an outage of a sink needs no
//! memory, and after it everything follows in order, at least once. No write to the audit log waits for a sink. hostd
//! appends to files, which then nobody but root can change; the control plane speaks to the network.

use crate::core::error::Error;
use crate::core::home::{Home, create_dir_with_mode, publish_file};
use crate::core::state::CoreState;
use crate::core::{hostd, runtime, syslog};
use abbey_api::{Problem, SinkView, Time};
use abbey_cells::hostd::{HostdOperation, Undelivered, undelivered_checkpoints};
use abbey_model::{CheckpointLine, FaultKind, Slug};
use abbey_plan::CheckpointSink;
use abbey_support::beneath::DirHandle;
use abbey_support::digest::sha256_hex;
use http_body_util::Full;
use hyper::Request;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// Most lines of one delivery.
const BATCH: usize = 100;
/// Longest delivery over the network.
const DELIVER_WITHIN: Duration = Duration::from_secs(20);
/// Time between two attempts at a sink that fails.
const RETRY: Duration = Duration::from_secs(15);
/// Longest time that the end of the house waits for its sinks.
const LAST_WITHIN: Duration = Duration::from_secs(3);
/// Longest bookmark, bytes.
const BOOKMARK_MAX: u64 = 64 << 10;

/// What the control plane remembers about a sink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Bookmark {
    /// The line that was delivered last.
    last: Option<String>,
    /// Why the newest delivery failed; none if it succeeded.
    failing: Option<String>,
}

/// File name of a sink's bookmark, below the home. It follows the destination, so that a renamed sink is continued.
fn bookmark_name(sink: &CheckpointSink) -> String {
    format!("sinks/{}.json", &sha256_hex(sink.target())[..16])
}

fn read_bookmark(home: &Home, sink: &CheckpointSink) -> Bookmark {
    let read = DirHandle::open_trusted(home.root())
        .and_then(|root| root.read(bookmark_name(sink), BOOKMARK_MAX));
    // Without one, everything is delivered once more, which says nothing wrong.
    let read = read
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    read.unwrap_or_default()
}

fn write_bookmark(home: &Home, sink: &CheckpointSink, bookmark: &Bookmark) -> Result<(), Error> {
    let path = home.root().join(bookmark_name(sink));
    if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
        create_dir_with_mode(dir, 0o700)?;
    }
    let text = serde_json::to_vec(bookmark);
    let text = text.map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))?;
    publish_file(&path, &text, 0o600)
}

/// Delivers to every sink of the plan until the house stops.
pub(crate) async fn run_sink_delivery(core: Arc<CoreState>) {
    type Task = (CheckpointSink, String, AbortOnDropHandle<()>);
    let mut tasks = BTreeMap::<Slug, Task>::new();
    let mut plans = core.plan.subscribe();
    loop {
        plans.mark_unchanged();
        let planned = core.plan.current();
        let sinks = planned.iter().flat_map(|c| &c.house.checkpoint_sinks);
        let sinks: BTreeMap<&Slug, &CheckpointSink> = sinks.collect();
        let base = planned.as_ref().map_or("", |c| &c.base_dir);
        tasks.retain(|name, (sink, of, _)| sinks.get(name) == Some(&&*sink) && of == base);
        for (name, sink) in sinks {
            if !tasks.contains_key(name) {
                let delivery = keep_delivering(Arc::clone(&core), name.clone(), sink.clone());
                let task = AbortOnDropHandle::new(core.rt.spawn(delivery));
                tasks.insert(name.clone(), (sink.clone(), base.to_owned(), task));
            }
        }
        tokio::select! {
            () = core.rt.stopped() => return,
            changed = plans.changed() => if changed.is_err() { return },
        }
    }
}

async fn keep_delivering(core: Arc<CoreState>, name: Slug, sink: CheckpointSink) {
    let mut kept = core.checkpoints_kept.subscribe();
    let mut failing = false;
    loop {
        kept.mark_unchanged();
        let outcome = deliver(&core, &sink).await;
        match &outcome {
            Err(why) if !failing => tracing::error!(
                sink = name.as_str(),
                why,
                "signed heads of the audit log cannot be delivered to a checkpoint sink; they are kept, and delivered when it answers"
            ),
            Ok(()) if failing => tracing::info!(
                sink = name.as_str(),
                "the checkpoint sink has every signed head again"
            ),
            _ => {}
        }
        failing = outcome.is_err();
        tokio::select! {
            () = core.rt.stopped() => return,
            changed = kept.changed(), if !failing => if changed.is_err() { return },
            () = core.rt.sleep(RETRY), if failing => {}
        }
    }
}

/// Delivers everything that a sink lacks.
///
/// # Errors
/// A sentence that says why not; what was delivered is remembered.
async fn deliver(core: &Arc<CoreState>, sink: &CheckpointSink) -> Result<(), String> {
    let mut bookmark = read_bookmark(&core.home, sink);
    loop {
        let lacks = read_undelivered(&core.home, bookmark.last.clone()).await?;
        let Some(newest) = lacks.lines.last().cloned() else {
            return Ok(());
        };
        let outcome = send(core, sink, &lacks.lines).await;
        let before = bookmark.clone();
        bookmark.failing = outcome.as_ref().err().cloned();
        if outcome.is_ok() {
            bookmark.last = Some(newest);
        }
        if bookmark != before {
            write_bookmark(&core.home, sink, &bookmark).map_err(|e| e.chain())?;
        }
        outcome?;
    }
}

async fn read_undelivered(home: &Home, last: Option<String>) -> Result<Undelivered, String> {
    let dir = home.hostd_dir();
    let read =
        runtime::run_blocking(move || undelivered_checkpoints(&dir, last.as_deref(), BATCH)).await;
    let read = read.map_err(|e| e.to_string())?;
    read.map_err(|e| Error::from(e).chain())
}

async fn send(
    core: &Arc<CoreState>,
    sink: &CheckpointSink,
    lines: &[String],
) -> Result<(), String> {
    match sink {
        CheckpointSink::File(path) => {
            let path = path.clone();
            let operation = HostdOperation::CopyCheckpoints { path };
            let copied = hostd::run_operation(&core.hostd, operation).await;
            copied.map_err(|e| e.chain())
        }
        CheckpointSink::Syslog(address) => {
            let sent = core
                .rt
                .timeout(DELIVER_WITHIN, syslog::send(address, lines))
                .await;
            match sent {
                Ok(sent) => sent.map_err(|e| format!("{}: {e}", sink.target())),
                Err(_) => Err(format!("{} does not take messages", sink.target())),
            }
        }
        CheckpointSink::Http { url, token } => {
            let mut request = Request::post(url)
                .header("content-type", "application/x-ndjson")
                .header("user-agent", "abbey");
            if let Some(token) = token {
                let base = core
                    .plan
                    .current()
                    .map_or_else(String::new, |c| c.base_dir.clone());
                let token = core.secrets.read_secret(token, &base)?;
                request = request.header("authorization", format!("Bearer {}", token.expose()));
            }
            let body: String = lines.iter().flat_map(|l| [l, "\n"]).collect();
            let request = request
                .body(Full::from(body))
                .map_err(|e| format!("`{url}`: {e}"))?;
            let answer = core.http.send(request, DELIVER_WITHIN).await;
            match answer.map(|a| a.status()) {
                Ok(status) if status.is_success() => Ok(()),
                Ok(status) => Err(format!("`{url}` answers {status}")),
                Err(e) => Err(format!("`{url}`: {e}")),
            }
        }
    }
}

/// Delivers what was signed at the end of the house, for as long as an operator can be expected to wait.
pub(crate) async fn deliver_last_checkpoints(core: &Arc<CoreState>) {
    let Some(planned) = core.plan.current() else {
        return;
    };
    let rt = &core.rt;
    let sinks = planned.house.checkpoint_sinks.values().cloned();
    let deliveries: Vec<_> = sinks
        .map(|sink| {
            let core = Arc::clone(core);
            let delivery = async move { deliver(&core, &sink).await };
            AbortOnDropHandle::new(rt.spawn_untracked(delivery))
        })
        .collect();
    let all = async {
        for delivery in deliveries {
            // The next start delivers what this one did not.
            let _remembered = delivery.await;
        }
    };
    let _remembered = core.rt.timeout(LAST_WITHIN, all).await;
}

/// Every sink of the plan, and how far it is.
///
/// # Errors
/// If hostd's checkpoint file cannot be read.
pub(crate) async fn sink_views(core: &CoreState) -> Result<Vec<SinkView>, Error> {
    let planned = core.plan.current();
    let mut views = Vec::new();
    for (name, sink) in planned.iter().flat_map(|p| &p.house.checkpoint_sinks) {
        let bookmark = read_bookmark(&core.home, sink);
        let (dir, last) = (core.home.hostd_dir(), bookmark.last.clone());
        let missing =
            runtime::run_blocking(move || undelivered_checkpoints(&dir, last.as_deref(), 1)).await;
        let missing = missing.map_err(|e| Error::Damaged {
            path: core.home.hostd_dir(),
            why: e.to_string(),
        })??;
        let newest = bookmark.last.as_deref();
        let newest: Option<CheckpointLine> = newest.and_then(|l| serde_json::from_str(l).ok());
        views.push(SinkView {
            name: name.to_string(),
            target: sink.target(),
            delivered: newest.as_ref().map(CheckpointLine::seq),
            delivered_at: newest.map(|line| Time(line.at())),
            missing: missing.count,
            missing_since: missing.since.map(Time),
            failing: bookmark.failing,
        });
    }
    Ok(views)
}
