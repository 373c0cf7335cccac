//! The command line.

use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Houses many AI agents on one machine: each in its own cell, all under one control plane.
#[derive(Debug, Parser)]
#[command(name = "abbey", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// State directory; default /var/lib/abbey for root, ~/.local/state/abbey otherwise.
    #[arg(long, global = true, env = "ABBEY_HOME", value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Print one JSON document (JSON Lines for streams).
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a manifest to start from.
    Init(InitArgs),
    /// Start the control plane if none runs, and apply the manifest.
    Up(UpArgs),
    /// Show what applying the manifest would change.
    Plan(PlanArgs),
    /// Stop every agent, every service and the control plane.
    Down,
    /// List the agents.
    Ps,
    /// Start agents.
    Start(AgentsArgs),
    /// Stop agents; they stay stopped.
    Stop(AgentsArgs),
    /// Boot agents anew.
    Restart(AgentsArgs),
    /// Bring a changed manifest to running agents, without a new boot where none is needed, and wait
    /// until each works under it.
    Reload(ReloadArgs),
    /// Hold agents where they are, without ending them.
    Pause(AgentsArgs),
    /// Let paused agents go on.
    Resume(AgentsArgs),
    /// Explain the state of an agent.
    Why { agent: String },
    /// Show the log of an agent.
    Logs(LogsArgs),
    /// Run a command in the cell of an agent.
    Exec {
        agent: String,
        /// Program and arguments, after `--`.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Look on and type at the terminal of an agent, or of a service as `service/NAME`; Ctrl-] leaves
    /// it as it is.
    Attach {
        /// Whose.
        agent: String,
    },
    /// Run one command in a fresh cell, which goes with it.
    Run(RunArgs),
    /// Add, remove or show agents.
    #[command(subcommand)]
    Agent(AgentCommand),
    /// List or show the stock templates.
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Give work and look at it.
    #[command(subcommand)]
    Task(TaskCommand),
    /// Give work to an agent by name, before other work, and say what is wanted back.
    Delegate(DelegateArgs),
    /// Show the org chart: who is above whom, who may give work to whom, and what follows.
    Org {
        /// Draw it instead, as SVG.
        #[arg(long)]
        svg: bool,
    },
    /// Show a report: what was observed, what it means, what one might do.
    Report {
        /// Which, by name or by a question in words; all are listed when not given.
        asked: Vec<String>,
        /// Language of its texts, as `sl-SI`; the house's own when not given.
        #[arg(long)]
        locale: Option<String>,
    },
    /// Write what makes an agent who it is into a directory, without credentials.
    Export(crate::lives::ExportArgs),
    /// Bring agents in from another installation, and tell what could not be carried over.
    Import(crate::imports::ImportArgs),
    /// Show what waits for a yes, and answer.
    Approvals {
        /// Also those that were answered.
        #[arg(long)]
        all: bool,
        #[command(subcommand)]
        command: Option<ApprovalCommand>,
    },
    /// List and fire schedules; they are written in the manifest, with their agents.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Check, run and look at workflows; they are written in the manifest.
    #[command(subcommand)]
    Workflow(crate::workflows::WorkflowCommand),
    /// List, show and write shared documents; they are declared in the manifest.
    #[command(subcommand)]
    Document(crate::documents::DocumentCommand),
    /// Show budgets.
    #[command(subcommand)]
    Budget(BudgetCommand),
    /// List, search, show, check or run skills.
    #[command(subcommand)]
    Skill(SkillCommand),
    /// Show, verify or export the activity chain.
    Activity(ActivityArgs),
    /// Build, bring, check and remove what microVMs boot from.
    #[command(subcommand)]
    Image(crate::image::ImageCommand),
    /// Print or install files for the host's service manager, and use it.
    #[command(subcommand)]
    Unit(crate::units::UnitCommand),
    /// Check the house: its state, its host, and by trying, whether agents are apart.
    Doctor {
        /// Mend what can be mended without losing anything first.
        #[arg(long)]
        fix: bool,
    },
    /// List services or show their logs.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Write the state and the agents' files into one archive, while the house runs.
    Backup { file: PathBuf },
    /// Restore an archive into a home without state.
    Restore { file: PathBuf },
    /// Print completions for a shell.
    Completions { shell: clap_complete::Shell },
    /// Print the manual page.
    Man,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Where to write it.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Start from this example.
    #[arg(long, value_name = "NAME")]
    pub(crate) example: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// The manifest.
    #[arg(short, long, default_value = "abbey.yaml")]
    pub(crate) file: PathBuf,
    /// Do not wait until the agents are up.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The manifest.
    #[arg(short, long, default_value = "abbey.yaml")]
    pub(crate) file: PathBuf,
    /// Print the manifest's JSON Schema instead, for editors.
    #[arg(long)]
    pub(crate) schema: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalCommand {
    /// Yes, for exactly what it says, once.
    Approve(DecideArgs),
    /// No; the task has failed.
    Deny(DecideArgs),
    /// It is to be asked for differently; the note says how.
    Revise(DecideArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DecideArgs {
    /// APPR-7.
    pub(crate) approval: String,
    /// For the one who asked.
    #[arg(long)]
    pub(crate) note: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// List every schedule.
    List,
    /// Show one with what it did.
    Show {
        /// AGENT/NAME.
        schedule: String,
    },
    /// Fire one now, beside its own instants.
    Run {
        /// AGENT/NAME.
        schedule: String,
    },
    /// Add one to the manifest, with its agent, and apply that.
    Add(Box<ScheduleAddArgs>),
    /// Take one out of the manifest, and apply that.
    Rm {
        /// AGENT/NAME.
        schedule: String,
        /// The manifest.
        #[arg(short, long, default_value = "abbey.yaml")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("when").required(true))]
#[command(group = clap::ArgGroup::new("does").required(true))]
pub(crate) struct ScheduleAddArgs {
    /// AGENT/NAME.
    pub(crate) schedule: String,
    /// Minute, hour, day, month, weekday.
    #[arg(long, group = "when")]
    pub(crate) cron: Option<String>,
    /// Distance between two, like `30m`.
    #[arg(long, group = "when")]
    pub(crate) every: Option<String>,
    /// One instant, like `2026-12-01T10:00:00Z`.
    #[arg(long, group = "when")]
    pub(crate) at: Option<String>,
    /// What is to be done.
    #[arg(long, group = "does")]
    pub(crate) task: Option<String>,
    /// The skill that runs.
    #[arg(long, group = "does")]
    pub(crate) skill: Option<String>,
    /// The workflow that starts.
    #[arg(long, group = "does")]
    pub(crate) workflow: Option<String>,
    /// Arguments of the skill or input of the workflow, `KEY=VALUE`; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) with: Vec<String>,
    /// Zone of the pattern.
    #[arg(long)]
    pub(crate) timezone: Option<String>,
    /// Most that it is moved back.
    #[arg(long)]
    pub(crate) jitter: Option<String>,
    /// `skip`, `queue` or `replace`.
    #[arg(long)]
    pub(crate) overlap: Option<String>,
    /// `skip`, `once` or a number.
    #[arg(long)]
    pub(crate) catch_up: Option<String>,
    /// Time for one of them.
    #[arg(long)]
    pub(crate) timeout: Option<String>,
    /// The manifest.
    #[arg(short, long, default_value = "abbey.yaml")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DelegateArgs {
    /// To whom.
    pub(crate) agent: String,
    /// What is to be done.
    pub(crate) text: String,
    /// Wait until it is over; the exit status tells how.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Seconds to wait.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub(crate) timeout: u64,
    /// Who is told of the result: `agent:NAME`.
    #[arg(long, value_name = "RECIPIENT")]
    pub(crate) deliver: Option<String>,
    /// Tell nobody; the result stays with the task (the default).
    #[arg(long, conflicts_with = "deliver")]
    pub(crate) no_deliver: bool,
    /// A field that the result must have; may be given several times.
    #[arg(long = "expect", value_name = "FIELD")]
    pub(crate) expects: Vec<String>,
    /// Seconds for all of it, after which it has timed out.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) deadline: Option<i64>,
    /// Most tokens over all runs, those of pieces that are given on included.
    #[arg(long)]
    pub(crate) tokens: Option<u64>,
    /// The same key gives the same work.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AgentsArgs {
    /// Agents by name.
    #[arg(required_unless_present = "all")]
    pub(crate) agents: Vec<String>,
    /// All of them.
    #[arg(long, conflicts_with = "agents")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    pub(crate) agent: String,
    /// Go on with new lines.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Lines to begin with.
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(crate) lines: usize,
}

#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    /// Agents by name.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) agents: Vec<String>,
    /// All of them.
    #[arg(long)]
    pub(crate) all: bool,
    /// Give them this model, `PROVIDER/MODEL`, in the manifest first.
    #[arg(long, conflicts_with = "rollback")]
    pub(crate) model: Option<String>,
    /// Give them the model that they had before this one.
    #[arg(long)]
    pub(crate) rollback: bool,
    /// Why, for the activity chain.
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// The manifest.
    #[arg(short, long, default_value = "abbey.yaml")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Kind of cell: `sandbox`, `microvm` or `process`.
    #[arg(long, default_value = "sandbox")]
    pub(crate) cell: String,
    /// What a microVM boots from; default `base`.
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// Most memory, like `512MiB`.
    #[arg(long)]
    pub(crate) memory: Option<String>,
    /// Most CPU time, in CPUs.
    #[arg(long)]
    pub(crate) cpus: Option<f64>,
    /// Most processes.
    #[arg(long)]
    pub(crate) processes: Option<u32>,
    /// Longest time, like `60s`; then the status is 124.
    #[arg(long)]
    pub(crate) timeout: Option<String>,
    /// What it may reach outside: `none` (the default), `full`, or a destination like
    /// `api.example.org:443`, once or several times.
    #[arg(long)]
    pub(crate) egress: Vec<String>,
    /// System calls: `strict`, `jit` (the default) or `nested`.
    #[arg(long)]
    pub(crate) profile: Option<String>,
    /// A layer that may be missing on this host.
    #[arg(long)]
    pub(crate) waive: Vec<String>,
    /// A file or directory to bring along; it is in the working directory under its own name.
    #[arg(long = "in", value_name = "PATH")]
    pub(crate) bring: Vec<PathBuf>,
    /// A file or directory of the working directory to take along at the end, to the same name
    /// here.
    #[arg(long = "out", value_name = "NAME")]
    pub(crate) take: Vec<String>,
    /// Program and arguments, after `--`.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Add an agent to the manifest and bring it up.
    New(AgentNewArgs),
    /// Take an agent out of the manifest when its work is over; its files are kept aside.
    Rm(crate::lives::RmArgs),
    /// Make an agent like another, without its credentials, logins, channels and schedules.
    Clone(crate::lives::CloneArgs),
    /// Bring an agent back that went, with its entry and its files.
    Restore(crate::lives::RestoreArgs),
    /// Show an agent.
    Show {
        agent: String,
        /// Every value with its origin.
        #[arg(long)]
        effective: bool,
    },
    /// Put an agent below another one in the manifest, and apply that.
    Move(AgentMoveArgs),
    /// Give an agent a new credential; the old one ends after a minute.
    Rotate { agent: String },
}

#[derive(Debug, Args)]
pub(crate) struct AgentNewArgs {
    pub(crate) agent: String,
    /// Stock template.
    #[arg(long, value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// The agent above it.
    #[arg(long, value_name = "AGENT")]
    pub(crate) reports_to: Option<String>,
    /// The manifest.
    #[arg(short, long, default_value = "abbey.yaml")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct AgentMoveArgs {
    pub(crate) agent: String,
    /// The agent above it from now on; `operator` for the top.
    #[arg(long, value_name = "AGENT")]
    pub(crate) to: String,
    /// The manifest.
    #[arg(short, long, default_value = "abbey.yaml")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// List the templates.
    List,
    /// Show a template with its charter.
    Show { name: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Add a task.
    Add(TaskAddArgs),
    /// List tasks, newest first.
    List {
        /// Only in these states, by comma.
        #[arg(long)]
        state: Option<String>,
        /// Only of this agent.
        #[arg(long)]
        agent: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show a task with its runs, or with everything that hangs on it.
    Show {
        task: String,
        /// The tree of what was given on.
        #[arg(long)]
        tree: bool,
    },
    /// Explain why a task waits or how it ended.
    Why { task: String },
    /// Call a task off.
    Cancel { task: String },
    /// Start a finished task again.
    Retry { task: String },
    /// Print every task as JSON Lines, oldest first; or the work queue as Markdown.
    Export {
        /// As the work queue that people edit.
        #[arg(long)]
        markdown: bool,
    },
    /// Add the tasks of a file of JSON Lines (`text`, and `to`, `priority`, `tokens` if wanted);
    /// the same file twice adds them once. Of a `.md`, do what the edited work queue wants.
    Import { file: PathBuf },
    /// Bring a work queue in Markdown and the house to the same: what people wrote becomes work, what happened
    /// becomes text.
    Sync {
        /// The work queue; made if it is not there.
        #[arg(default_value = "WORK-QUEUE.md")]
        file: PathBuf,
        /// Again whenever one of them changes, until it is ended.
        #[arg(long)]
        watch: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TaskAddArgs {
    /// What is to be done.
    pub(crate) text: String,
    /// Who is to do it; matched when not given.
    #[arg(long, value_name = "AGENT")]
    pub(crate) to: Option<String>,
    /// P0 (urgent) to P3 (low).
    #[arg(long)]
    pub(crate) priority: Option<String>,
    /// Most tokens over all runs.
    #[arg(long)]
    pub(crate) tokens: Option<u64>,
    /// What must hold before it counts as done: `file:PATH` in the agent's workspace, `command:["PROGRAM",…]`
    /// there, or `review:AGENT`, who says yes; may be given several times.
    #[arg(long, value_name = "WHAT")]
    pub(crate) evidence: Vec<abbey_api::EvidenceView>,
    /// The same key adds one task only.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Wait for the end; the exit status tells it.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up waiting after this many seconds.
    #[arg(long, default_value_t = 900)]
    pub(crate) timeout: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BudgetCommand {
    /// Show the budgets of the house and its agents.
    Show,
    /// Show all of them, with those of tasks and runs.
    Report,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SkillCommand {
    /// List the skills.
    List,
    /// Find skills for a text.
    Search { query: String },
    /// Show a skill.
    Show { name: String },
    /// Check a skill's directory.
    Check { dir: PathBuf },
    /// Run a skill as a task and wait for its result.
    Run {
        name: String,
        /// Arguments, `KEY=VALUE`.
        args: Vec<String>,
        /// Who runs it; the owner with the lowest load when not given.
        #[arg(long, value_name = "AGENT")]
        to: Option<String>,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ActivityArgs {
    /// Go on with new entries.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Entries to begin with.
    #[arg(short = 'n', long, default_value_t = 50)]
    pub(crate) last: u64,
    #[command(subcommand)]
    pub(crate) command: Option<ActivityCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ActivityCommand {
    /// Check every hash and signature of the chain.
    Verify,
    /// Print the whole chain as JSON Lines.
    Export,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List the services.
    List,
    /// Show the log of a service.
    Logs(LogsArgs),
    /// Boot a service anew.
    Restart { service: String },
}

/// Verbs that belong to the command line and have no mechanism yet.
const NOT_BUILT: &[(&str, &str)] = &[
    ("agent", "rename"),
    ("budget", "set"),
    ("budget", "reset"),
    ("policy", ""),
    ("tui", ""),
];

/// The refusal of a verb that is not built yet, by its name.
pub(crate) fn not_built(args: &[OsString]) -> Option<String> {
    let words: Vec<&str> = args
        .iter()
        .skip(1)
        .filter_map(|a| a.to_str())
        .filter(|a| !a.starts_with('-'))
        .collect();
    let first = words.first()?;
    let second = words.get(1).copied().unwrap_or_default();
    let (verb, sub) = NOT_BUILT
        .iter()
        .find(|(v, s)| v == first && (s.is_empty() || *s == second))?;
    let name = format!("{verb} {sub}");
    Some(format!(
        "`abbey {}` is not built yet in this version",
        name.trim()
    ))
}
