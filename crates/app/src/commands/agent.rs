//! `abbey agent`: adds, moves and shows agents.

use crate::agent_files::write_charter;
use crate::commands::agent_lifecycle::{self, CloneArgs, RenameArgs, RestoreArgs, RmArgs};
use crate::commands::template::find_saved_template;
use crate::connect::operator_client;
use crate::consent::{Consent, ConsentArg};
use crate::exit::{self, Failure, Outcome};
use crate::fleet_output::print_agents;
use crate::manifest_arg::ManifestArg;
use crate::manifest_file::{
    agent_edit_failure, apply_edit, edit_manifest, manifest_failure, parse_slug, print_applied_plan,
};
use crate::names::parse_new_agent;
use crate::output::{self, print_message, print_table};
use crate::readiness::{WaitArgs, WaitFor};
use abbey_api::{FleetDoc, VERSION};
use abbey_daemon::manifest::CHARTER_MAX;
use abbey_daemon::{Home, manifest};
use abbey_model::FirstFiles;
use abbey_support::input::read_input_text;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Add an agent to the manifest and start it.
    #[command(
        after_help = "Example:\n  abbey agent new merlin --template sysadmin --reports-to abbot"
    )]
    New(AgentNewArgs),
    /// Remove an agent once its current task has ended; its files are kept.
    #[command(after_help = "Example:\n  abbey agent rm merlin --within 300")]
    Rm(RmArgs),
    /// Give an agent another name; its files, user, addresses, databases and history stay.
    #[command(after_help = "Example:\n  abbey agent rename merlin emrys")]
    Rename(RenameArgs),
    /// Create an agent like another one, without its credentials, logins, channels and schedules.
    #[command(after_help = "Example:\n  abbey agent clone merlin nimue")]
    Clone(CloneArgs),
    /// Restore a removed agent with its manifest entry and its files, and new credentials.
    #[command(after_help = "Example:\n  abbey agent restore merlin")]
    Restore(RestoreArgs),
    /// Show an agent.
    #[command(after_help = "Example:\n  abbey agent show merlin --effective")]
    Show {
        /// Name of the agent.
        agent: String,
        /// Show every configuration value with its origin instead.
        #[arg(long)]
        effective: bool,
    },
    /// Change to whom an agent reports, in the manifest, and apply it.
    #[command(after_help = "Example:\n  abbey agent move merlin --to abbot")]
    Move(AgentMoveArgs),
    /// Issue a new credential for an agent; the old one is valid for another minute.
    #[command(after_help = "Example:\n  abbey agent rotate merlin")]
    Rotate {
        /// Name of the agent.
        agent: String,
    },
}

/// `abbey agent`: runs a subcommand that adds, removes, clones, restores, shows or moves an agent, or rotates its
/// credential.
pub(crate) async fn cmd_agent(home: &Home, json: bool, command: AgentCommand) -> Outcome {
    match command {
        AgentCommand::New(args) => new(home, json, &args).await,
        AgentCommand::Move(args) => move_below(home, json, &args).await,
        AgentCommand::Rm(args) => agent_lifecycle::cmd_agent_rm(home, json, &args).await,
        AgentCommand::Rename(args) => agent_lifecycle::cmd_agent_rename(home, json, &args).await,
        AgentCommand::Clone(args) => agent_lifecycle::cmd_agent_clone(home, json, &args).await,
        AgentCommand::Restore(args) => agent_lifecycle::cmd_agent_restore(home, json, &args).await,
        AgentCommand::Show { agent, effective } => show_agent(home, json, &agent, effective).await,
        AgentCommand::Rotate { agent } => rotate_credential(home, json, &agent).await,
    }
}

