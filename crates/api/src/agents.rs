//! Agents: how they are, what they are, and what the operator does with them.

use crate::cells::{ExecBody, LogDoc, LogQuery, TerminalQuery};
use crate::macros::{documents, operations, queries, requests};
use crate::tasks::Reason;
use crate::time::Time;
use abbey_model::words;
use abbey_model::{Presence, ProviderFailure};
use serde_json::Value;
use std::collections::BTreeMap;

words! {
    /// What the operator wants of a cell.
    DesiredWord {
        /// Down, and nothing left of it.
        Down = "down",
        /// Up.
        Up = "up",
        /// As it is, with its processes suspended.
        Paused = "paused",
    }
}

documents! {
    /// Agents of the house.
    FleetDoc {
        /// Always 1.
        version: u32,
        /// Name of the house.
        house: String,
        /// Number of the plan in force.
        generation: u64,
        /// The agents.
        agents: Vec<AgentView>,
        /// Model providers whose last calls failed; tasks that need them wait.
        #[serde(default)]
        failing_providers: Vec<FailingProvider>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// A model provider whose last calls failed.
    FailingProvider {
        /// Name in the manifest.
        name: String,
        /// How the last call failed.
        failure: ProviderFailure,
        /// Number of failures in a row.
        failures: u32,
        /// When the first of them was.
        since: Time,
        /// From when on calls are sent to it again.
        until: Time,
        /// What the provider said then.
        #[serde(default)]
        words: Option<String>,
        /// The whole in words.
        text: String,
    }
    /// An agent and its current state.
    AgentView {
        /// Slug of the agent.
        name: String,
        /// Name for people.
        display_name: String,
        /// Role, as the manifest describes it.
        role: String,
        /// Whether it can be used now.
        presence: Presence,
        /// Runtime that does its work.
        runtime: String,
        /// Kind of cell.
        cell: String,
        /// Whether the cell isolates the agent from the host.
        isolated: bool,
        /// Number of the current boot of its cell.
        generation: u64,
        /// Main process of its cell.
        pid: Option<i32>,
        /// Address of the agent API in its cell, or the address of the cell.
        address: Option<String>,
        /// Host ports that are allocated to it.
        ports: Vec<u16>,
        /// Time since the boot, seconds.
        uptime_s: Option<i64>,
        /// Boots after the first, ever.
        restarts: u64,
        /// Model that it is configured for.
        model: Option<String>,
        /// Task that it works on.
        task: Option<String>,
        /// Its daily token budget.
        budget: BudgetBrief,
        /// Memory in use by its cell, bytes.
        memory_bytes: Option<u64>,
        /// CPU time of this boot, microseconds.
        cpu_us: Option<u64>,
        /// Agent that it reports to.
        reports_to: Option<String>,
        /// Model that it was configured for before.
        previous_model: Option<String>,
        /// Number of the plan that last changed its configuration.
        config: u64,
        /// Number of the configuration that it last acknowledged.
        config_taken: Option<u64>,
    }
    /// Limit, spending and reservations of a budget.
    BudgetBrief {
        /// Most that may be spent in the window; absent where there is no limit.
        limit: Option<u64>,
        /// Amount that is settled.
        spent: u64,
        /// Amount that is reserved for calls in progress.
        reserved: u64,
    }
    /// Why an agent is as it is.
    AgentWhyDoc {
        /// Always 1.
        version: u32,
        /// Slug of the agent.
        agent: String,
        /// Whether it can be used now.
        presence: Presence,
        /// Reasons, most important first.
        reasons: Vec<Reason>,
        /// How its last boot ended.
        last_exit: Option<String>,
        /// When its last boot ended.
        last_exit_at: Option<Time>,
        /// Failures in a row.
        failures: u32,
        /// Earliest instant of the next start.
        next_retry: Option<Time>,
        /// Limits that the kernel applies, as read back.
        limits_in_force: Option<Value>,
    }
    /// Configuration of an agent, with the origin of each value.
    EffectiveDoc {
        /// Always 1.
        version: u32,
        /// Slug of the agent.
        agent: String,
        /// Every value.
        values: Vec<EffectiveValue>,
    }
    /// A value of a configuration.
    EffectiveValue {
        /// Key of the manifest.
        key: String,
        /// Value, with secrets redacted.
        value: String,
        /// Where the value comes from: the manifest, a template or a default.
        origin: String,
    }
    /// The manifest entry of an agent, now or when it last was part of the house.
    EntryDoc {
        /// Always 1.
        version: u32,
        /// Slug of the agent.
        agent: String,
        /// Number of the newest plan that had the agent.
        generation: u64,
        /// Whether the agent is part of the house now.
        present: bool,
        /// Lines of the entry, without indentation.
        entry: Vec<String>,
        /// Text of the charter then.
        charter: String,
        /// Names of its data in services, by service: those that the manifest gave it, and of an agent of the house those of
        /// all that services have of it.
        data_names: BTreeMap<String, String>,
        /// Time stamps of kept files of removed agents of this name, oldest first.
        #[serde(default)]
        removed: Vec<String>,
    }
    /// The files that make an agent who it is, in a layout that other tools know.
    BundleDoc {
        /// Always 1.
        version: u32,
        /// Slug of the agent.
        agent: String,
        /// The files.
        files: Vec<BundleFile>,
        /// Files that are not included, with the reason.
        left_out: Vec<String>,
    }
    /// Files and data that a removed agent left behind.
    LeftoversDoc {
        /// Always 1.
        version: u32,
        /// Slug of the agent.
        agent: String,
        /// Stamps of its files, which are kept.
        removed: Vec<String>,
        /// Directory of those files.
        place: String,
        /// What services keep of it, and until when.
        kept: Vec<KeptView>,
        /// Tasks that no agent works on any more.
        tasks: Vec<String>,
        /// What should be gone and still exists.
        leftovers: Vec<String>,
    }
    /// What a service keeps of a removed agent.
    KeptView {
        /// Slug of the service.
        service: String,
        /// Name at that service.
        name: String,
        /// Until when; absent while it is still being removed.
        until: Option<Time>,
    }
    /// What the operator now wants of an agent's cell.
    DesiredDoc {
        /// Always 1.
        version: u32,
        /// Slug of the agent.
        agent: String,
        /// `up`, `down` or `paused`.
        wish: DesiredWord,
        /// Whether it is to be up.
        wanted_up: bool,
    }
    /// A credential was replaced.
    RotatedDoc {
        /// Always 1.
        version: u32,
        /// Slug of the agent.
        agent: String,
        /// How long the old credential stays valid, milliseconds.
        overlap_ms: i64,
    }
}

requests! {
    /// A file of a bundle.
    BundleFile {
        /// `SOUL.md`, `USER.md`, `IDENTITY.md`, `AGENTS.md`, `MEMORY.md`, `HEARTBEAT.md` or `memory/NAME.md`.
        path: String,
        /// Content.
        text: String,
    }
    /// Files to bring to an agent. `SOUL.md` is not among them: the charter is in the manifest.
    BundleBody {
        /// The files.
        files: Vec<BundleFile>,
    }
}

queries! {
    /// Which agents to list.
    FleetQuery {
        /// Presences to list, separated by commas. The names of earlier versions (see the glossary) are accepted as well.
        presence: Option<String>,
        /// Most rows of one page.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
        /// `cursor` of the page before.
        cursor: Option<String>,
    }
    /// Which entry of an agent to read.
    EntryQuery {
        /// The entry that the agent had when its files of this stamp were put away, instead of the newest.
        removed: Option<String>,
    }
}

operations! {
    /// Agents: `client.agents()`.
    AgentsClient {
        /// Every agent.
        GET "/api/v1/agents" list() [query FleetQuery] -> json(FleetDoc);
        /// One agent.
        GET "/api/v1/agents/{agent}" show(agent) -> json(AgentView);
        /// The manifest entry of an agent, now or when it last was part of the house.
        GET "/api/v1/agents/{agent}/entry" entry(agent) [query EntryQuery] -> json(EntryDoc);
        /// The files of an agent's identity (charter, memory), without credentials.
        GET "/api/v1/agents/{agent}/bundle" export_bundle(agent) -> json(BundleDoc);
        /// Imports files into an agent.
        POST "/api/v1/agents/{agent}/bundle" import_bundle(agent) [body BundleBody] -> json(BundleDoc);
        /// Drains an agent: it is offered no more tasks until it is started.
        POST "/api/v1/agents/{agent}/drain" drain(agent) -> json(AgentView);
        /// Files and data that a removed agent left behind.
        GET "/api/v1/agents/{agent}/leftovers" leftovers(agent) -> json(LeftoversDoc);
        /// Every value of an agent's configuration with its origin.
        GET "/api/v1/agents/{agent}/effective" effective(agent) -> json(EffectiveDoc);
        /// Why an agent has its present state.
        GET "/api/v1/agents/{agent}/why" why(agent) -> json(AgentWhyDoc);
        /// The newest log lines of an agent.
        GET "/api/v1/agents/{agent}/logs" logs(agent) [query LogQuery] -> json(LogDoc);
        /// Starts the cell of an agent, and ends draining.
        POST "/api/v1/agents/{agent}/start" start(agent) -> json(DesiredDoc);
        /// Stops the cell of an agent.
        POST "/api/v1/agents/{agent}/stop" stop(agent) -> json(DesiredDoc);
        /// Restarts the cell of an agent.
        POST "/api/v1/agents/{agent}/restart" restart(agent) -> json(DesiredDoc);
        /// Suspends every process in the cell of an agent.
        POST "/api/v1/agents/{agent}/pause" pause(agent) -> json(DesiredDoc);
        /// Resumes the suspended cell of an agent.
        POST "/api/v1/agents/{agent}/resume" resume(agent) -> json(DesiredDoc);
        /// Replaces the credential of an agent; the old one stays valid for an overlap.
        POST "/api/v1/agents/{agent}/rotate" rotate_credential(agent) -> json(RotatedDoc);
        /// Runs a command in the cell of an agent: JSON Lines of output, then the exit status.
        POST "/api/v1/agents/{agent}/exec" exec(agent) [body ExecBody] -> upgrade("abbey-exec");
        /// Attaches to the terminal of an agent.
        GET "/api/v1/agents/{agent}/attach" attach(agent) [query TerminalQuery] -> upgrade("abbey-terminal");
    }
}
