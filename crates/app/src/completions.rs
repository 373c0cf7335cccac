//! Completions of the shell: which arguments are names of what, and the names that this house has.

use crate::connect::{operator_client, resolve_home};
use crate::help;
use crate::manifest_arg;
use crate::manifest_file::MANIFEST_MAX;
use crate::text::escape;
use abbey_api::client::{Client, Error};
use abbey_api::{
    ApprovalsQuery, DocumentsQuery, FleetQuery, SchedulesQuery, ServicesQuery, SkillsQuery,
    TaskQuery, WorkflowRunsQuery,
};
use abbey_cells::microvm::image;
use abbey_daemon::{Home, manifest};
use abbey_model::Slug;
use abbey_support::input::read_input_text;
use clap::Command;
use clap_complete::CompleteEnv;
use clap_complete::engine::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter,
};
use clap_complete::env::Shells;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

/// Variable with the name of the shell, by which its completion function calls this program.
const VARIABLE: &str = "ABBEY_COMPLETE";
/// Longest wait for the house: a person waits for the shell meanwhile.
const ANSWER_WITHIN: Duration = Duration::from_millis(700);
/// Length of the time stamp in the name of archived files, `2026-11-26T00-00-00-000Z`.
const STAMP_LEN: usize = 24;
/// Most names that are asked for.
const NAMES_MAX: u32 = 500;

/// What the names of an argument are names of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Agents,
    Services,
    /// Services that the manifest disables.
    DisabledServices,
    /// Agents, and services as `service/NAME`.
    Cells,
    /// Agents and services, both by name.
    AgentsAndServices,
    Tasks,
    Schedules,
    Workflows,
    Documents,
    Skills,
    Templates,
    Tokens,
    Secrets,
    Approvals,
    /// Runs of workflows.
    Runs,
    /// Images of microVMs.
    Images,
    /// Agents that were removed and whose files are kept.
    RemovedAgents,
    /// Files of this host, and agents and services as the beginning of `AGENT:PATH`.
    Copied,
    /// Providers, as the beginning of `PROVIDER/MODEL`.
    Models,
    Providers,
}

/// Arguments that are names, by command (`*` for all others) and id. A new object has no name yet.
const ARGUMENTS: &[(&str, &str, Option<Named>)] = &[
    ("agent new", "agent", None),
    ("agent restore", "agent", Some(Named::RemovedAgents)),
    ("exec", "agent", Some(Named::Cells)),
    ("attach", "agent", Some(Named::Cells)),
    ("why", "agent", Some(Named::AgentsAndServices)),
    ("logs", "names", Some(Named::Cells)),
    ("service logs", "names", Some(Named::Services)),
    ("service enable", "service", Some(Named::DisabledServices)),
    ("schedule add", "schedule", None),
    // The text of a task, not its number.
    ("schedule add", "task", None),
    ("skill show", "name", Some(Named::Skills)),
    ("skill run", "name", Some(Named::Skills)),
    ("template show", "name", Some(Named::Templates)),
    ("template rm", "name", Some(Named::Templates)),
    ("template save", "name", None),
    ("token revoke", "name", Some(Named::Tokens)),
    ("secret set", "name", Some(Named::Secrets)),
    ("secret rm", "name", Some(Named::Secrets)),
    ("token new", "name", None),
    ("image build", "name", None),
    ("image import", "name", None),
    ("image verify", "name", Some(Named::Images)),
    ("image remove", "name", Some(Named::Images)),
    ("run", "image", Some(Named::Images)),
    ("cp", "from", Some(Named::Copied)),
    ("cp", "to", Some(Named::Copied)),
    ("export", "to", None),
    ("*", "run", Some(Named::Runs)),
    ("*", "agent", Some(Named::Agents)),
    ("*", "agents", Some(Named::Agents)),
    ("*", "reports_to", Some(Named::Agents)),
    ("task add", "to", Some(Named::Agents)),
    ("agent move", "to", Some(Named::Agents)),
    ("skill run", "to", Some(Named::Agents)),
    ("skill explain", "to", Some(Named::Agents)),
    ("*", "service", Some(Named::Services)),
    ("*", "task", Some(Named::Tasks)),
    ("*", "schedule", Some(Named::Schedules)),
    ("*", "workflow", Some(Named::Workflows)),
    ("*", "document", Some(Named::Documents)),
    ("*", "skill", Some(Named::Skills)),
    ("*", "template", Some(Named::Templates)),
    ("*", "approval", Some(Named::Approvals)),
    ("*", "model", Some(Named::Models)),
    ("*", "provider", Some(Named::Providers)),
];

