//! Every route of the house, once: the routers, the OpenAPI document and the tests read this.

/// Which door serves a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Operators, on loopback or behind TLS.
    Outside,
    /// Agents, through their cell's door.
    Inside,
}

/// One route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Door.
    pub door: Door,
    /// HTTP method.
    pub method: &'static str,
    /// Path with `{parameters}`.
    pub path: &'static str,
    /// For people.
    pub summary: &'static str,
    /// Name of the request's document.
    pub body: Option<&'static str>,
    /// Name of the answer's document.
    pub answer: Option<&'static str>,
    /// Whether it reaches a model provider and so passes the gateway's gate.
    pub model: bool,
}

const fn out(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    body: Option<&'static str>,
    answer: Option<&'static str>,
) -> Route {
    Route {
        door: Door::Outside,
        method,
        path,
        summary,
        body,
        answer,
        model: false,
    }
}
const fn inside(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    body: Option<&'static str>,
    answer: Option<&'static str>,
) -> Route {
    Route {
        door: Door::Inside,
        method,
        path,
        summary,
        body,
        answer,
        model: false,
    }
}

/// All of them.
pub const ROUTES: &[Route] = &[
    out(
        "GET",
        "/healthz",
        "Whether the house is up; needs no credential",
        None,
        None,
    ),
    out("GET", "/metrics", "Metrics in OpenMetrics text", None, None),
    out("GET", "/openapi.json", "This document", None, None),
    out(
        "GET",
        "/api/v1/house",
        "State of the house",
        None,
        Some("HouseDoc"),
    ),
    out(
        "POST",
        "/api/v1/down",
        "Stops every cell and the control plane",
        None,
        None,
    ),
    out(
        "POST",
        "/api/v1/plans",
        "Plans a manifest and changes nothing",
        Some("ManifestBody"),
        Some("PlanDoc"),
    ),
    out(
        "POST",
        "/api/v1/generations",
        "Plans a manifest and makes it current; `If-Match` names the generation seen",
        Some("ManifestBody"),
        Some("PlanDoc"),
    ),
    out(
        "GET",
        "/api/v1/generations/current",
        "The current manifest, with an `ETag`",
        None,
        Some("ManifestDoc"),
    ),
    out(
        "GET",
        "/api/v1/agents",
        "Every agent",
        None,
        Some("FleetDoc"),
    ),
    out(
        "GET",
        "/api/v1/agents/{agent}",
        "One agent",
        None,
        Some("AgentView"),
    ),
    out(
        "GET",
        "/api/v1/agents/{agent}/effective",
        "Every value with its origin",
        None,
        Some("EffectiveDoc"),
    ),
    out(
        "GET",
        "/api/v1/agents/{agent}/why",
        "Why it is as it is",
        None,
        Some("AgentWhyDoc"),
    ),
    out(
        "GET",
        "/api/v1/agents/{agent}/logs",
        "Its newest log lines",
        None,
        Some("LogDoc"),
    ),
    out(
        "POST",
        "/api/v1/agents/{agent}/start",
        "Wants its cell up",
        None,
        None,
    ),
    out(
        "POST",
        "/api/v1/agents/{agent}/stop",
        "Wants its cell down",
        None,
        None,
    ),
    out(
        "POST",
        "/api/v1/agents/{agent}/restart",
        "Boots its cell anew",
        None,
        None,
    ),
    out(
        "POST",
        "/api/v1/agents/{agent}/pause",
        "Holds everything in its cell where it is",
        None,
        None,
    ),
    out(
        "POST",
        "/api/v1/agents/{agent}/resume",
        "Lets it go on",
        None,
        None,
    ),
    out(
        "POST",
        "/api/v1/agents/{agent}/rotate",
        "Gives it a new credential; the old one ends after an overlap",
        None,
        None,
    ),
    out(
        "POST",
        "/api/v1/agents/{agent}/exec",
        "Runs a command in its cell; JSON Lines of output and status",
        Some("ExecBody"),
        None,
    ),
    out(
        "GET",
        "/api/v1/agents/{agent}/attach",
        "Its terminal, by `Upgrade: abbey-terminal`",
        None,
        None,
    ),
    out(
        "GET",
        "/api/v1/services/{service}/attach",
        "Its terminal, by `Upgrade: abbey-terminal`",
        None,
        None,
    ),
    out(
        "POST",
        "/api/v1/commands",
        "Runs a command in a fresh cell; JSON Lines of output, then status, usage and files",
        Some("CommandBody"),
        None,
    ),
    out(
        "GET",
        "/api/v1/tasks",
        "Tasks, newest first",
        None,
        Some("TasksDoc"),
    ),
    out(
        "POST",
        "/api/v1/tasks",
        "Adds a task; takes `Idempotency-Key`",
        Some("AddTask"),
        Some("TaskDoc"),
    ),
    out(
        "GET",
        "/api/v1/tasks/{task}",
        "One task with its runs, with an `ETag`",
        None,
        Some("TaskDoc"),
    ),
    out(
        "GET",
        "/api/v1/tasks/{task}/why",
        "Why it waits or how it ended",
        None,
        Some("WhyDoc"),
    ),
    out(
        "POST",
        "/api/v1/tasks/{task}/cancel",
        "Calls it off",
        None,
        Some("TaskDoc"),
    ),
    out(
        "POST",
        "/api/v1/tasks/{task}/retry",
        "Starts it again",
        None,
        Some("TaskDoc"),
    ),
    out(
        "POST",
        "/api/v1/tasks/{task}/unblock",
        "Ends its wait for somebody",
        None,
        Some("TaskDoc"),
    ),
    out(
        "GET",
        "/api/v1/runs/{run}",
        "One run",
        None,
        Some("RunView"),
    ),
    out(
        "GET",
        "/api/v1/activity",
        "A page of the activity chain",
        None,
        Some("ActivityDoc"),
    ),
    out(
        "GET",
        "/api/v1/activity/verify",
        "Checks the whole chain",
        None,
        Some("VerifyDoc"),
    ),
    out(
        "GET",
        "/api/v1/events",
        "New entries as server-sent events; resumes by `Last-Event-ID`",
        None,
        None,
    ),
    out(
        "GET",
        "/api/v1/budgets",
        "Every budget",
        None,
        Some("BudgetDoc"),
    ),
    out(
        "GET",
        "/api/v1/skills",
        "Skills, or those that fit `q`",
        None,
        Some("SkillsDoc"),
    ),
    out(
        "GET",
        "/api/v1/services",
        "Every service",
        None,
        Some("ServicesDoc"),
    ),
    out(
        "GET",
        "/api/v1/services/{service}/logs",
        "Its newest log lines",
        None,
        Some("LogDoc"),
    ),
    out(
        "GET",
        "/api/v1/doctor",
        "Checks of the house",
        None,
        Some("DoctorDoc"),
    ),
    out(
        "POST",
        "/api/v1/backups",
        "Writes a backup while the house runs",
        Some("BackupBody"),
        Some("BackupDoc"),
    ),
    inside(
        "GET",
        "/api/v1/self",
        "Me, my budget, my tasks, and a snapshot number",
        None,
        Some("SelfDoc"),
    ),
    inside(
        "GET",
        "/api/v1/self/next",
        "Waits for work",
        None,
        Some("OfferDoc"),
    ),
    inside(
        "POST",
        "/api/v1/self/tasks/{task}/claim",
        "Takes an offer",
        Some("ClaimBody"),
        Some("ClaimDoc"),
    ),
    inside(
        "POST",
        "/api/v1/self/tasks/{task}/renew",
        "Keeps the lease",
        Some("RenewBody"),
        Some("LeaseDoc"),
    ),
    inside(
        "POST",
        "/api/v1/self/tasks/{task}/complete",
        "Ends the run well",
        Some("CompleteBody"),
        Some("TaskDoc"),
    ),
    inside(
        "POST",
        "/api/v1/self/tasks/{task}/fail",
        "Ends the run badly",
        Some("FailBody"),
        Some("TaskDoc"),
    ),
    inside(
        "POST",
        "/api/v1/self/tasks/{task}/block",
        "Waits for somebody",
        Some("BlockBody"),
        Some("TaskDoc"),
    ),
    inside(
        "GET",
        "/api/v1/self/skills",
        "Skills that I may use, or those that fit `q`",
        None,
        Some("SkillsDoc"),
    ),
    inside(
        "POST",
        "/api/v1/self/facts/{fact}",
        "A host fact that the skill of my running task was granted",
        None,
        None,
    ),
    inside("GET", "/api/v1/self/charter", "My charter", None, None),
    inside(
        "POST",
        "/api/v1/self/activity",
        "Writes a note into the log",
        Some("NoteBody"),
        None,
    ),
    Route {
        door: Door::Inside,
        method: "POST",
        path: "/v1/chat/completions",
        summary: "OpenAI chat completions, metered, within budget",
        body: None,
        answer: None,
        model: true,
    },
    inside(
        "GET",
        "/v1/models",
        "Models that I may use, in OpenAI form",
        None,
        None,
    ),
];

/// Paths that belong to the contract and have no mechanism yet: refused by name, never as unknown.
pub const NOT_BUILT: &[(Door, &str)] = &[
    (Door::Outside, "/api/v1/approvals"),
    (Door::Outside, "/api/v1/schedules"),
    (Door::Outside, "/api/v1/workflows"),
    (Door::Outside, "/api/v1/nodes"),
    (Door::Outside, "/api/v1/channels"),
    (Door::Outside, "/api/v1/reports"),
    (Door::Outside, "/api/controlplane"),
    (Door::Outside, "/hooks"),
    (Door::Inside, "/api/v1/self/delegate"),
    (Door::Inside, "/api/v1/self/messages"),
    (Door::Inside, "/api/v1/self/memory"),
    (Door::Inside, "/api/v1/self/approvals"),
    (Door::Inside, "/v1/responses"),
    (Door::Inside, "/v1/embeddings"),
    (Door::Inside, "/v1/messages"),
];
