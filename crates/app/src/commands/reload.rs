//! `abbey reload`: brings a changed manifest to running agents and waits until each works under it.

use crate::connect::operator_client;
use crate::consent::Consent;
use crate::control_plane::DOWN_WITHIN;
use crate::exit::{self, Failure, Outcome};
use crate::fleet_output::print_agents;
use crate::manifest_arg::ManifestArg;
use crate::manifest_file::{apply_edit, edit_manifest, manifest_failure, parse_slug};
use crate::names::distinct;
use crate::output::{self, Progress, print_message};
use crate::plan_output::print_plan;
use abbey_api::{AgentView, FleetQuery};
use abbey_daemon::{Home, manifest};
use clap::Args;
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    /// Names of agents.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) agents: Vec<String>,
    /// All agents.
    #[arg(long)]
    pub(crate) all: bool,
    /// First set their `model` in the manifest, as `PROVIDER/MODEL`.
    #[arg(long, conflicts_with = "rollback")]
    pub(crate) model: Option<String>,
    /// First set their `model` in the manifest back to the previous one.
    #[arg(long)]
    pub(crate) rollback: bool,
    /// Reason that is logged to the audit log.
    #[arg(long)]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
}

/// `abbey reload`: applies the manifest and waits at most 60 seconds until each agent has acknowledged its new
/// configuration (S5-12). Exit code 7 if one has not.
pub(crate) async fn cmd_reload(home: &Home, json: bool, args: &ReloadArgs) -> Outcome {
    let client = operator_client(home)?;
    let fleet = client.agents().list(&FleetQuery::default()).await?;
    let names: Vec<String> = match args.all {
        true => fleet.agents.iter().map(|a| a.name.clone()).collect(),
        false => distinct(&args.agents),
    };
    let file = args.manifest.path(home);
    let mut edited = edit_manifest(home, &file, |text| Ok(text.to_owned())).await?;
    for name in &names {
        let known = fleet.agents.iter().find(|a| a.name == *name);
        let known = known.ok_or_else(|| {
            Failure::plain(format!("there is no agent `{name}`"))
                .with_code(exit::NOT_FOUND)
                .hint("`abbey ps` lists the agents")
        })?;
        let model = match (&args.model, args.rollback) {
            (Some(model), _) => model.clone(),
            (None, true) => known.previous_model.clone().ok_or_else(|| {
                Failure::plain(format!(
                    "agent `{name}` has no previous model to roll back to"
                ))
                .with_code(exit::CONFLICT)
            })?,
            (None, false) => continue,
        };
        edited.text = manifest::set_key(&edited.text, &parse_slug(name)?, "model", &model)
            .map_err(|m| manifest_failure(&m))?;
    }
    let reason = args.reason.clone();
    let code = apply_edit(home, &file, edited, reason, Consent::Ask, |plan| {
        if !json && !plan.steps.is_empty() {
            print_plan(plan);
        }
    })
    .await?;
    if code != exit::OK {
        return Ok(code);
    }
    let until = Instant::now() + DOWN_WITHIN;
    let mut progress = Progress::new();
    loop {
        let fleet = client.agents().list(&FleetQuery::default()).await?;
        let late: Vec<&AgentView> = fleet
            .agents
            .iter()
            .filter(|a| names.contains(&a.name) && a.config_taken != Some(a.config))
            .collect();
        let waiting: Vec<&str> = late.iter().map(|a| a.name.as_str()).collect();
        if late.is_empty() || Instant::now() >= until {
            progress.end();
            for agent in &late {
                let why = match &agent.task {
                    Some(task) => format!("it is working on {task}"),
                    None => format!("it is {}", agent.presence),
                };
                print_message(&format!(
                    "agent `{}` has not acknowledged the new configuration: {why}",
                    agent.name
                ));
            }
            match json {
                true => output::print_json(&fleet),
                false => print_agents(&fleet),
            }
            return Ok(if late.is_empty() {
                exit::OK
            } else {
                exit::DEGRADED
            });
        }
        progress.show(&format!("reload: waiting for {}", waiting.join(", ")));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
