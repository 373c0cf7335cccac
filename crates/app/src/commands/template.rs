//! `abbey template`: the stock templates.

use crate::exit::{self, Failure, Outcome};
use crate::output::{self, print_table};
use abbey_api::VERSION;
use abbey_daemon::manifest;
use clap::Subcommand;
use serde_json::Value;

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// List the templates.
    #[command(after_help = "Example:\n  abbey template list")]
    List,
    /// Show the charter of a template.
    #[command(after_help = "Example:\n  abbey template show sysadmin")]
    Show {
        /// Name of the template.
        name: String,
    },
}

/// `abbey template`: lists the built-in templates for agents, or prints the charter of one.
pub(crate) fn cmd_template(json: bool, command: TemplateCommand) -> Outcome {
    match command {
        TemplateCommand::List => list(json),
        TemplateCommand::Show { name } => show(json, &name),
    }
}

fn list(json: bool) -> Outcome {
    if json {
        let rows: Vec<Value> = manifest::templates::ALL.iter().map(|t| serde_json::json!({ "name": t.name, "role": t.role, "summary": t.summary, "skills": t.skills })).collect();
        output::print_json(&serde_json::json!({ "version": VERSION, "templates": rows }));
    } else {
        let row = |t: &manifest::templates::Template| {
            vec![
                t.name.to_owned(),
                t.role.to_owned(),
                t.summary.to_owned(),
                t.skills.join(", "),
            ]
        };
        print_table(
            &["TEMPLATE", "ROLE", "FOR", "SKILLS"],
            manifest::templates::ALL.iter().map(row).collect(),
            "no templates",
        );
    }
    Ok(exit::OK)
}

fn show(json: bool, name: &str) -> Outcome {
    let missing = || {
        Failure::plain(format!("there is no template `{name}`"))
            .hint("`abbey template list` lists all templates")
            .with_code(exit::NOT_FOUND)
    };
    let t = manifest::templates::find(name).ok_or_else(missing)?;
    if json {
        output::print_json(
            &serde_json::json!({ "version": VERSION, "name": t.name, "role": t.role, "skills": t.skills, "charter": t.charter }),
        );
    } else {
        output::print_line(t.charter.trim_end());
    }
    Ok(exit::OK)
}
