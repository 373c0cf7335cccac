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
}

operations! {
    /// Templates: `client.templates()`.
    TemplatesClient {
        /// Saves an agent as a template: its manifest entry, charter, home and workspace.
        POST "/api/v1/templates/{template}" save(template) [body SaveTemplateBody] -> json(SavedTemplateDoc);
        /// Removes a template; agents made from it stay.
        POST "/api/v1/templates/{template}/remove" remove(template) -> json(RemovedTemplateDoc);
    }
}
