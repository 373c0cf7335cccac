//! The command line: every verb, and which function carries it out.

use crate::commands::{
    activity, agent, agent_state, approvals, attach, backup, budget, cp, delegate, doctor,
    document, down, exec, export, image, import, init, logs, org, plan, provider, ps, reload,
    report, run, schedule, secret, service, skill, task, template, token, unit, up, why, workflow,
};
use crate::exit::{self, Outcome};
use crate::{completions, connect, help, manual, output};
use clap::{ColorChoice, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Runs many AI agents on one machine, each in an isolated cell, under one control plane.
#[derive(Debug, Parser)]
#[command(name = "abbey", version, about, styles = help::STYLES)]
pub(crate) struct Cli {
    /// State directory [default: ABBEY_HOME, or else /var/lib/abbey for root, ~/.local/state/abbey for other users].
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Print one JSON document, or JSON Lines for streams; an error as a document on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// When to use colours; `auto` does on a terminal, unless NO_COLOR is set.
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_default_value = true
    )]
    pub(crate) color: ColorChoice,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Every verb. Each has an example, which a test parses; its group in `--help` is in the table of `help`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a manifest to start from.
    #[command(after_help = "Example:\n  abbey init my-house")]
    Init(init::InitArgs),
    /// Start the control plane if none is running, and apply the manifest.
    #[command(after_help = "Example:\n  abbey up -f my-house/abbey.yaml")]
    Up(up::UpArgs),
    /// Show what applying the manifest would change; nothing is changed.
    #[command(after_help = "Example:\n  abbey plan -f my-house/abbey.yaml")]
    Plan(plan::PlanArgs),
    /// Stop every agent, every service and the control plane; all state is kept.
    #[command(after_help = "Example:\n  abbey down")]
    Down,
    /// List agents with their presence, cell, memory and current task, and services.
    #[command(
        visible_aliases = ["status", "list"],
        after_help = "Examples:\n  abbey ps\n  abbey ps --watch"
    )]
    Ps(ps::PsArgs),
    /// Start agents.
    #[command(after_help = "Example:\n  abbey start merlin")]
    Start(agent_state::AgentsArgs),
    /// Stop agents; they stay stopped until `abbey start`.
    #[command(after_help = "Example:\n  abbey stop merlin nimue")]
    Stop(agent_state::AgentsArgs),
    /// Restart agents.
    #[command(after_help = "Example:\n  abbey restart --all")]
    Restart(agent_state::AgentsArgs),
    /// Apply a changed manifest to running agents, without a restart where none is needed.
    ///
    /// Waits until each agent has acknowledged its new configuration.
    #[command(
        after_help = "Example:\n  abbey reload merlin --model scripted/scripted-1 --reason \"cheaper model\""
    )]
    Reload(reload::ReloadArgs),
    /// Suspend agents: their processes keep their memory and use no CPU.
    #[command(after_help = "Example:\n  abbey pause merlin")]
    Pause(agent_state::AgentsArgs),
    /// Resume paused agents.
    #[command(after_help = "Example:\n  abbey resume merlin")]
    Resume(agent_state::AgentsArgs),
    /// Explain the state of an agent, with its last exit and next retry, or of a service.
    #[command(after_help = "Example:\n  abbey why merlin")]
    Why {
        /// Name of the agent or service.
        agent: String,
    },
    /// Show what an agent printed.
    #[command(after_help = "Example:\n  abbey logs merlin --follow")]
    Logs(logs::LogsArgs),
    /// Run a command in the cell of a running agent or service, as its user.
    ///
    /// Typed by a person on a terminal, the command gets a terminal too, as with `-it`: Ctrl-] detaches and leaves the
    /// command running. Otherwise the command ends when `abbey exec` does.
    #[command(
        after_help = "Examples:\n  abbey exec merlin -- bash\n  abbey exec service/web -- ls -l\n  abbey exec -i merlin -- tar -x"
    )]
    Exec(exec::ExecArgs),
    /// Copy files into the cell of a running agent or service, or out of it.
    ///
    /// Directories are copied whole. In the cell the files belong to its user; out of a cell come only links that lead to a path of the directory that is copied.
    #[command(
        after_help = "Examples:\n  abbey cp data.csv merlin:data.csv\n  abbey cp merlin:reports .\n  abbey cp site service/web:"
    )]
    Cp(cp::CpArgs),
    /// Attach to the terminal of an agent, or of a service as `service/NAME`.
    ///
    /// Ctrl-] detaches; the program keeps running.
    #[command(after_help = "Example:\n  abbey attach service/web")]
    Attach {
        /// Name of the agent, or `service/NAME`.
        agent: String,
    },
    /// Run one command in a fresh cell, which is removed afterwards.
    #[command(
        after_help = "Example:\n  abbey run --memory 512MiB --timeout 60s --in data.csv -- python3 -c \"print(len(open('data.csv').read()))\""
    )]
    Run(run::RunArgs),
    /// Add, remove, move, clone, restore or show agents.
    #[command(
        subcommand,
        after_help = "Example:\n  abbey agent new merlin --template sysadmin"
    )]
    Agent(agent::AgentCommand),
    /// List or show the stock templates for agents.
    #[command(subcommand, after_help = "Example:\n  abbey template list")]
    Template(template::TemplateCommand),
    /// Add, list, show, explain, cancel, retry, unblock, export or import tasks.
    #[command(
        subcommand,
        after_help = "Example:\n  abbey task add \"show system stats\" --wait"
    )]
    Task(task::TaskCommand),
    /// Give a task to an agent by name, and name the fields that its result must have.
    #[command(
        after_help = "Example:\n  abbey delegate merlin \"Compare the two offers.\" --expect winner --deadline 600 --wait"
    )]
    Delegate(delegate::DelegateArgs),
    /// Show the org chart: reporting lines, delegation rights, single points of failure.
    #[command(after_help = "Example:\n  abbey org --svg")]
    Org {
        /// Print the chart as SVG.
        #[arg(long)]
        svg: bool,
    },
    /// Show a report: what was observed, what it means, what to do about it.
    #[command(
        after_help = "Examples:\n  abbey report\n  abbey report tokens\n  abbey report who spent most today"
    )]
    Report {
        /// Name of the report, or a question in words; without it, all reports are listed.
        #[arg(value_name = "REPORT")]
        asked: Vec<String>,
        /// Language of the report's text, like `sl-SI` [default: the language of the house].
        #[arg(long)]
        locale: Option<String>,
    },
    /// Export an agent into a directory.
    ///
    /// The bundle holds its manifest entry, charter and identity files, without credentials.
    #[command(after_help = "Example:\n  abbey export merlin merlin-bundle")]
    Export(export::ExportArgs),
    /// Import agents from another installation, with a report of what is left out.
    #[command(after_help = "Example:\n  abbey import openclaw ~/.openclaw --dry-run")]
    Import(import::ImportArgs),
    /// List approval requests that wait for a decision, or decide one.
    #[command(
        after_help = "Examples:\n  abbey approvals\n  abbey approvals approve APPR-7 --note \"after 18:00\""
    )]
    Approvals {
        /// Also list requests that were decided.
        #[arg(long)]
        all: bool,
        #[command(subcommand)]
        command: Option<approvals::ApprovalCommand>,
    },
    /// List, show, fire, add or remove schedules; they are part of the manifest.
    #[command(subcommand, after_help = "Example:\n  abbey schedule list")]
    Schedule(schedule::ScheduleCommand),
    /// Check, run, list, show or cancel workflows; they are part of the manifest.
    #[command(subcommand, after_help = "Example:\n  abbey workflow check")]
    Workflow(workflow::WorkflowCommand),
    /// List, show or write shared documents; they are declared in the manifest.
    #[command(subcommand, after_help = "Example:\n  abbey document show plan")]
    Document(document::DocumentCommand),
    /// Show and change budgets: limits, spending and reservations.
    #[command(subcommand, after_help = "Example:\n  abbey budget show")]
    Budget(budget::BudgetCommand),
    /// List the model providers, or call one again that failed.
    #[command(subcommand, after_help = "Example:\n  abbey provider list")]
    Provider(provider::ProviderCommand),
    /// List, search, explain, show, check or run skills.
    #[command(
        subcommand,
        after_help = "Example:\n  abbey skill search \"disk usage\""
    )]
    Skill(skill::SkillCommand),
    /// Show, verify or export the audit log.
    #[command(after_help = "Examples:\n  abbey activity --follow\n  abbey activity verify")]
    Activity(activity::ActivityArgs),
    /// Store, list or remove secrets, which the manifest names as `credential:NAME`.
    #[command(subcommand, after_help = "Example:\n  abbey secret set openai")]
    Secret(secret::SecretCommand),
    /// Create, list or revoke tokens of the operator API, for people and programs.
    #[command(
        subcommand,
        after_help = "Example:\n  abbey token new prometheus --scope metrics"
    )]
    Token(token::TokenCommand),
    /// Build, import, list, verify or remove images that microVMs boot from.
    #[command(subcommand, after_help = "Example:\n  abbey image build")]
    Image(image::ImageCommand),
    /// Print, install and control the files for the host's service manager.
    #[command(subcommand, after_help = "Example:\n  abbey unit install")]
    Unit(unit::UnitCommand),
    /// Check the house, its host, and by probes the isolation between agents.
    #[command(after_help = "Example:\n  abbey doctor --fix")]
    Doctor {
        /// First fix what can be fixed without losing data.
        #[arg(long)]
        fix: bool,
    },
    /// List services, show their logs or restart them.
    #[command(subcommand, after_help = "Example:\n  abbey service logs web --follow")]
    Service(service::ServiceCommand),
    /// Write the house into one archive while it is running, or verify one.
    ///
    /// It holds the state, the manifest with its charters, skills, the files of agents, and the signed heads of the audit
    /// log. What it does not hold is printed.
    #[command(
        after_help = "Examples:\n  abbey backup house.tar\n  abbey backup --with-services --passphrase-file key.txt house.tar\n  abbey backup verify house.tar"
    )]
    Backup(backup::BackupArgs),
    /// Restore a backup into a home that has no state yet.
    #[command(after_help = "Example:\n  abbey --home /srv/abbey restore house.tar")]
    Restore(backup::RestoreArgs),
    /// Print the completion script of a shell, which knows the names that the house has.
    ///
    /// The script belongs into the start-up file of the shell, like `source <(abbey completions bash)` into `~/.bashrc`.
    #[command(after_help = "Example:\n  abbey completions bash")]
    Completions {
        /// Shell that reads the script.
        shell: clap_complete::Shell,
    },
    /// Print the manual page of `abbey`, or of one command.
    #[command(after_help = "Examples:\n  abbey man\n  abbey man task add\n  abbey man --markdown")]
    Man {
        /// Command, like `task add`.
        #[arg(conflicts_with = "markdown")]
        words: Vec<String>,
        /// Print the reference of every command as Markdown instead.
        #[arg(long)]
        markdown: bool,
    },
}