/// What the values of an argument of a command are names of.
fn named(command: &str, id: &str) -> Option<Named> {
    let row = ARGUMENTS
        .iter()
        .find(|(c, i, _)| *i == id && (*c == command || *c == "*"));
    row.and_then(|(_, _, named)| *named)
}

/// Answers the completion function of a shell and ends the process, if that is who calls.
pub(crate) fn answer_shell() {
    let command = || with_names(help::build_command(help::WIDTH), "");
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// Script that defines the completion function of a shell. It calls the program as it is called now.
pub(crate) fn script(shell: &str) -> Option<String> {
    let called = std::env::args_os().next().map(PathBuf::from);
    let called = called.unwrap_or_else(|| "abbey".into());
    let program = match called.components().count() {
        0 | 1 => called,
        _ => std::path::absolute(&called).unwrap_or(called),
    };
    let mut script = Vec::new();
    let shells = Shells::builtins();
    let program = program.display().to_string();
    let written = shells.completer(shell)?.write_registration(
        VARIABLE,
        "abbey",
        "abbey",
        &program,
        &mut script,
    );
    written.ok()?;
    Some(String::from_utf8_lossy(&script).into_owned())
}

/// The command with the names that its arguments can have, and so its subcommands. `path` is its name below `abbey`.
fn with_names(command: Command, path: &str) -> Command {
    let command = command.mut_args(|arg| match named(path, arg.get_id().as_str()) {
        Some(Named::Copied) => arg.add(ArgValueCompleter::new(copied)),
        Some(named) => arg.add(ArgValueCandidates::new(move || candidates(named))),
        None => arg,
    });
    command.mut_subcommands(|sub| {
        let path = format!("{path} {}", sub.get_name());
        with_names(sub, path.trim_start())
    })
}

/// Names with a description, from the house or, where it does not answer in time, from its manifest.
fn candidates(named: Named) -> Vec<CompletionCandidate> {
    let home = resolve_home(home_of_line().as_deref());
    let names = match named {
        Named::Templates => {
            let saved = abbey_daemon::list_saved_templates(&home).unwrap_or_default();
            let saved = saved.into_iter().map(|t| (t.name.to_string(), t.role));
            let built_in = manifest::templates::ALL.iter();
            let built_in = built_in.map(|t| (t.name.to_owned(), t.summary.to_owned()));
            saved.chain(built_in).collect()
        }
        Named::Images => {
            let images = image::list_images(&home.root().join("images")).unwrap_or_default();
            images.into_iter().map(|i| (i.name, i.suite)).collect()
        }
        Named::RemovedAgents => without_text(removed_agents(&home)),
        Named::Secrets => without_text(home.credential_names().unwrap_or_default()),
        _ => ask(&home, named).unwrap_or_else(|| declared(&home, named)),
    };
    let candidate = |(name, text): (String, String)| {
        let candidate = CompletionCandidate::new(name);
        // A title or an action is the text of whoever wrote it, and a shell takes each line for a candidate.
        let help = text.lines().next().map(|line| escape(line).into());
        candidate.help(help)
    };
    names.into_iter().map(candidate).collect()
}

/// Agents whose files are kept as `NAME-STAMP`, as far as this user can list them.
fn removed_agents(home: &Home) -> BTreeSet<String> {
    let entries = std::fs::read_dir(home.removed_agents_dir());
    let names = entries.into_iter().flatten().flatten();
    let agent = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let slug = name.get(..name.len().checked_sub(STAMP_LEN + 1)?)?;
        Some(slug.parse::<Slug>().ok()?.to_string())
    };
    names.filter_map(agent).collect()
}

