//! Templates that operators saved from their agents.

use crate::macros::{documents, operations, requests};

documents! {
    /// A template was saved.
    SavedTemplateDoc {
        /// Always 1.
        version: u32,
        /// Name of the template.
        name: String,
        /// Agent that it was saved from.
        agent: String,
        /// Size of its file, bytes.
        bytes: u64,
        /// Files of the agent that are not in it, with the reason.
        left_out: Vec<String>,
    }
    /// A template was removed.
    RemovedTemplateDoc {
        /// Always 1.
        version: u32,
        /// Name of the template.
        name: String,
    }
    /// A new agent was given the files of a template.
    FilledDoc {
        /// Always 1.
        version: u32,
        /// Slug of the agent.
        agent: String,
        /// Name of the template.
        template: String,
    }
}

requests! {
    /// What to save as a template.
    SaveTemplateBody {
        /// Slug of the agent.
        agent: String,
        /// Whether a template of that name is replaced.
        #[serde(default)]
        replace: bool,
    }
    /// Template whose files a new agent gets.
    FillBody {
        /// Name of the template.
        template: String,
    }
}

operations! {
    /// Templates: `client.templates()`.
    TemplatesClient {
        /// Saves an agent as a template: its manifest entry, charter, home and workspace.
        POST "/api/v1/templates/{template}" save(template) [body SaveTemplateBody] -> json(SavedTemplateDoc);
        /// Removes a template; agents made from it stay.
        POST "/api/v1/templates/{template}/remove" remove(template) -> json(RemovedTemplateDoc);
        /// Gives an agent that no plan has yet the home and workspace of a template.
        POST "/api/v1/agents/{agent}/fill" fill(agent) [body FillBody] -> json(FilledDoc);
    }
}
