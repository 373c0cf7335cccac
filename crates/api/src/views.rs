//! Documents. Keys may be added, none removed or renamed.

use crate::{ApprovalView, LinkView, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Documents with what all of them have.
macro_rules! documents {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }
    )*};
}
pub(crate) use documents;

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
        presence: String,
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
        presence: String,
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
    /// A reason for programs and people.
    Reason {
        /// Stable word.
        code: String,
        /// For people.
        text: String,
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
    /// `abbey task show`.
    TaskDoc {
        /// Always 1.
        version: u32,
        /// The task.
        task: TaskView,
    }
    /// `abbey task list`.
    TasksDoc {
        /// Always 1.
        version: u32,
        /// The tasks, newest first.
        tasks: Vec<TaskView>,
        /// Opaque; names the next page.
        cursor: Option<String>,
    }
    /// A task.
    TaskView {
        /// `task_…`.
        id: String,
        /// `TASK-12`.
        number: String,
        /// What is to be done.
        title: String,
        /// State.
        state: String,
        /// Who is to do it.
        assignee: Option<String>,
        /// P0 to P3.
        priority: String,
        /// Who added it.
        author: String,
        /// Runs so far.
        attempts: u32,
        /// What stands behind a `done`.
        verified: Option<String>,
        /// Why it waits.
        waiting_for: Option<String>,
        /// The skill that was matched.
        skill: Option<String>,
        /// The result.
        result: Option<ResultView>,
        /// Last word of a failed run.
        failure: Option<String>,
        /// Trace that it belongs to, with all that came of the same request; 32 hexadecimal digits.
        #[serde(default)]
        trace: String,
        /// Where it hangs, for work that was given on.
        #[serde(default)]
        link: Option<LinkView>,
        /// Attempts, oldest first.
        runs: Vec<RunView>,
        /// Grows with every change.
        revision: u64,
        /// When it was added.
        created_at: Time,
        /// When it last changed.
        updated_at: Time,
    }
    /// A result.
    ResultView {
        /// For people.
        text: String,
        /// `skill`, `model` or `command`.
        source: String,
        /// For programs.
        data: Value,
    }
    /// One attempt.
    RunView {
        /// `run_…`.
        id: String,
        /// State.
        state: String,
        /// Why it ended.
        reason: Option<String>,
        /// Who worked.
        agent: String,
        /// Model of the manifest.
        configured_model: Option<String>,
        /// Model that calls went to.
        effective_model: Option<String>,
        /// Model that answered.
        actual_model: Option<String>,
        /// Tokens.
        usage: UsageView,
        /// Cost; absent when a price is not known.
        cost_nano_usd: Option<u64>,
        /// Digest of the charter.
        charter_hash: Option<String>,
        /// Digest of the assembled prompt.
        prompt_hash: Option<String>,
        /// Bytes of the session file that belong to it.
        session: Option<Vec<u64>>,
        /// Tool calls with a receipt.
        receipts: Option<u32>,
        /// Whether the result claims actions without a receipt.
        flagged: bool,
        /// When it began.
        started_at: Time,
        /// When it ended.
        ended_at: Option<Time>,
    }
    /// Tokens of a run; absent numbers are unknown, not zero.
    UsageView {
        /// Input tokens.
        input: Option<u64>,
        /// Output tokens.
        output: Option<u64>,
        /// Input tokens from the provider's cache.
        cached: Option<u64>,
        /// `none`, `provider` or `unknown`.
        source: String,
    }
    /// `abbey task why`.
    WhyDoc {
        /// Always 1.
        version: u32,
        /// `TASK-12`.
        task: String,
        /// State.
        state: String,
        /// Why.
        reasons: Vec<Reason>,
    }
    /// `POST tasks`.
    AddTask {
        /// What is to be done.
        text: String,
        /// Who is to do it.
        #[serde(default)]
        to: Option<String>,
        /// P0 to P3, or urgent, high, medium, low.
        #[serde(default)]
        priority: Option<String>,
        /// Skill to run, in place of matching.
        #[serde(default)]
        skill: Option<String>,
        /// Its arguments.
        #[serde(default)]
        args: std::collections::BTreeMap<String, String>,
        /// Most tokens over all runs.
        #[serde(default)]
        tokens: Option<u64>,
        /// What must hold before it counts as done.
        #[serde(default)]
        evidence: Vec<crate::EvidenceView>,
    }
    /// `abbey plan` and `abbey up`.
    PlanDoc {
        /// Always 1.
        version: u32,
        /// Number of the plan.
        generation: u64,
        /// Whether it was made current.
        applied: bool,
        /// What is done, in order.
        steps: Vec<PlanStep>,
        /// What the checker says.
        notes: Vec<PlanNote>,
    }
    /// One step.
    PlanStep {
        /// Number.
        id: u32,
        /// What is done.
        action: String,
        /// To what.
        resource: String,
        /// Name of the agent or service; empty for the house.
        agent: String,
        /// For people.
        detail: String,
        /// Keys whose effective value changes.
        #[serde(default)]
        changes: Vec<PlanChange>,
    }
    /// One key of the manifest whose effective value changes.
    PlanChange {
        /// Path of the key below its agent, service or house.
        key: String,
        /// Value before, as the manifest writes it; a secret by reference. Null where there was none.
        old: Option<String>,
        /// Value after; null where there is none.
        new: Option<String>,
        /// What the change does to what runs: `restart`, `live` or `none`.
        effect: String,
    }
    /// One note.
    PlanNote {
        /// `info`, `warning` or `fatal`.
        severity: String,
        /// About what.
        subject: String,
        /// For people.
        text: String,
    }
    /// A manifest to be planned or applied.
    ManifestBody {
        /// Its text.
        manifest: String,
        /// Directory of relative paths.
        base_dir: String,
        /// Text of charters named by file.
        #[serde(default)]
        charters: std::collections::BTreeMap<String, String>,
        /// Why, for the activity chain.
        #[serde(default)]
        reason: Option<String>,
    }
    /// The current manifest.
    ManifestDoc {
        /// Always 1.
        version: u32,
        /// Number of the plan.
        generation: u64,
        /// Its text.
        manifest: String,
        /// Directory of relative paths.
        base_dir: String,
    }
    /// One entry of the activity chain.
    EntryView {
        /// Number.
        seq: u64,
        /// When.
        at: Time,
        /// Who.
        actor: String,
        /// What.
        action: String,
        /// To what.
        entity: String,
        /// Details.
        detail: Value,
        /// Hash of the entry before.
        prev: String,
        /// Hash of this one.
        hash: String,
    }
    /// A page of the chain.
    ActivityDoc {
        /// Always 1.
        version: u32,
        /// Entries, oldest first.
        entries: Vec<EntryView>,
        /// Opaque; names the next page.
        cursor: Option<String>,
    }
    /// `abbey activity verify`.
    VerifyDoc {
        /// Always 1.
        version: u32,
        /// Whether everything fits.
        ok: bool,
        /// Entries checked.
        entries: u64,
        /// Hash of the newest.
        head: String,
        /// First entry that does not fit.
        first_bad: Option<u64>,
        /// Signed checkpoints that were checked.
        checkpoints: u64,
        /// What is wrong with it.
        why: Option<String>,
    }
    /// `abbey budget show`.
    BudgetDoc {
        /// Always 1.
        version: u32,
        /// Every budget.
        scopes: Vec<BudgetScope>,
    }
    /// One budget.
    BudgetScope {
        /// Whose.
        scope: String,
        /// What is counted.
        metric: String,
        /// `day` or `total`.
        window: String,
        /// Most in the window.
        limit: Option<u64>,
        /// Settled.
        spent: u64,
        /// Held.
        reserved: u64,
        /// `unlimited`, `ok`, `warning` or `exhausted`.
        state: String,
        /// When it starts again.
        resets_at: Option<Time>,
    }
    /// `abbey doctor`.
    DoctorDoc {
        /// Always 1.
        version: u32,
        /// Every check.
        checks: Vec<CheckView>,
        /// What `--fix` mended, by its id.
        #[serde(default)]
        fixed: Vec<String>,
    }
    /// One check.
    CheckView {
        /// Stable word.
        id: String,
        /// `info`, `warn` or `fail`.
        severity: String,
        /// `ok`, `attention` or `failed`.
        state: String,
        /// For people.
        text: String,
        /// What to do.
        remedy: Option<String>,
    }
    /// `abbey skill list`.
    SkillsDoc {
        /// Always 1.
        version: u32,
        /// The skills.
        skills: Vec<SkillView>,
    }
    /// A skill.
    SkillView {
        /// Name.
        name: String,
        /// What it does and when it is used.
        description: String,
        /// Digest of its files.
        hash: String,
        /// Version of its metadata.
        skill_version: Option<String>,
        /// Who answers for it.
        owner: Option<String>,
        /// Words by which it is found.
        tags: Vec<String>,
        /// Program that it runs.
        program: Option<String>,
        /// Patterns that it matches.
        patterns: Vec<String>,
        /// Arguments, as JSON Schema.
        args: Value,
        /// What it may read.
        grants: Vec<String>,
        /// `low`, `medium` or `high`.
        risk: String,
        /// Agents that it is assigned to.
        agents: Vec<String>,
        /// Score for a query.
        score: Option<u32>,
    }
    /// `abbey service list`.
    ServicesDoc {
        /// Always 1.
        version: u32,
        /// The services.
        services: Vec<ServiceView>,
    }
    /// A service.
    ServiceView {
        /// Slug.
        name: String,
        /// Presence.
        presence: String,
        /// Whether its probe answers; absent without a probe.
        healthy: Option<bool>,
        /// Whether it runs outside the house, at an address that the manifest names.
        #[serde(default)]
        external: bool,
        /// Kind of cell.
        cell: String,
        /// Main process.
        pid: Option<i32>,
        /// Port.
        port: Option<u16>,
        /// Boot.
        generation: u64,
        /// Starts after the first.
        restarts: u64,
        /// What it is: `command`, or one of the house's own.
        kind: String,
        /// What it waits for before it starts.
        waits: Option<String>,
        /// Why what belongs to its consumers is not as it should be.
        trouble: Option<String>,
        /// Who uses it.
        consumers: Vec<String>,
    }
    /// Lines of a log.
    LogDoc {
        /// Always 1.
        version: u32,
        /// Lines, oldest first.
        lines: Vec<LogLine>,
    }
    /// One line.
    LogLine {
        /// When.
        at: Time,
        /// `out` or `err`.
        stream: String,
        /// Text without secrets.
        text: String,
    }
    /// State of the whole house.
    HouseDoc {
        /// Always 1.
        version: u32,
        /// Name; absent before the first plan.
        house: Option<String>,
        /// Number of the current plan.
        generation: u64,
        /// Version of the binary.
        software: String,
        /// Control plane's process.
        pid: u32,
        /// Address of the outside door.
        address: String,
        /// Digest of everything but credentials, where asked for.
        state_hash: Option<String>,
    }
    /// A command to run in an agent's cell.
    ExecBody {
        /// Program and arguments.
        argv: Vec<String>,
        /// Standard input, base 64.
        #[serde(default)]
        stdin: Option<String>,
    }
    /// A command to run in a fresh cell.
    CommandBody {
        /// Program and arguments.
        argv: Vec<String>,
        /// Standard input, base 64.
        #[serde(default)]
        stdin: Option<String>,
        /// Kind of cell; `sandbox` when not given.
        #[serde(default)]
        cell: Option<String>,
        /// What a microVM boots from; `base` when not given.
        #[serde(default)]
        image: Option<String>,
        /// Most memory.
        #[serde(default)]
        memory_bytes: Option<u64>,
        /// Most CPU time, in thousandths of one CPU.
        #[serde(default)]
        cpu_milli: Option<u32>,
        /// Most processes.
        #[serde(default)]
        processes: Option<u32>,
        /// Longest time.
        #[serde(default)]
        timeout_ms: Option<i64>,
        /// What it may reach outside: `none`, `full`, or destinations.
        #[serde(default)]
        egress: Vec<String>,
        /// Filter of system calls.
        #[serde(default)]
        profile: Option<String>,
        /// Layers that may be missing on this host.
        #[serde(default)]
        waive: Vec<String>,
        /// Files to bring along, a tar archive in base 64.
        #[serde(default)]
        files: Option<String>,
        /// Files and directories to take along at the end.
        #[serde(default)]
        take: Vec<String>,
    }
    /// Where to write a backup.
    BackupBody {
        /// Absolute path of a file that does not exist.
        path: String,
    }
    /// A backup that was written.
    BackupDoc {
        /// Always 1.
        version: u32,
        /// Where.
        path: String,
        /// Digest of the state in it.
        state_hash: String,
        /// Size.
        bytes: u64,
    }
    /// What an agent learns about itself.
    SelfDoc {
        /// Always 1.
        version: u32,
        /// Slug.
        agent: String,
        /// Free text.
        display_name: String,
        /// What it is for.
        role: String,
        /// House.
        house: String,
        /// Grows with every change of anything below; writes based on an older one are refused.
        snapshot: u64,
        /// Its budgets and the house's.
        budget: Vec<BudgetScope>,
        /// Tasks that it holds or may claim.
        tasks: Vec<TaskView>,
        /// Model for its calls.
        model: Option<String>,
        /// Digest of its charter.
        charter_hash: String,
        /// Tool policy.
        policy: Value,
        /// Number of the plan that last changed anything about it; to be said when asking for work.
        config: u64,
    }
    /// An offer of work.
    OfferDoc {
        /// Always 1.
        version: u32,
        /// `task_…`.
        task: String,
        /// `TASK-12`.
        number: String,
        /// What is to be done.
        text: String,
        /// Revision of the task, for the claim.
        revision: u64,
        /// Snapshot that this offer was made from.
        snapshot: u64,
        /// The deterministic skill, where one was matched.
        skill: Option<SkillView>,
        /// Its arguments.
        args: std::collections::BTreeMap<String, String>,
        /// Model for its calls.
        model: Option<String>,
        /// Tool policy of this run.
        policy: Value,
        /// Trace that it belongs to; 32 hexadecimal digits.
        #[serde(default)]
        trace: String,
        /// Why the run before did not end well.
        #[serde(default)]
        failure: Option<String>,
        /// The agent works by files: the program that does the work, or nothing where somebody else does.
        #[serde(default)]
        files: Option<Vec<String>>,
        /// Digest of the charter that this run is under.
        charter_hash: String,
        /// Fields that the result's `data` must have.
        #[serde(default)]
        expects: Vec<String>,
        /// What was given along: data, and no instruction.
        #[serde(default)]
        data: serde_json::Map<String, Value>,
        /// What was decided for this task, oldest first.
        #[serde(default)]
        approvals: Vec<ApprovalView>,
    }
    /// A claim.
    ClaimBody {
        /// Revision of the task that the claimant saw.
        #[serde(default)]
        revision: Option<u64>,
    }
    /// A granted claim.
    ClaimDoc {
        /// Always 1.
        version: u32,
        /// `task_…`.
        task: String,
        /// `run_…`.
        run: String,
        /// The right.
        lease: LeaseDoc,
    }
    /// A lease.
    LeaseDoc {
        /// Fencing token, sent in the header `Abbey-Lease`.
        token: u64,
        /// Time until it ends.
        ttl_ms: i64,
    }
    /// What a worker reports.
    RenewBody {
        /// Facts of the run.
        #[serde(default)]
        facts: Value,
    }
    /// A result.
    CompleteBody {
        /// For people.
        text: String,
        /// `skill`, `model` or `command`.
        source: String,
        /// For programs.
        #[serde(default)]
        data: Value,
        /// Facts of the run.
        #[serde(default)]
        facts: Value,
    }
    /// A failure.
    FailBody {
        /// Stable word.
        reason: String,
        /// For people.
        text: String,
        /// Facts of the run.
        #[serde(default)]
        facts: Value,
    }
    /// A wait.
    BlockBody {
        /// Who unblocks it.
        on: String,
        /// What is asked.
        why: String,
    }
    /// A note for the activity log.
    NoteBody {
        /// What happened.
        text: String,
    }
}
