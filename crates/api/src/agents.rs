//! Agents: how they are, what they are, and what the operator does with them.

use crate::Time;
use crate::cells::{LogDoc, LogQuery, TerminalQuery};
use crate::macros::{documents, operations, queries, requests};
use crate::tasks::Reason;
use abbey_model::Presence;
use abbey_model::words;
use serde_json::Value;

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
    /// `abbey ps`.
    FleetDoc {
        /// Always 1.
        version: u32,
        /// Name of the house.
        house: String,
        /// Number of the current plan.
        generation: u64,
        /// The agents.
        agents: Vec<AgentView>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// One agent as it stands.
    AgentView {
        /// Slug.
        name: String,
        /// Free text for people.
        display_name: String,
        /// What it is for.
        role: String,
        /// `ready`, `worker_only`, `ingress_only`, `down`, `starting`, `stopping`, `stopped`, `paused`, `idle`, `degraded` or `unknown`.
        presence: Presence,
        /// The program that thinks.
        runtime: String,
        /// Kind of cell.
        cell: String,
        /// Whether the cell is a boundary.
        isolated: bool,
        /// Boot of the cell.
        generation: u64,
        /// Main process.
        pid: Option<i32>,
        /// Its door.
        address: Option<String>,
        /// Its ports.
        ports: Vec<u16>,
        /// Seconds since the boot.
        uptime_s: Option<i64>,
        /// Starts after the first.
        restarts: u64,
        /// Configured model.
        model: Option<String>,
        /// Task that it works on.
        task: Option<String>,
        /// Its daily token budget.
        budget: BudgetBrief,
        /// Memory in use.
        memory_bytes: Option<u64>,
        /// CPU time of this boot, microseconds.
        cpu_us: Option<u64>,
        /// The agent above it.
        reports_to: Option<String>,
        /// The model that it had before this one.
        previous_model: Option<String>,
        /// Number of the plan that last changed anything about it.
        config: u64,
        /// The same as the agent itself last said; absent until it spoke.
        config_taken: Option<u64>,
    }
    /// Limit, spent and reserved.
    BudgetBrief {
        /// Most in the window.
        limit: Option<u64>,
        /// Settled.
        spent: u64,
        /// Held.
        reserved: u64,
    }
    /// `abbey why AGENT`.
    AgentWhyDoc {
        /// Always 1.
        version: u32,
        /// Slug.
        agent: String,
        /// Presence.
        presence: Presence,
        /// For people, most important first.
        reasons: Vec<Reason>,
        /// How the last boot ended.
        last_exit: Option<String>,
        /// When it ended.
        last_exit_at: Option<Time>,
        /// Failures in a row.
        failures: u32,
        /// Earliest instant of the next start.
        next_retry: Option<Time>,
        /// Limits that the kernel applies.
        limits_in_force: Option<Value>,
    }
    /// `abbey agent show --effective`.
    EffectiveDoc {
        /// Always 1.
        version: u32,
        /// Slug.
        agent: String,
        /// Every value with its origin.
        values: Vec<EffectiveValue>,
    }
    /// One value.
    EffectiveValue {
        /// Key of the manifest.
        key: String,
        /// Value, redacted.
        value: String,
        /// Where it comes from.
        origin: String,
    }
    /// What the manifest says, or said, of an agent.
    EntryDoc {
        /// Always 1.
        version: u32,
        /// Which agent.
        agent: String,
        /// The newest plan that had it.
        generation: u64,
        /// Whether it lives here now.
        present: bool,
        /// Lines of its entry, without indentation.
        entry: Vec<String>,
        /// Its charter then.
        charter: String,
    }
    /// What makes an agent who it is, as files that other tools know as well.
    BundleDoc {
        /// Always 1.
        version: u32,
        /// Which agent.
        agent: String,
        /// Its files.
        files: Vec<BundleFile>,
        /// Files that do not go along, with the reason.
        left_out: Vec<String>,
    }
    /// What came back.
    RestoredDoc {
        /// Always 1.
        version: u32,
        /// Which agent.
        agent: String,
        /// Which of its files; none when an earlier try had brought them already.
        stamp: Option<String>,
    }
    /// What an agent that went left behind.
    LeftoversDoc {
        /// Always 1.
        version: u32,
        /// Which agent.
        agent: String,
        /// Its files, set aside: when each was.
        removed: Vec<String>,
        /// Where they are.
        place: String,
        /// What services keep of it, each for its time.
        kept: Vec<KeptView>,
        /// Its work that nobody has now.
        tasks: Vec<String>,
        /// What should be gone and is not.
        leftovers: Vec<String>,
    }
    /// What a service keeps of an agent that went.
    KeptView {
        /// Which service.
        service: String,
        /// What it is called there.
        name: String,
        /// Until when; none while it is still open.
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
    /// One of them.
    BundleFile {
        /// `SOUL.md`, `USER.md`, `IDENTITY.md`, `AGENTS.md`, `MEMORY.md`, `HEARTBEAT.md` or `memory/NAME.md`.
        path: String,
        /// Its text.
        text: String,
    }
    /// Files to bring to an agent. Its charter is the manifest's, so `SOUL.md` is not among them.
    BundleBody {
        /// Which.
        files: Vec<BundleFile>,
    }
    /// Which files to bring back.
    RestoreBody {
        /// As `removed` tells; the newest when not given.
        #[serde(default)]
        stamp: Option<String>,
    }
    /// A command to run in an agent's cell.
    ExecBody {
        /// Program and arguments.
        argv: Vec<String>,
        /// Standard input, base 64.
        #[serde(default)]
        stdin: Option<String>,
    }
}

queries! {
    /// Which agents to list.
    FleetQuery {
        /// Presences, separated by commas; the words robed, unrobed, lobster and dead of earlier versions are accepted.
        presence: Option<String>,
        /// Most rows of one page.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
        /// `cursor` of the page before.
        cursor: Option<String>,
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
        GET "/api/v1/agents/{agent}/entry" entry(agent) -> json(EntryDoc);
        /// The files that make an agent who it is, without credentials.
        GET "/api/v1/agents/{agent}/bundle" export_bundle(agent) -> json(BundleDoc);
        /// Brings an agent files from elsewhere.
        POST "/api/v1/agents/{agent}/bundle" import_bundle(agent) [body BundleBody] -> json(BundleDoc);
        /// Offers an agent no more work; starting it ends that.
        POST "/api/v1/agents/{agent}/drain" drain(agent) -> json(AgentView);
        /// Restores the files of a removed agent, before a plan that has it again.
        POST "/api/v1/agents/{agent}/restore" restore(agent) [body RestoreBody] -> json(RestoredDoc);
        /// What a removed agent left behind.
        GET "/api/v1/agents/{agent}/leftovers" leftovers(agent) -> json(LeftoversDoc);
        /// Every value of its configuration with its origin.
        GET "/api/v1/agents/{agent}/effective" effective(agent) -> json(EffectiveDoc);
        /// Why it is as it is.
        GET "/api/v1/agents/{agent}/why" why(agent) -> json(AgentWhyDoc);
        /// Its newest log lines.
        GET "/api/v1/agents/{agent}/logs" logs(agent) [query LogQuery] -> json(LogDoc);
        /// Starts its cell, and ends draining.
        POST "/api/v1/agents/{agent}/start" start(agent) -> json(DesiredDoc);
        /// Stops its cell.
        POST "/api/v1/agents/{agent}/stop" stop(agent) -> json(DesiredDoc);
        /// Restarts its cell.
        POST "/api/v1/agents/{agent}/restart" restart(agent) -> json(DesiredDoc);
        /// Suspends everything in its cell.
        POST "/api/v1/agents/{agent}/pause" pause(agent) -> json(DesiredDoc);
        /// Resumes a suspended cell.
        POST "/api/v1/agents/{agent}/resume" resume(agent) -> json(DesiredDoc);
        /// Replaces its credential; the old one stays valid for an overlap.
        POST "/api/v1/agents/{agent}/rotate" rotate_credential(agent) -> json(RotatedDoc);
        /// Runs a command in its cell: JSON Lines of output, then the exit status.
        POST "/api/v1/agents/{agent}/exec" exec(agent) [body ExecBody] -> stream;
        /// Its terminal.
        GET "/api/v1/agents/{agent}/attach" attach(agent) [query TerminalQuery] -> upgrade("abbey-terminal");
    }
}