/// Files of this host, and `AGENT:` or `service/NAME:`.
fn copied(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = candidates(Named::Copied).into_iter();
    let text = current.to_str().unwrap_or_default();
    let begun = |name: &CompletionCandidate| {
        let name = name.get_value().to_str();
        name.is_some_and(|name| name.starts_with(text))
    };
    let mut all: Vec<_> = names.filter(begun).collect();
    all.extend(PathCompleter::any().complete(current));
    all
}

/// `--home` of the line that is being completed, which follows `--`.
fn home_of_line() -> Option<PathBuf> {
    let words: Vec<_> = std::env::args_os().collect();
    let at = words.iter().position(|w| w == "--home");
    let next = at.and_then(|at| words.get(at + 1)).map(PathBuf::from);
    let joined = words
        .iter()
        .filter_map(|w| w.to_str()?.strip_prefix("--home="));
    next.or(joined.map(PathBuf::from).next())
}

fn without_text(names: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
    names
        .into_iter()
        .map(|name| (name, String::new()))
        .collect()
}

/// Names that the house knows; none if it does not answer in time.
fn ask(home: &Home, named: Named) -> Option<Vec<(String, String)>> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().ok()?;
    let client = operator_client(home).ok()?;
    let answer = async { tokio::time::timeout(ANSWER_WITHIN, names(&client, named)).await };
    runtime.block_on(answer).ok()?.ok().flatten()
}

async fn names(client: &Client, named: Named) -> Result<Option<Vec<(String, String)>>, Error> {
    let agents = async || {
        let doc = client.agents().list(&FleetQuery::default()).await?;
        let names = doc.agents.into_iter().map(|a| (a.name, a.role));
        Ok::<_, Error>(names.collect::<Vec<_>>())
    };
    let services = async |prefix: &str| {
        let doc = client.services().list(&ServicesQuery::default()).await?;
        let names = doc
            .services
            .into_iter()
            .map(|s| format!("{prefix}{}", s.name));
        Ok::<_, Error>(without_text(names))
    };
    let names = match named {
        Named::Agents => agents().await?,
        Named::Services => services("").await?,
        Named::DisabledServices => {
            let doc = client.services().list(&ServicesQuery::default()).await?;
            without_text(doc.disabled)
        }
        Named::Cells => [agents().await?, services("service/").await?].concat(),
        Named::Copied => {
            let cells = [agents().await?, services("service/").await?].concat();
            let path = |(name, text)| (format!("{name}:"), text);
            cells.into_iter().map(path).collect()
        }
        Named::Runs => {
            let query = WorkflowRunsQuery {
                limit: Some(NAMES_MAX),
                ..WorkflowRunsQuery::default()
            };
            let doc = client.workflows().runs(&query).await?;
            doc.runs.into_iter().map(|r| (r.id, r.workflow)).collect()
        }
        Named::AgentsAndServices => [agents().await?, services("").await?].concat(),
        Named::Tasks => {
            let query = TaskQuery {
                limit: Some(NAMES_MAX),
                ..TaskQuery::default()
            };
            let doc = client.tasks().list(&query).await?;
            let rows = doc.tasks.into_iter();
            rows.map(|t| (t.number, t.title)).collect()
        }
        Named::Schedules => {
            let doc = client.schedules().list(&SchedulesQuery::default()).await?;
            doc.schedules
                .into_iter()
                .map(|s| (s.name, s.when))
                .collect()
        }
        Named::Documents => {
            let doc = client.documents().list(&DocumentsQuery::default()).await?;
            without_text(doc.documents.into_iter().map(|d| d.name))
        }
        Named::Skills => {
            let doc = client.skills().list(&SkillsQuery::default()).await?;
            let rows = doc.skills.into_iter();
            rows.map(|s| (s.name, s.description)).collect()
        }
        Named::Providers => {
            let doc = client.providers().list().await?;
            let rows = doc.providers.into_iter();
            rows.map(|p| (p.name, p.endpoint)).collect()
        }
        Named::Tokens => {
            let doc = client.tokens().list().await?;
            without_text(doc.tokens.into_iter().map(|t| t.name))
        }
        Named::Approvals => {
            let doc = client.approvals().list(&ApprovalsQuery::default()).await?;
            doc.approvals
                .into_iter()
                .map(|a| (a.id, a.action))
                .collect()
        }
        // The house has no list of these; its manifest has.
        Named::Workflows
        | Named::Models
        | Named::Templates
        | Named::Secrets
        | Named::Images
        | Named::RemovedAgents => return Ok(None),
    };
    Ok(Some(names))
}

