//! Verbs and options of `abbey-agent`.

use crate::durations::{parse_duration, parse_positive_duration};
use crate::help::STYLES;
use clap::{Args, Parser, Subcommand};
use std::time::Duration;

const ABOUT: &str =
    "Acts as the agent of this cell: takes tasks, delegates, asks, notes and remembers.";

const AFTER: &str = "\
Examples:
  abbey-agent delegate merlin \"Compare the two offers.\" --wait
  abbey-agent note \"The disk of the archive is nearly full.\"
  abbey-agent next --wait 60s -- ./work.sh

Rights are those of the agent in the manifest. The address of the house and the credential come from the cell.";

/// Arguments of `abbey-agent`.
#[derive(Debug, Parser)]
#[command(name = "abbey-agent", version, about = ABOUT, after_help = AFTER, styles = STYLES)]
pub(super) struct AgentCli {
    /// Print one JSON document; an error as a document on standard error.
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// Verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show the task that is offered next, or do it with a program.
    #[command(
        after_help = "With a program, the task is claimed and its lease kept. The offer, as JSON, is the program's standard input;\nwhat it prints is the result, and another exit code than 0 fails the run.\n\nExamples:\n  abbey-agent next\n  abbey-agent next --wait 60s -- ./work.sh"
    )]
    Next(NextArgs),
    /// Claim an offered task.
    ///
    /// The lease expires unless it is renewed; it is kept in `~/.abbey/leases` for later commands.
    #[command(after_help = "Example:\n  abbey-agent claim TASK-12")]
    Claim {
        /// Number of the task.
        task: String,
    },
    /// Renew the lease on a claimed task.
    #[command(after_help = "Example:\n  abbey-agent renew TASK-12")]
    Renew {
        /// Number of the task [default: the one that is being worked on].
        task: Option<String>,
    },
    /// Complete a claimed task with its result.
    #[command(
        after_help = "Examples:\n  abbey-agent done \"The gate is painted.\"\n  ./report.sh | abbey-agent done - --task TASK-12 --data '{\"colours\": 2}'"
    )]
    Done(DoneArgs),
    /// Report that a claimed task could not be done.
    #[command(after_help = "Example:\n  abbey-agent fail \"The gate is locked.\"")]
    Fail {
        /// What failed, and why; `-` reads it from standard input.
        reason: String,
        /// Number of the task [default: the one that is being worked on].
        #[arg(long)]
        task: Option<String>,
    },
    /// Give a task to another agent.
    #[command(
        after_help = "Examples:\n  abbey-agent delegate merlin \"Compare the two offers.\" --wait\n  abbey-agent delegate merlin \"Watch the gate.\" --deliver me"
    )]
    Delegate(DelegateArgs),
    /// Ask another agent a question.
    #[command(after_help = "Example:\n  abbey-agent ask merlin \"Which offer is cheaper?\" --wait")]
    Ask(AskArgs),
    /// Cancel a task that this agent gave to another one.
    #[command(after_help = "Example:\n  abbey-agent cancel TASK-13")]
    Cancel {
        /// Number of the task.
        task: String,
    },
    /// Write a note to the audit log of the house.
    #[command(
        after_help = "Example:\n  abbey-agent note \"The disk of the archive is nearly full.\""
    )]
    Note {
        /// Text of the note; `-` reads it from standard input.
        text: String,
    },
    /// Search, list, read and save notes of the agent's memory.
    #[command(
        subcommand,
        after_help = "Examples:\n  abbey-agent memory search \"gate colour\"\n  abbey-agent memory save gate \"The gate is green since May.\""
    )]
    Memory(MemoryVerb),
    /// List and read skills that the agent may use, and run their programs.
    #[command(
        subcommand,
        after_help = "Examples:\n  abbey-agent skills list\n  abbey-agent skills read pdf-tools\n  abbey-agent skills run pdf-tools scripts/convert.py in.pdf"
    )]
    Skills(SkillsVerb),
    /// List, request and use approvals of a person.
    #[command(
        subcommand,
        after_help = "Examples:\n  abbey-agent approvals list\n  abbey-agent approvals request publish --args '{\"page\": \"news\"}' --why \"The news are ready.\""
    )]
    Approvals(ApprovalsVerb),
    /// Show who the agent is, and its colleagues.
    #[command(name = "self", after_help = "Example:\n  abbey-agent self")]
    Own,
    /// Show the agent's tasks and budgets, or a task that it gave to another agent.
    #[command(
        after_help = "Examples:\n  abbey-agent status\n  abbey-agent status TASK-13 --wait 60s"
    )]
    Status {
        /// Number of a task that this agent delegated, or of a question that it asked.
        task: Option<String>,
        /// Longest wait for the end of that task; then the exit code is 124.
        #[arg(long, value_name = "TIME", requires = "task", value_parser = parse_duration)]
        wait: Option<Duration>,
    },
}

