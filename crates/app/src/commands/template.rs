//! `abbey template`: templates for agents, built in and saved from agents.

use crate::connect::operator_client;
use crate::exit::{self, Failure, Outcome};
use crate::manifest_file::parse_slug;
use crate::output::{self, human_bytes, print_line, print_message, print_table};
use abbey_api::{SaveTemplateBody, VERSION};
use abbey_daemon::{Home, SavedTemplate, list_saved_templates, manifest, open_saved_template};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::time::Duration;

/// Longest time to save the files of an agent.
const SAVE_WITHIN: Duration = Duration::from_secs(3600);

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// List the templates, built in and saved.
    #[command(visible_alias = "ls", after_help = "Example:\n  abbey template list")]
    List,
    /// Show the charter of a template, and the manifest entry of a saved one.
    #[command(after_help = "Example:\n  abbey template show sysadmin")]
    Show {
        /// Name of the template.
        name: String,
    },
    /// Save an agent as a template for others: its manifest entry, charter, home and workspace.
    #[command(
        long_about = "Save an agent as a template for others: its manifest entry, charter, home and workspace.\n\nThe agent may run. Not saved: credentials, logins of programs, memory, identity files and session of the agent, and the keys of its entry that belong to one agent, such as schedules, budget and superior. The root file system of a microVM is its image, to which `abbey image build --include` adds packages.",
        after_help = "Example:\n  abbey template save merlin tooled\n  abbey agent new nimue --template tooled"
    )]
    Save(SaveArgs),
    /// Remove a saved template; agents made from it stay as they are.
    #[command(after_help = "Example:\n  abbey template rm tooled")]
    Rm {
        /// Name of the template.
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// Agent to save.
    pub(crate) agent: String,
    /// Name of the template.
    pub(crate) name: String,
    /// Replace the template of this name.
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `abbey template`: lists, shows, saves and removes templates for agents.
pub(crate) async fn cmd_template(home: &Home, json: bool, command: TemplateCommand) -> Outcome {
    match command {
        TemplateCommand::List => list(home, json),
        TemplateCommand::Show { name } => show(home, json, &name),
        TemplateCommand::Save(args) => save(home, json, &args).await,
        TemplateCommand::Rm { name } => remove(home, json, &name).await,
    }
}

fn list(home: &Home, json: bool) -> Outcome {
    let saved = list_saved_templates(home)?;
    if json {
        let built_in = manifest::templates::ALL.iter().map(|t| serde_json::json!({ "name": t.name, "role": t.role, "summary": t.summary, "skills": t.skills }));
        let own = saved.iter().map(|t| serde_json::json!({ "name": t.name, "role": t.role, "summary": summary(t), "skills": t.skills, "agent": t.agent, "cell": t.cell, "saved_at": t.at }));
        let rows: Vec<Value> = built_in.chain(own).collect();
        output::print_json(&serde_json::json!({ "version": VERSION, "templates": rows }));
    } else {
        let built_in = manifest::templates::ALL.iter().map(|t| {
            vec![
                t.name.to_owned(),
                t.role.to_owned(),
                t.summary.to_owned(),
                t.skills.join(", "),
            ]
        });
        let own = saved.iter().map(|t| {
            vec![
                t.name.to_string(),
                t.role.clone(),
                summary(t),
                t.skills.join(", "),
            ]
        });
        print_table(
            &["TEMPLATE", "ROLE", "FOR", "SKILLS"],
            own.chain(built_in).collect(),
            "no templates",
        );
    }
    Ok(exit::OK)
}

fn summary(saved: &SavedTemplate) -> String {
    let at = output::local_time(saved.at);
    format!("Saved from {}, a {}, {at}", saved.agent, saved.cell)
}

/// A template that was saved in the house.
///
/// # Errors
/// Exit code 3 if there is none of this name.
pub(crate) fn find_saved_template(home: &Home, name: &str) -> Result<SavedTemplate, Failure> {
    let missing = || {
        Failure::plain(format!("there is no template `{name}`"))
            .hint("`abbey template list` lists all templates")
            .with_code(exit::NOT_FOUND)
    };
    let slug = name.parse().map_err(|_| missing())?;
    match open_saved_template(home, &slug) {
        Ok((saved, _)) => Ok(saved),
        Err(abbey_daemon::Error::File { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Err(missing())
        }
        Err(error) => Err(error.into()),
    }
}

fn show(home: &Home, json: bool, name: &str) -> Outcome {
    if let Some(t) = manifest::templates::find(name) {
        match json {
            true => output::print_json(
                &serde_json::json!({ "version": VERSION, "name": t.name, "role": t.role, "skills": t.skills, "charter": t.charter }),
            ),
            false => print_line(t.charter.trim_end()),
        }
        return Ok(exit::OK);
    }
    let saved = find_saved_template(home, name)?;
    if json {
        output::print_json(&saved);
    } else {
        output::print_lines(&saved.entry.join("\n"));
        print_line("");
        output::print_lines(saved.charter.trim_end());
    }
    Ok(exit::OK)
}

async fn save(home: &Home, json: bool, args: &SaveArgs) -> Outcome {
    let name = parse_slug(&args.name)?;
    let client = operator_client(home)?.timeout(SAVE_WITHIN);
    let body = SaveTemplateBody {
        agent: args.agent.clone(),
        replace: args.replace,
    };
    let saved = client.templates().save(name.as_str(), &body).await?;
    if json {
        output::print_json(&saved);
        return Ok(exit::OK);
    }
    print_line(&format!(
        "saved template `{name}` from agent `{}`, {}; `abbey agent new NAME --template {name}` makes an agent from it",
        saved.agent,
        human_bytes(saved.bytes)
    ));
    for line in &saved.left_out {
        print_message(&format!("not saved: {line}"));
    }
    Ok(exit::OK)
}

async fn remove(home: &Home, json: bool, name: &str) -> Outcome {
    let slug = parse_slug(name)?;
    if manifest::templates::find(name).is_some() {
        return Err(Failure::plain(format!(
            "`{name}` is a built-in template; only saved templates can be removed"
        ))
        .with_code(exit::CONFLICT));
    }
    let removed = operator_client(home)?
        .templates()
        .remove(slug.as_str())
        .await?;
    match json {
        true => output::print_json(&removed),
        false => print_line(&format!("removed template `{slug}`")),
    }
    Ok(exit::OK)
}
