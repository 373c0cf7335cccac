//! `abbey agent clone`, `rm` and `restore`: clones, removes and restores agents.

use crate::agent_files::write_charter;
use crate::connect::operator_client;
use crate::consent::{Consent, ConsentArg};
use crate::durations::parse_duration;
use crate::exit::{self, Failure, Outcome};
use crate::manifest_arg::ManifestArg;
use crate::manifest_file::{
    ManifestEdit, agent_edit_failure, apply_edit, edit_manifest, manifest_failure, parse_slug,
    print_applied_plan, require_applicable, require_unnamed,
};
use crate::names::parse_new_agent;
use crate::output::{self, Progress, local_time, print_message};
use crate::plan_output::print_plan;
use crate::readiness::{WaitArgs, WaitFor};
use abbey_api::client::Client;
use abbey_api::{EntryQuery, PlanDoc};
use abbey_daemon::{Home, manifest};
use abbey_model::{FirstFiles, Presence, Slug};
use clap::Args;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What to do where the entry of a removed agent does not fit the manifest any more.
const HOW_TO_RESTORE: &str =
    "nothing was changed; change the manifest so, run `abbey up`, then repeat the command";

#[derive(Debug, Args)]
pub(crate) struct CloneArgs {
    /// Agent whose manifest entry and identity files are copied.
    pub(crate) agent: String,
    /// Name of the new agent.
    pub(crate) new: String,
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
    #[command(flatten)]
    pub(crate) consent: ConsentArg,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

/// How long a command waits for the current task of an agent.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Do not wait until its current task has ended; the task returns to the queue.
    #[arg(long)]
    pub(crate) now: bool,
    /// Longest wait for its current task.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub(crate) within: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Name of the agent.
    pub(crate) agent: String,
    #[command(flatten)]
    pub(crate) drain: DrainArgs,
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
    /// Accepted for scripts; the command itself is the consent.
    #[arg(short, long)]
    _yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RenameArgs {
    /// Name of the agent.
    pub(crate) agent: String,
    /// Name that it gets.
    pub(crate) new: String,
    #[command(flatten)]
    pub(crate) drain: DrainArgs,
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
    #[command(flatten)]
    pub(crate) consent: ConsentArg,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Name of the removed agent.
    pub(crate) agent: String,
    /// Time stamp of the removed files, as `abbey agent rm` printed it [default: the newest].
    #[arg(long, value_name = "STAMP")]
    pub(crate) at: Option<String>,
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
    #[command(flatten)]
    pub(crate) consent: ConsentArg,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

/// `abbey agent clone`: copies the manifest entry, charter and identity files of an agent to a new agent, and
/// applies the manifest. Credentials, logins, channels, schedules and the display name are not copied; the clone
/// gets its own databases.
pub(crate) async fn cmd_agent_clone(home: &Home, json: bool, args: &CloneArgs) -> Outcome {
    let file = args.manifest.path(home);
    let (from, new) = (parse_slug(&args.agent)?, parse_new_agent(&args.new)?);
    let client = operator_client(home)?;
    let mut without_budget = false;
    let edited = edit_manifest(home, &file, |text| {
        let entry =
            manifest::agent_entry(text, &from).map_err(|m| agent_edit_failure(text, &from, &m))?;
        let mut text = manifest::add_entry(text, &new, &entry).map_err(|m| manifest_failure(&m))?;
        // A share of the budget belongs to one agent; two of the same share may exceed the whole.
        let shares = manifest::has_value_at(&text, &new, &["budget", "share"]);
        without_budget = shares;
        text = manifest::remove_own_keys(&text, &new, manifest::Likeness::Clone)
            .map_err(|m| manifest_failure(&m))?;
        match shares {
            true => manifest::remove_key(&text, &new, "budget").map_err(|m| manifest_failure(&m)),
            false => Ok(text),
        }
    })
    .await?;
    let edit = edited.filling(&new, &FirstFiles::Agent(from.clone()));
    let show = print_applied_plan(json);
    let consent = args.consent.consent();
    let code = apply_edit(home, &file, edit, None, consent, show).await?;
    if code != exit::OK {
        return Ok(code);
    }
    if without_budget {
        print_message(&format!(
            "the budget of `{from}` is a share, so `{new}` has none of its own; set `agents.{new}.budget` in {}",
            file.display()
        ));
    }
    args.wait
        .wait(&client, WaitFor::Agents(vec![new.to_string()]))
        .await
}

/// `abbey agent rm`: removes an agent from the manifest once its current task has ended, applies the manifest, and
/// prints which files are kept. Exit code 7 if resources of the agent are left over.
pub(crate) async fn cmd_agent_rm(home: &Home, json: bool, args: &RmArgs) -> Outcome {
    let file = args.manifest.path(home);
    let name = parse_slug(&args.agent)?;
    let client = operator_client(home)?;
    let edit = async || {
        let remove = |text: &str| {
            let without = manifest::remove_agent(text, &name)
                .map_err(|m| agent_edit_failure(text, &name, &m))?;
            require_unnamed(&file, &without, &name).map(|()| without)
        };
        edit_manifest(home, &file, remove).await
    };
    // What is refused is so at once. While its task goes on, others may edit the file.
    require_applicable(home, &file, &edit().await?).await?;
    // Who removes an agent by name agrees to that, and to nothing else that the manifest may say.
    let consent = Consent::To(format!("agent:{name}"));
    let mut document = Value::Null;
    let show = |plan: &PlanDoc| match json {
        true => document = serde_json::json!(plan),
        false => print_plan(plan),
    };
    let apply = async { apply_edit(home, &file, edit().await?, None, consent, show).await };
    let code = after_its_task(&client, &name, &args.drain, apply).await;
    let left = match code {
        Ok(exit::OK) => client.agents().leftovers(name.as_str()).await.map(Some),
        _ => Ok(None),
    };
    if !document.is_null() {
        if let Ok(Some(left)) = &left {
            let files = left.removed.last().map(|stamp| {
                let path = format!("{}/{name}-{stamp}", left.place);
                serde_json::json!({ "path": path, "stamp": stamp })
            });
            document["files"] = serde_json::json!(files);
            document["leftovers"] = serde_json::json!(left);
        }
        output::print_json(&document);
    }
    let code = code?;
    let Some(left) = left? else {
        return Ok(code);
    };
    if let Some(stamp) = left.removed.last() {
        print_message(&format!(
            "its files are kept in {}/{name}-{stamp}; `abbey agent restore {name}` restores the agent",
            left.place
        ));
    }
    for kept in &left.kept {
        let until = kept.until.map_or_else(
            || "is being removed".to_owned(),
            |t| format!("is kept until {}", local_time(t)),
        );
        print_message(&format!(
            "{} of service {} {until}",
            kept.name, kept.service
        ));
    }
    if !left.tasks.is_empty() {
        print_message(&format!(
            "no agent works on {} any more; `abbey task show` shows the task",
            left.tasks.join(", ")
        ));
    }
    for leftover in &left.leftovers {
        print_message(&format!(
            "left over: {leftover}; `abbey doctor --fix` removes it"
        ));
    }
    Ok(match left.leftovers.is_empty() {
        true => code,
        false => exit::DEGRADED,
    })
}

/// `abbey agent rename`: gives an agent another name in the manifest, wherever a key names it, and applies that once
/// its current task has ended. Files, user, addresses, databases, budget and history stay; its cell restarts.
pub(crate) async fn cmd_agent_rename(home: &Home, json: bool, args: &RenameArgs) -> Outcome {
    let file = args.manifest.path(home);
    let (old, new) = (parse_slug(&args.agent)?, parse_new_agent(&args.new)?);
    let client = operator_client(home)?;
    let now = EntryQuery::default();
    let entry = client.agents().entry(old.as_str(), &now).await?;
    let mut data = BTreeMap::new();
    for (service, name) in entry.data_names {
        data.insert(parse_slug(&service)?, name);
    }
    let edit = async || {
        let rename = |text: &str| {
            manifest::rename_agent(text, &old, &new, &data)
                .map_err(|m| agent_edit_failure(text, &old, &m))
        };
        let edited = edit_manifest(home, &file, rename).await?;
        Ok::<ManifestEdit, Failure>(edited.renaming(&old, &new))
    };
    require_applicable(home, &file, &edit().await?).await?;
    let show = print_applied_plan(json);
    let consent = args.consent.consent();
    let apply = async { apply_edit(home, &file, edit().await?, None, consent, show).await };
    let code = after_its_task(&client, &old, &args.drain, apply).await?;
    if code != exit::OK {
        return Ok(code);
    }
    args.wait
        .wait(&client, WaitFor::Agents(vec![new.to_string()]))
        .await
}

/// Carries out `apply` once the current task of a running agent has ended; if that is refused, the agent works on.
async fn after_its_task(
    client: &Client,
    agent: &Slug,
    drain: &DrainArgs,
    apply: impl Future<Output = Outcome>,
) -> Outcome {
    let presence = client.agents().show(agent.as_str()).await?.presence;
    let drains = !drain.now && !matches!(presence, Presence::Stopped | Presence::Paused);
    if drains {
        wait_until_drained(client, agent.as_str(), drain.within).await?;
    }
    let outcome = apply.await;
    if drains && !matches!(outcome, Ok(exit::OK)) {
        let _best_effort = client.agents().start(agent.as_str()).await;
    }
    outcome
}

async fn wait_until_drained(client: &Client, name: &str, within: Duration) -> Result<(), Failure> {
    let until = Instant::now() + within;
    let mut progress = Progress::new();
    let mut agent = client.agents().drain(name).await?;
    while let Some(task) = &agent.task {
        if Instant::now() >= until {
            progress.end();
            print_message(&format!(
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

/// `abbey agent restore`: restores a removed agent with its last manifest entry, its files and new credentials.
/// Exit code 4 if the agent exists.
pub(crate) async fn cmd_agent_restore(home: &Home, json: bool, args: &RestoreArgs) -> Outcome {
    let file = args.manifest.path(home);
    let name = parse_slug(&args.agent)?;
    let client = operator_client(home)?;
    let agents = client.agents();
    let mut entry = agents.entry(name.as_str(), &EntryQuery::default()).await?;
    if entry.present {
        let failure = Failure::plain(format!(
            "agent `{name}` exists; only a removed agent can be restored"
        ))
        .with_code(exit::CONFLICT);
        return Err(match entry.removed.last() {
            Some(stamp) => failure.hint(format!(
                "`removed/{name}-{stamp}` in the state directory keeps files of a removed agent of this name: `abbey agent rm {name}`, then `abbey agent restore {name} --at {stamp}` brings that one back"
            )),
            None => failure,
        });
    }
    let mut removed = agents.leftovers(name.as_str()).await?.removed;
    // The entry that it had with these files, and not with later ones.
    if args.at.as_ref().is_some_and(|at| removed.contains(at)) {
        let of_stamp = EntryQuery {
            removed: args.at.clone(),
        };
        entry = agents.entry(name.as_str(), &of_stamp).await?;
    }
    let mut given = Vec::new();
    let edited = edit_manifest(home, &file, |text| {
        let mut text =
            manifest::add_entry(text, &name, &entry.entry).map_err(|m| manifest_failure(&m))?;
        // `agent rm` took them out, and without them services would give it new data.
        for (service, data) in &entry.data_names {
            let service = parse_slug(service)?;
            text = manifest::restore_data_name(&text, &service, &name, data)
                .map_err(|m| manifest_failure(&m).hint(HOW_TO_RESTORE))?;
        }
        (text, given) = manifest::give_free_data_names(&text, &name)
            .map_err(|m| manifest_failure(&m).hint(HOW_TO_RESTORE))?;
        // Such as one name for the data of two agents, which only the operator can part.
        abbey_daemon::check_manifest(&text).map_err(|e| {
            Failure::from(e)
                .hint(HOW_TO_RESTORE)
                .with_code(exit::CONFLICT)
        })?;
        Ok(text)
    })
    .await?;
    write_charter(&file, &edited.text, &name, &entry.charter)?;
    let stamp = args.at.clone().or_else(|| removed.pop()).ok_or_else(|| {
        Failure::plain(format!("no files of agent `{name}` are kept"))
            .hint(format!("`abbey agent new {name}` makes a new agent"))
            .with_code(exit::NOT_FOUND)
    })?;
    let edit = edited.filling(&name, &FirstFiles::Archive(stamp.clone()));
    let show = print_applied_plan(json);
    let consent = args.consent.consent();
    let code = apply_edit(home, &file, edit, None, consent, show).await?;
    if code != exit::OK {
        return Ok(code);
    }
    print_message(&format!(
        "agent `{name}` is restored with its files of {stamp}"
    ));
    for (service, data) in given {
        print_message(&format!(
            "what it had in service `{service}` belongs to another agent by now, so its name there is `{data}`"
        ));
    }
    args.wait
        .wait(&client, WaitFor::Agents(vec![name.to_string()]))
        .await
}
