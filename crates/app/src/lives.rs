//! Agents that come from somewhere else, go, and come back: clone, rm, restore, export, and bundles.

use crate::agents::{apply_edit, edit, mistakes, show, slug};
use crate::connect::{client, segment};
use crate::exit::{self, Failure};
use crate::house::Outcome;
use crate::output::{self, Progress, say};
use abbey_api::client::Client;
use abbey_api::*;
use abbey_daemon::{Home, manifest};
use clap::Args;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What of an agent is its own alone, and stays with it when another is made like it.
const OWN: [&str; 4] = ["schedules", "wake", "channels", "name"];
/// Name of the entry in a bundle's directory.
pub(crate) const ENTRY: &str = "agent.yaml";

#[derive(Debug, Args)]
pub(crate) struct CloneArgs {
    /// Whose entry and identity files are copied.
    pub(crate) agent: String,
    /// The new agent.
    pub(crate) new: String,
    /// The manifest.
    #[arg(short, long, default_value = "abbey.yaml")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    pub(crate) agent: String,
    /// Do not wait until its work is over.
    #[arg(long)]
    pub(crate) now: bool,
    /// Longest wait for that, seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) within: u64,
    /// The manifest.
    #[arg(short, long, default_value = "abbey.yaml")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    pub(crate) agent: String,
    /// Which of its files, as `abbey agent rm` told; the newest when not given.
    #[arg(long, value_name = "STAMP")]
    pub(crate) at: Option<String>,
    /// The manifest.
    #[arg(short, long, default_value = "abbey.yaml")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    pub(crate) agent: String,
    /// A directory that is not there yet.
    pub(crate) to: PathBuf,
}

/// Makes an agent like another: what the manifest says of it, its charter and its identity files. Its credentials,
/// logins, channels, schedules and display name stay its own; where it uses a database, the new one has another.
pub(crate) async fn clone(home: &Home, json: bool, args: &CloneArgs) -> Outcome {
    let (from, new) = (slug(&args.agent)?, slug(&args.new)?);
    let client = client(home)?;
    let bundle: BundleDoc = client
        .get(&format!("/api/v1/agents/{}/bundle", segment(from.as_str())))
        .await?;
    let edited = edit(&args.file, |text| {
        let entry =
            manifest::entry_of(text, &from).map_err(|m| mistakes(&m).with_code(exit::NOT_FOUND))?;
        let mut text = manifest::add_entry(text, &new, &entry).map_err(|m| mistakes(&m))?;
        // A share of the budget is one agent's; two of it may be more than there is.
        let shares = manifest::says(&text, &new, &["budget", "share"]);
        let budget = shares.then_some("budget");
        for key in OWN.into_iter().chain(budget) {
            text = manifest::remove_key(&text, &new, key).map_err(|m| mistakes(&m))?;
        }
        Ok(text)
    })?;
    let code = apply_edit(home, &args.file, edited, None, show(json)).await?;
    if code == exit::OK {
        bring(&client, new.as_str(), bundle.files).await?;
    }
    Ok(code)
}

/// Brings files of a bundle to an agent; its charter came with the manifest.
pub(crate) async fn bring(
    client: &Client,
    agent: &str,
    files: Vec<BundleFile>,
) -> Result<(), Failure> {
    let files: Vec<BundleFile> = files.into_iter().filter(|f| f.path != "SOUL.md").collect();
    if files.is_empty() {
        return Ok(());
    }
    let path = format!("/api/v1/agents/{}/bundle", segment(agent));
    let _brought: BundleDoc = client.post(&path, &BundleBody { files }, &[]).await?;
    Ok(())
}

/// Takes an agent out: it finishes what it does, and what it leaves behind is told.
pub(crate) async fn rm(home: &Home, json: bool, args: &RmArgs) -> Outcome {
    let name = slug(&args.agent)?;
    let edited = edit(&args.file, |text| {
        manifest::remove_agent(text, &name).map_err(|m| mistakes(&m).with_code(exit::NOT_FOUND))
    })?;
    let client = client(home)?;
    let path = format!("/api/v1/agents/{}", segment(name.as_str()));
    if !args.now {
        drained(&client, &path, Duration::from_secs(args.within)).await?;
    }
    let code = apply_edit(home, &args.file, edited, None, show(json)).await;
    let code = match code {
        Ok(exit::OK) => exit::OK,
        // It stays, and works on.
        other => {
            let _as_before: Result<serde_json::Value, _> = client
                .post(&format!("{path}/start"), &serde_json::json!({}), &[])
                .await;
            return other;
        }
    };
    let left: LeftoversDoc = client.get(&format!("{path}/leftovers")).await?;
    if let Some(stamp) = left.removed.last() {
        say(&format!(
            "its files are set aside in {}/{name}-{stamp}; `abbey agent restore {name}` brings it back",
            left.place
        ));
    }
    for kept in &left.kept {
        let until = kept.until.map_or_else(
            || "is closed in a moment".to_owned(),
            |t| format!("is kept until {t}"),
        );
        say(&format!(
            "{} of service {} {until}",
            kept.name, kept.service
        ));
    }
    if !left.tasks.is_empty() {
        say(&format!("nobody works on {} now", left.tasks.join(", ")));
    }
    for leftover in &left.leftovers {
        say(&format!(
            "left over: {leftover}; `abbey doctor --fix` clears it"
        ));
    }
    Ok(match left.leftovers.is_empty() {
        true => code,
        false => exit::DEGRADED,
    })
}