#[derive(Debug, Args)]
pub(crate) struct AgentNewArgs {
    /// Name of the new agent.
    pub(crate) agent: String,
    /// Template to start from, built in or saved; see `abbey template list`.
    #[arg(long, value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// Agent to which it reports.
    #[arg(long, value_name = "AGENT")]
    pub(crate) reports_to: Option<String>,
    /// Model that it uses, as `PROVIDER/MODEL`.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
    #[command(flatten)]
    pub(crate) consent: ConsentArg,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AgentMoveArgs {
    /// Name of the agent.
    pub(crate) agent: String,
    /// Agent to which it reports from now on; `operator` for the top of the org chart.
    #[arg(long, value_name = "AGENT")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
}

async fn new(home: &Home, json: bool, args: &AgentNewArgs) -> Outcome {
    let file = args.manifest.path(home);
    let name = parse_new_agent(&args.agent)?;
    let saved = match args.template.as_deref() {
        Some(template) if manifest::templates::find(template).is_none() => {
            Some(find_saved_template(home, template)?)
        }
        _ => None,
    };
    let set = |text: String, key: &str, value: Option<&str>| match value {
        Some(value) => manifest::set_key(&text, &name, key, value),
        None => Ok(text),
    };
    let above = args.reports_to.as_deref().filter(|a| *a != "operator");
    let edited = edit_manifest(home, &file, |text| {
        let text = match &saved {
            Some(saved) => manifest::add_entry(text, &name, &saved.entry).and_then(|text| {
                let own = format!("{name}.md");
                let charter = manifest::has_value_at(&text, &name, &["charter"]).then_some(own);
                set(text, "charter", charter.as_deref())
                    .and_then(|text| set(text, "reports_to", above))
            }),
            None => manifest::add_agent(text, &name, args.template.as_deref(), above),
        };
        text.and_then(|text| set(text, "model", args.model.as_deref()))
            .map_err(|m| manifest_failure(&m))
    })
    .await?;
    let edit = match &saved {
        Some(saved) => {
            let path = file.with_file_name(format!("{name}.md"));
            if read_input_text(&path, CHARTER_MAX as u64).is_ok_and(|text| text != saved.charter) {
                return Err(Failure::plain(format!(
                    "`{}` exists and is not the charter of template `{}`",
                    path.display(),
                    saved.name
                ))
                .hint("move it to another place, or choose another name for the agent")
                .with_code(exit::CONFLICT));
            }
            write_charter(&file, &edited.text, &name, &saved.charter)?;
            let files = FirstFiles::Template(saved.name.clone());
            edited.filling(&name, &files)
        }
        None => edited,
    };
    let show = print_applied_plan(json);
    let consent = args.consent.consent();
    let code = apply_edit(home, &file, edit, None, consent, show).await?;
    if code != exit::OK {
        return Ok(code);
    }
    let client = operator_client(home)?;
    let agents = WaitFor::Agents(vec![name.to_string()]);
    args.wait.wait(&client, agents).await
}

/// Changes to whom an agent reports.
async fn move_below(home: &Home, json: bool, args: &AgentMoveArgs) -> Outcome {
    let file = args.manifest.path(home);
    let name = parse_slug(&args.agent)?;
    let edited = edit_manifest(home, &file, |text| {
        let edited = match args.to.as_str() {
            "operator" => manifest::remove_key(text, &name, "reports_to"),
            above => manifest::set_key(text, &name, "reports_to", parse_slug(above)?.as_str()),
        };
        edited.map_err(|m| agent_edit_failure(text, &name, &m))
    })
    .await?;
    let show = print_applied_plan(json);
    apply_edit(home, &file, edited, None, Consent::Ask, show).await
}

async fn show_agent(home: &Home, json: bool, agent: &str, effective: bool) -> Outcome {
    let client = operator_client(home)?;
    if effective {
        let doc = client.agents().effective(agent).await?;
        if json {
            output::print_json(&doc);
        } else {
            print_table(
                &["KEY", "VALUE", "ORIGIN"],
                doc.values
                    .into_iter()
                    .map(|v| vec![v.key, v.value, v.origin])
                    .collect(),
                "no values",
            );
        }
        return Ok(exit::OK);
    }
    let view = client.agents().show(agent).await?;
    if json {
        output::print_json(&view);
    } else {
        print_agents(&FleetDoc {
            version: VERSION,
            house: String::new(),
            generation: 0,
            agents: vec![view],
            failing_providers: Vec::new(),
            cursor: None,
        });
    }
    Ok(exit::OK)
}

async fn rotate_credential(home: &Home, json: bool, agent: &str) -> Outcome {
    let doc = operator_client(home)?
        .agents()
        .rotate_credential(agent)
        .await?;
    if json {
        output::print_json(&doc);
    } else {
        print_message(&format!(
            "agent `{agent}` has a new credential; run `abbey restart {agent}` so that the agent uses it; the old one expires in {} s",
            doc.overlap_ms / 1000
        ));
    }
    Ok(exit::OK)
}