impl Command {
    /// Whether the verb passes signals on to a program in a cell, instead of ending at once.
    pub(crate) fn passes_signals_on(&self) -> bool {
        matches!(self, Command::Exec(_) | Command::Cp(_))
    }

    /// Whether the verb itself reports a control plane that does not answer.
    pub(crate) fn reports_house(&self) -> bool {
        matches!(self, Command::Doctor { .. })
    }

    /// Whether the exit code is that of a program in a cell, so that a failure of Abbey itself has one of its own.
    pub(crate) fn ends_as_program(&self) -> bool {
        matches!(self, Command::Exec(_) | Command::Run(_))
    }
}

impl Cli {
    /// Runs the verb that was parsed from the command line. Returns the exit code, or the failure to print.
    pub(crate) async fn execute(self) -> Outcome {
        use Command as C;
        let home = &connect::resolve_home(self.home.as_deref());
        let json = self.json;
        match self.command {
            C::Init(args) => init::cmd_init(home, json, &args),
            C::Up(args) => up::cmd_up(home, json, &args).await,
            C::Plan(args) => plan::cmd_plan(home, json, &args).await,
            C::Down => down::cmd_down(home, json).await,
            C::Ps(args) => ps::cmd_ps(home, json, &args).await,
            C::Start(args) => agent_state::cmd_set_agent_state(home, json, "start", &args).await,
            C::Stop(args) => agent_state::cmd_set_agent_state(home, json, "stop", &args).await,
            C::Restart(args) => {
                agent_state::cmd_set_agent_state(home, json, "restart", &args).await
            }
            C::Pause(args) => agent_state::cmd_set_agent_state(home, json, "pause", &args).await,
            C::Resume(args) => agent_state::cmd_set_agent_state(home, json, "resume", &args).await,
            C::Reload(args) => reload::cmd_reload(home, json, &args).await,
            C::Why { agent } => why::cmd_why(home, json, &agent).await,
            C::Logs(args) => logs::cmd_logs(home, json, &args).await,
            C::Exec(args) => exec::cmd_exec(home, json, args).await,
            C::Cp(args) => cp::cmd_cp(home, json, &args).await,
            C::Attach { agent } => attach::cmd_attach(home, &agent).await,
            C::Run(args) => run::cmd_run(home, json, args).await,
            C::Agent(command) => agent::cmd_agent(home, json, command).await,
            C::Import(args) => import::cmd_import(home, json, &args).await,
            C::Export(args) => export::cmd_export(home, json, &args).await,
            C::Template(command) => template::cmd_template(home, json, command).await,
            C::Delegate(args) => delegate::cmd_delegate(home, json, args).await,
            C::Org { svg } => org::cmd_org(home, json, svg).await,
            C::Report { asked, locale } => {
                report::cmd_report(home, json, &asked, locale.as_deref()).await
            }
            C::Approvals { all, command } => {
                approvals::cmd_approvals(home, json, all, command).await
            }
            C::Schedule(command) => schedule::cmd_schedule(home, json, command).await,
            C::Workflow(command) => workflow::cmd_workflow(home, json, command).await,
            C::Document(command) => document::cmd_document(home, json, command).await,
            C::Task(command) => task::cmd_task(home, json, command).await,
            C::Budget(command) => budget::cmd_budget(home, json, command).await,
            C::Provider(command) => provider::cmd_provider(home, json, command).await,
            C::Skill(command) => skill::cmd_skill(home, json, command).await,
            C::Activity(args) => activity::cmd_activity(home, json, args).await,
            C::Secret(command) => secret::cmd_secret(home, json, command).await,
            C::Token(command) => token::cmd_token(home, json, command).await,
            C::Image(command) => image::cmd_image(home, json, command).await,
            C::Unit(command) => unit::cmd_unit(home, json, command).await,
            C::Doctor { fix } => doctor::cmd_doctor(home, json, fix).await,
            C::Service(command) => service::cmd_service(home, json, command).await,
            C::Backup(args) => backup::cmd_backup(home, json, &args).await,
            C::Restore(args) => backup::cmd_restore(home, json, args).await,
            C::Completions { shell } => {
                let script = completions::script(&shell.to_string()).unwrap_or_default();
                output::print_line(script.trim_end());
                Ok(exit::OK)
            }
            C::Man { markdown, words } => {
                let text = match markdown {
                    true => manual::render_markdown(help::build_command(help::WIDTH)),
                    false => manual::render_man_page(help::build_command(help::WIDTH), &words)?,
                };
                output::print_line(text.trim_end());
                Ok(exit::OK)
            }
        }
    }
}