async fn drained(client: &Client, path: &str, within: Duration) -> Result<(), Failure> {
    let until = Instant::now() + within;
    let mut progress = Progress::new();
    let mut agent: AgentView = client
        .post(&format!("{path}/drain"), &serde_json::json!({}), &[])
        .await?;
    while let Some(task) = &agent.task {
        if Instant::now() >= until {
            progress.end();
            say(&format!(
                "{task} is not over; it is interrupted and stays in the queue"
            ));
            return Ok(());
        }
        progress.show(&format!("waiting until {task} is over"));
        tokio::time::sleep(Duration::from_millis(50)).await;
        agent = client.get(path).await?;
    }
    progress.end();
    Ok(())
}

/// Brings an agent back that went: its entry as it last was, its files, and new credentials.
pub(crate) async fn restore(home: &Home, json: bool, args: &RestoreArgs) -> Outcome {
    let name = slug(&args.agent)?;
    let client = client(home)?;
    let path = format!("/api/v1/agents/{}", segment(name.as_str()));
    let entry: EntryDoc = client.get(&format!("{path}/entry")).await?;
    if entry.present {
        return Err(Failure::plain(format!("agent `{name}` lives here")).with_code(exit::CONFLICT));
    }
    let edited = edit(&args.file, |text| {
        manifest::add_entry(text, &name, &entry.entry).map_err(|m| mistakes(&m))
    })?;
    write_charter(&args.file, &edited, &name, &entry.charter)?;
    abbey_daemon::check_manifest(&edited)?;
    let body = RestoreBody {
        stamp: args.at.clone(),
    };
    let restored: RestoredDoc = client.post(&format!("{path}/restore"), &body, &[]).await?;
    let code = apply_edit(home, &args.file, edited, None, show(json)).await?;
    if code == exit::OK {
        let of = restored
            .stamp
            .map_or_else(String::new, |s| format!(" of {s}"));
        say(&format!("{name} is back with its files{of}"));
    }
    Ok(code)
}

/// Puts the charter that an entry names where it is looked for, unless something is there.
fn write_charter(
    file: &Path,
    edited: &str,
    name: &abbey_model::Slug,
    text: &str,
) -> Result<(), Failure> {
    let house = manifest::parse(edited).map_err(|m| mistakes(&m))?;
    let Some(manifest::Charter::File(path)) = house.agents.get(name).map(|a| &a.charter) else {
        return Ok(());
    };
    let base = file.parent().unwrap_or(Path::new("."));
    match base.join(path).exists() {
        true => Ok(()),
        false => create(&base.join(path), text),
    }
}

/// Writes a file that is not there yet.
pub(crate) fn create(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |e: std::io::Error| {
        Failure::plain(format!("`{}` cannot be written: {e}", path.display()))
            .with_code(exit::CONFLICT)
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path);
    file.and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(failed)
}

/// Writes what makes an agent who it is into a directory: its entry, and files that other tools know as well.
pub(crate) async fn export(home: &Home, json: bool, args: &ExportArgs) -> Outcome {
    let client = client(home)?;
    let path = format!("/api/v1/agents/{}", segment(&args.agent));
    let entry: EntryDoc = client.get(&format!("{path}/entry")).await?;
    let bundle: BundleDoc = client.get(&format!("{path}/bundle")).await?;
    if args.to.exists() {
        let text = format!(
            "`{}` is there already; name a new directory",
            args.to.display()
        );
        return Err(Failure::plain(text).with_code(exit::CONFLICT));
    }
    // Whole or not at all.
    let new = args.to.with_extension("new");
    let _left_by_a_crash = fs::remove_dir_all(&new);
    create(&new.join(ENTRY), &(entry.entry.join("\n") + "\n"))?;
    for file in &bundle.files {
        create(&new.join(&file.path), &file.text)?;
    }
    if !bundle.files.iter().any(|f| f.path == "SOUL.md") {
        create(&new.join("SOUL.md"), &entry.charter)?;
    }
    fs::rename(&new, &args.to)
        .map_err(|e| Failure::plain(format!("`{}` cannot be made: {e}", args.to.display())))?;
    for left in &bundle.left_out {
        say(&format!("left out: {left}"));
    }
    match json {
        true => output::json(&bundle),
        false => say(&format!(
            "{} is in {}: its entry, its charter and {} more files, without credentials",
            args.agent,
            args.to.display(),
            bundle.files.iter().filter(|f| f.path != "SOUL.md").count()
        )),
    }
    Ok(exit::OK)
}
