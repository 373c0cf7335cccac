//! Skills.

use crate::macros::{documents, operations, queries, requests};
use abbey_model::{Effect, words};
use serde_json::Value;
use std::collections::BTreeMap;

/// Effect of a skill of a control plane that does not tell it.
const fn changes() -> Effect {
    Effect::Changes
}

words! {
    /// What a mistake of a skill can cost.
    Risk {
        /// Nothing that matters.
        Low = "low",
        /// Some work.
        Medium = "medium",
        /// Data or money.
        High = "high",
    }
}

words! {
    /// What becomes of a text.
    Routing {
        /// A skill's program does it.
        Skill = "skill",
        /// A model does it.
        Model = "model",
        /// Nobody can do it now.
        Nobody = "nobody",
    }
}

requests! {
    /// A text to be explained.
    ExplainBody {
        /// Text, as of a task.
        text: String,
        /// Agent that the task would be for.
        #[serde(default)]
        to: Option<String>,
    }
}

documents! {
    /// What would become of a text as a task; nothing is done.
    ExplainDoc {
        /// Always 1.
        version: u32,
        /// The request in the text, without courtesies, as it is compared.
        request: String,
        /// Who does it: a skill's program, or a model.
        routing: Routing,
        /// Skill whose program does it.
        skill: Option<String>,
        /// Arguments of the skill.
        args: BTreeMap<String, Value>,
        /// Why that skill does it, or none.
        reason: String,
        /// Agents that it would be offered to.
        agents: Vec<String>,
        /// Why to these agents, or why to none.
        agents_reason: String,
        /// Skills that fit it partly, for the model, best first.
        suggested: Vec<String>,
        /// What in the text holds skills back.
        guards: Vec<GuardView>,
        /// Skills that it has to do with, best first.
        skills: Vec<ConsideredView>,
        /// How well it fits the agents, best first; empty if a skill does it.
        ranking: Vec<AgentFitView>,
    }
    /// A guard that found something.
    GuardView {
        /// Stable name of the guard.
        guard: String,
        /// What it found.
        found: String,
        /// Whether it holds back skills that only read, as well.
        also_reading: bool,
    }
    /// A skill that a text has to do with.
    ConsideredView {
        /// Name of the skill.
        name: String,
        /// Quality of the match: 1000 for a pattern that covers the whole request, 1001 for a skill that is named.
        score: u32,
        /// What running it does.
        effect: Effect,
        /// Pattern that covers the request.
        pattern: Option<String>,
        /// Values of the pattern's slots.
        slots: Vec<SlotView>,
        /// Words of the text that the skill has.
        words: Vec<String>,
        /// Names of the guards that hold it back.
        held_back_by: Vec<String>,
        /// Why it has this score.
        reason: String,
        /// Agents that it is assigned to.
        agents: Vec<String>,
    }
    /// Value of a slot.
    SlotView {
        /// Name of the argument.
        name: String,
        /// Kind of the slot.
        kind: String,
        /// Value in the text.
        value: String,
        /// Why the value is not accepted.
        refused: Option<String>,
    }
    /// How well a text fits an agent.
    AgentFitView {
        /// The agent.
        agent: String,
        /// Points; more is better.
        score: u32,
        /// Words of the text that its role, template or skills have.
        words: Vec<String>,
    }
    /// Skills of the house.
    SkillsDoc {
        /// Always 1.
        version: u32,
        /// The skills.
        skills: Vec<SkillView>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
        /// Skills whose files differ from those in force, by name: `abbey up` puts them in force.
        #[serde(default)]
        changed: Vec<String>,
        /// Directories of skills that are left out, as they are not valid.
        #[serde(default)]
        invalid: Vec<InvalidSkillView>,
    }
    /// A directory that is no valid skill.
    InvalidSkillView {
        /// Name of the directory.
        name: String,
        /// What is wrong with it, each in one line.
        mistakes: Vec<String>,
    }
    /// Instructions of a skill, and its files.
    SkillTextDoc {
        /// Always 1.
        version: u32,
        /// Name of the skill.
        name: String,
        /// Digest of its files.
        hash: String,
        /// Instructions: what `SKILL.md` has below its front matter.
        text: String,
        /// Directory of its files as the agent's cell sees it, read-only; absent where the cell has none.
        #[serde(default)]
        directory: Option<String>,
        /// Its files, by path.
        files: Vec<SkillFileView>,
    }
    /// A file of a skill.
    SkillFileView {
        /// Path relative to the skill's directory.
        path: String,
        /// Size, bytes.
        bytes: u64,
        /// Whether it can be run as a program.
        executable: bool,
    }
    /// Content of a file of a skill.
    SkillFileDoc {
        /// Always 1.
        version: u32,
        /// Path relative to the skill's directory.
        path: String,
        /// Content as Base64.
        base64: String,
    }
    /// A skill.
    SkillView {
        /// Name of the skill.
        name: String,
        /// What it does and when it is used.
        description: String,
        /// Digest of its files.
        hash: String,
        /// Version of its metadata.
        skill_version: Option<String>,
        /// Person or team that maintains it.
        owner: Option<String>,
        /// Words that it is found by.
        tags: Vec<String>,
        /// Program that it runs: `builtin:NAME`, or a path. An agent gets the path in its cell, or `skill-file:PATH` where its
        /// cell has no mount of the skill's files.
        program: Option<String>,
        /// Patterns that it matches.
        patterns: Vec<String>,
        /// Arguments, as JSON Schema.
        args: Value,
        /// Facts and operations that it is granted.
        grants: Vec<String>,
        /// What a mistake can cost.
        risk: Risk,
        /// Whether its program only reads, or changes something.
        #[serde(default = "changes")]
        effect: Effect,
        /// Agents that it is assigned to.
        agents: Vec<String>,
        /// How well it matches the query; higher is better.
        score: Option<u32>,
    }
}

queries! {
    /// Which file of a skill to read.
    SkillFileQuery {
        /// Path relative to the skill's directory.
        path: String,
    }
    /// Which skills to list.
    SkillsQuery {
        /// Words to search for.
        q: Option<String>,
        /// Most rows of one page.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
        /// `cursor` of the page before.
        cursor: Option<String>,
    }
}

operations! {
    /// Skills: `client.skills()`.
    SkillsClient {
        /// Skills, or those that match a query.
        GET "/api/v1/skills" list() [query SkillsQuery] -> json(SkillsDoc);
        /// What would become of a text as a task.
        POST "/api/v1/skills/explain" explain() [body ExplainBody] -> json(ExplainDoc);
    }
}
