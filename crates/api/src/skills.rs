//! Skills.

use crate::macros::{documents, operations, queries};
use abbey_model::words;
use serde_json::Value;

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

documents! {
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
    }
}
