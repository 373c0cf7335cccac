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
    /// `abbey skill list`.
    SkillsDoc {
        /// Always 1.
        version: u32,
        /// The skills.
        skills: Vec<SkillView>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
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
        risk: Risk,
        /// Agents that it is assigned to.
        agents: Vec<String>,
        /// Score for a query.
        score: Option<u32>,
    }
}

queries! {
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