#[derive(Debug, Args)]
pub(super) struct NextArgs {
    /// Longest wait for an offer; then the exit code is 124. Without it, 3 when there is none now.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) wait: Option<Duration>,
    /// Program that does the task, and its arguments.
    #[arg(last = true, value_name = "PROGRAM")]
    pub(super) program: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct DoneArgs {
    /// Result in words; `-` reads it from standard input.
    pub(super) result: String,
    /// Number of the task [default: the one that is being worked on].
    #[arg(long)]
    pub(super) task: Option<String>,
    /// Result as data: a JSON object with the fields that the task's author expects.
    #[arg(long, value_name = "JSON")]
    pub(super) data: Option<String>,
}

/// Where a delegated task belongs, and whether its end is waited for.
#[derive(Debug, Args)]
pub(super) struct GivenArgs {
    /// Wait until it has ended; the exit code gives the outcome.
    #[arg(long)]
    pub(super) wait: bool,
    /// Longest wait; then the exit code is 124.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_positive_duration)]
    pub(super) timeout: Duration,
    /// Task that it is part of [default: the one that this program is run for, or none].
    #[arg(long)]
    pub(super) task: Option<String>,
    /// Part of no task: on the agent's own initiative.
    #[arg(long, conflicts_with = "task")]
    pub(super) own_initiative: bool,
    /// Recipient of the result: `me`, or `agent:NAME`; without it the result is kept for `abbey-agent status`.
    #[arg(long, value_name = "RECIPIENT")]
    pub(super) deliver: Option<String>,
    /// Time after which it times out, with its subtasks.
    #[arg(long, value_name = "TIME", value_parser = parse_positive_duration)]
    pub(super) deadline: Option<Duration>,
    /// A second request with the same key returns the first task instead of adding another.
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct DelegateArgs {
    /// Agent that gets the task.
    pub(super) agent: String,
    /// Text of the task; `-` reads it from standard input.
    pub(super) text: String,
    /// Field that the result must have; may be given several times.
    #[arg(long = "expect", value_name = "FIELD")]
    pub(super) expects: Vec<String>,
    /// Limit on tokens over all runs, including those of subtasks.
    #[arg(long)]
    pub(super) tokens: Option<u64>,
    #[command(flatten)]
    pub(super) given: GivenArgs,
}

#[derive(Debug, Args)]
pub(super) struct AskArgs {
    /// Agent that is asked.
    pub(super) agent: String,
    /// The question; `-` reads it from standard input.
    pub(super) question: String,
    #[command(flatten)]
    pub(super) given: GivenArgs,
}

/// Verbs of the agent's memory.
#[derive(Debug, Subcommand)]
pub(super) enum MemoryVerb {
    /// Show the index of the notes.
    List,
    /// Show lines of notes that have all of these words.
    Search {
        /// Words.
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Show a note.
    Read {
        /// Name of the note.
        name: String,
    },
    /// Write a note; an earlier one of the same name is replaced.
    Save {
        /// Name of the note: lower-case letters, digits, hyphens.
        name: String,
        /// Text of the note; `-` reads it from standard input.
        text: String,
    },
}

/// Verbs of skills.
#[derive(Debug, Subcommand)]
pub(super) enum SkillsVerb {
    /// List the skills that the agent may use.
    List {
        /// Only those that match these words.
        #[arg(long, value_name = "WORDS")]
        search: Option<String>,
    },
    /// Show the instructions of a skill, or one of its files.
    Read {
        /// Name of the skill.
        name: String,
        /// Path of a file, relative to the skill.
        file: Option<String>,
    },
    /// Run a program that is a file of a skill; its exit code is that of the command.
    Run {
        /// Name of the skill.
        name: String,
        /// Path of the program, relative to the skill.
        file: String,
        /// Arguments of the program.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Verbs of approvals.
#[derive(Debug, Subcommand)]
pub(super) enum ApprovalsVerb {
    /// List the approvals that this agent requested and that wait for a decision.
    List {
        /// All of them.
        #[arg(long)]
        all: bool,
    },
    /// Request a person's approval of an action; the run ends, and a later run continues after the decision.
    Request {
        /// Name of the action.
        action: String,
        /// Exact arguments of the action: a JSON object.
        #[arg(long, value_name = "JSON", default_value = "{}")]
        args: String,
        /// Why the action is needed.
        #[arg(long, default_value = "")]
        why: String,
        /// Time to decide; a day when not given. Silence is a denial.
        #[arg(long, value_name = "TIME", value_parser = parse_positive_duration)]
        within: Option<Duration>,
        /// Number of the task [default: the one that is being worked on].
        #[arg(long)]
        task: Option<String>,
    },
    /// Use an approval, immediately before the action is carried out.
    Use {
        /// Number of the approval, as APPR-7.
        approval: String,
        /// Name of the action.
        action: String,
        /// Exact arguments of the action: a JSON object.
        #[arg(long, value_name = "JSON", default_value = "{}")]
        args: String,
        /// Number of the task [default: the one that is being worked on].
        #[arg(long)]
        task: Option<String>,
    },
}