/// Names that the manifest declares.
fn declared(home: &Home, named: Named) -> Vec<(String, String)> {
    let text = read_input_text(&manifest_arg::usual_path(home), MANIFEST_MAX).unwrap_or_default();
    let Ok(house) = manifest::parse(&text) else {
        return Vec::new();
    };
    let agents = || house.agents.keys().map(ToString::to_string);
    let services =
        |prefix: &'static str| house.services.keys().map(move |s| format!("{prefix}{s}"));
    match named {
        Named::Agents => without_text(agents()),
        Named::Services => without_text(services("")),
        Named::DisabledServices => without_text(house.disabled.iter().map(ToString::to_string)),
        Named::Cells => without_text(agents().chain(services("service/"))),
        Named::AgentsAndServices => without_text(agents().chain(services(""))),
        Named::Copied => {
            let cells = agents().chain(services("service/"));
            without_text(cells.map(|name| format!("{name}:")))
        }
        Named::Schedules => without_text(house.agents.values().flat_map(|a| {
            let name = &a.slug;
            a.schedules.keys().map(move |s| format!("{name}/{s}"))
        })),
        Named::Workflows => without_text(house.workflows.keys().map(ToString::to_string)),
        Named::Documents => without_text(house.documents.keys().map(ToString::to_string)),
        Named::Models => without_text(house.providers.keys().map(|p| format!("{p}/"))),
        Named::Providers => without_text(house.providers.keys().map(ToString::to_string)),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(command: &Command, path: &str, all: &mut BTreeSet<(String, String)>) {
        for arg in command.get_arguments() {
            all.insert((path.to_owned(), arg.get_id().to_string()));
        }
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name());
            arguments(sub, path.trim_start(), all);
        }
    }

    /// What an argument is called if its values are names of objects of the house. The words of clap's definitions
    /// decide, so a new command cannot be forgotten.
    const NOUNS: &[&str] = &[
        "agent",
        "agents",
        "service",
        "services",
        "name",
        "names",
        "schedule",
        "task",
        "workflow",
        "document",
        "skill",
        "template",
        "token",
        "secret",
        "approval",
        "run",
        "image",
        "model",
        "provider",
        "reports_to",
        "to",
        "drive",
    ];

    #[test]
    fn every_argument_that_is_a_name_is_in_the_table() {
        fn walk(command: &Command, path: &str, missing: &mut Vec<String>) {
            for arg in command.get_arguments() {
                let id = arg.get_id().as_str();
                let is_open =
                    arg.get_action().takes_values() && arg.get_possible_values().is_empty();
                let has_row = ARGUMENTS
                    .iter()
                    .any(|(c, i, _)| *i == id && (*c == path || *c == "*"));
                if is_open && NOUNS.contains(&id) && !has_row {
                    missing.push(format!("{path} {id}"));
                }
            }
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                walk(sub, path.trim_start(), missing);
            }
        }
        let mut missing = Vec::new();
        walk(&help::build_command(help::WIDTH), "", &mut missing);
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn each_row_of_the_table_is_an_argument() {
        let mut all = BTreeSet::new();
        arguments(&help::build_command(help::WIDTH), "", &mut all);
        for (command, id, _) in ARGUMENTS {
            let found = all
                .iter()
                .any(|(c, i)| i == id && (*command == "*" || c == command));
            assert!(found, "{command} {id}");
        }
        assert_eq!(named("agent rm", "agent"), Some(Named::Agents));
        assert_eq!(named("agent new", "agent"), None);
        assert_eq!(named("schedule add", "task"), None);
    }
}