/// Verbs that belong to the command line and have no mechanism yet.
const NOT_BUILT: &[(&str, &str)] = &[("policy", ""), ("tui", "")];

/// Verbs that people look for in another place than where they are, and where that is.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    (
        "agent",
        "disable",
        "`abbey stop` stops an agent until `abbey start`, and `abbey agent rm` removes it",
    ),
    (
        "agent",
        "enable",
        "`abbey start` starts an agent that was stopped",
    ),
];

/// Error message if the arguments name a verb that is reserved but not implemented in this version, or is elsewhere; none
/// for all others.
pub(crate) fn unbuilt_verb_message(args: &[OsString]) -> Option<String> {
    let words: Vec<&str> = args
        .iter()
        .skip(1)
        .filter_map(|a| a.to_str())
        .filter(|a| !a.starts_with('-'))
        .collect();
    let first = words.first()?;
    let second = words.get(1).copied().unwrap_or_default();
    let elsewhere = ELSEWHERE
        .iter()
        .find(|(v, s, _)| v == first && *s == second);
    if let Some((verb, sub, place)) = elsewhere {
        return Some(format!("`abbey {verb} {sub}` does not exist: {place}"));
    }
    let (verb, sub) = NOT_BUILT
        .iter()
        .find(|(v, s)| v == first && (s.is_empty() || *s == second))?;
    let name = format!("{verb} {sub}");
    Some(format!(
        "`abbey {}` is not built yet in this version",
        name.trim()
    ))
}
