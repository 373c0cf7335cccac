//! `abbey agent clone`, `rm` and `restore`: agents made like another, taken out, and brought back.

use crate::agent_files::{send_bundle_files, write_charter};
use crate::connect::client;
use crate::exit::{self, Failure, Outcome};
use crate::manifest_file::{apply_edit, edit, mistakes, show, slug};
use crate::output::{Progress, say};
use abbey_api::RestoreBody;
use abbey_api::client::Client;
use abbey_daemon::{Home, manifest};
use clap::Args;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Keys of the manifest that a clone does not inherit.
const KEYS_NOT_CLONED: [&str; 4] = ["schedules", "wake", "channels", "name"];

#[derive(Debug, Args)]
pub(crate) struct CloneArgs {
    /// Agent whose manifest entry and identity files are copied.
    pub(crate) agent: String,
    /// Name of the new agent.
    pub(crate) new: String,
    /// Path of the manifest.
    #[arg(short, long, default_value = "abbey.yaml")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Name of the agent.
    pub(crate) agent: String,
    /// Do not wait until its current task has ended; the task returns to the queue.
    #[arg(long)]
    pub(crate) now: bool,
    /// Longest wait for its current task, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) within: u64,
    /// Path of the manifest.
    #[arg(short, long, default_value = "abbey.yaml")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Name of the removed agent.
    pub(crate) agent: String,
    /// Time stamp of the removed files, as `abbey agent rm` printed it [default: the newest].
    #[arg(long, value_name = "STAMP")]
    pub(crate) at: Option<String>,
    /// Path of the manifest.
    #[arg(short, long, default_value = "abbey.yaml")]
    pub(crate) file: PathBuf,
}

/// Clones an agent: its manifest entry, charter and identity files. Credentials, logins, channels, schedules and the
/// display name are not copied; a database that it uses is not shared either, the clone gets its own.
pub(crate) async fn cmd_agent_clone(home: &Home, json: bool, args: &CloneArgs) -> Outcome {
    let (from, new) = (slug(&args.agent)?, slug(&args.new)?);
    let client = client(home)?;
    let bundle = client.agents().export_bundle(from.as_str()).await?;
    let edited = edit(&args.file, |text| {
        let entry = manifest::agent_entry(text, &from)
            .map_err(|m| mistakes(&m).with_code(exit::NOT_FOUND))?;
        let mut text = manifest::add_entry(text, &new, &entry).map_err(|m| mistakes(&m))?;
        // A share of the budget belongs to one agent; two of the same share may exceed the whole.
        let shares = manifest::has_value_at(&text, &new, &["budget", "share"]);
        let budget = shares.then_some("budget");
        for key in KEYS_NOT_CLONED.into_iter().chain(budget) {
            text = manifest::remove_key(&text, &new, key).map_err(|m| mistakes(&m))?;
        }
        Ok(text)
    })?;
    let code = apply_edit(home, &args.file, edited, None, show(json)).await?;
    if code == exit::OK {
        send_bundle_files(&client, new.as_str(), bundle.files).await?;
    }
    Ok(code)
}

/// Removes an agent: waits for its current task, then reports what is kept and what is left over.
pub(crate) async fn cmd_agent_rm(home: &Home, json: bool, args: &RmArgs) -> Outcome {
    let name = slug(&args.agent)?;
    let edited = edit(&args.file, |text| {
        manifest::remove_agent(text, &name).map_err(|m| mistakes(&m).with_code(exit::NOT_FOUND))
    })?;
    let client = client(home)?;
    if !args.now {
        wait_until_drained(&client, name.as_str(), Duration::from_secs(args.within)).await?;
    }
    let code = apply_edit(home, &args.file, edited, None, show(json)).await;
    let code = match code {
        Ok(exit::OK) => exit::OK,
        // The plan was refused, so the agent stays: end the draining.
        other => {
            let _best_effort = client.agents().start(name.as_str()).await;
            return other;
        }
    };
    let left = client.agents().leftovers(name.as_str()).await?;
    if let Some(stamp) = left.removed.last() {
        say(&format!(
            "its files are kept in {}/{name}-{stamp}; `abbey agent restore {name}` restores the agent",
            left.place
        ));
    }
    for kept in &left.kept {
        let until = kept.until.map_or_else(
            || "is being removed".to_owned(),
            |t| format!("is kept until {t}"),
        );
        say(&format!(
            "{} of service {} {until}",
            kept.name, kept.service
        ));
    }
    if !left.tasks.is_empty() {
        say(&format!(
            "no agent works on {} any more; `abbey task show` shows the task",
            left.tasks.join(", ")
        ));
    }
    for leftover in &left.leftovers {
        say(&format!(
            "left over: {leftover}; `abbey doctor --fix` removes it"
        ));
    }
    Ok(match left.leftovers.is_empty() {
        true => code,
        false => exit::DEGRADED,
    })
}

async fn wait_until_drained(client: &Client, name: &str, within: Duration) -> Result<(), Failure> {
    let until = Instant::now() + within;
    let mut progress = Progress::new();
    let mut agent = client.agents().drain(name).await?;
    while let Some(task) = &agent.task {
        if Instant::now() >= until {
            progress.end();
            say(&format!(
                "{task} has not ended in time; it is interrupted and returns to the queue"
            ));
            return Ok(());
        }
        progress.show(&format!("waiting until {task} has ended"));
        tokio::time::sleep(Duration::from_millis(50)).await;
        agent = client.agents().show(name).await?;
    }
    progress.end();
    Ok(())
}

/// Restores a removed agent: its last manifest entry, its files, and new credentials.
pub(crate) async fn cmd_agent_restore(home: &Home, json: bool, args: &RestoreArgs) -> Outcome {
    let name = slug(&args.agent)?;
    let client = client(home)?;
    let entry = client.agents().entry(name.as_str()).await?;
    if entry.present {
        return Err(Failure::plain(format!(
            "agent `{name}` exists; only a removed agent can be restored"
        ))
        .with_code(exit::CONFLICT));
    }
    let edited = edit(&args.file, |text| {
        manifest::add_entry(text, &name, &entry.entry).map_err(|m| mistakes(&m))
    })?;
    write_charter(&args.file, &edited, &name, &entry.charter)?;
    abbey_daemon::check_manifest(&edited)?;
    let body = RestoreBody {
        stamp: args.at.clone(),
    };
    let restored = client.agents().restore(name.as_str(), &body).await?;
    let code = apply_edit(home, &args.file, edited, None, show(json)).await?;
    if code == exit::OK {
        let of = restored
            .stamp
            .map_or_else(String::new, |s| format!(" of {s}"));
        say(&format!("agent `{name}` is restored with its files{of}"));
    }
    Ok(code)
}
