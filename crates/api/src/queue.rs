//! The work queue as Markdown.

use crate::macros::{documents, operations, requests};

documents! {
    /// The work queue as a file.
    QueueDoc {
        /// Always 1.
        version: u32,
        /// The file as it is now.
        text: String,
        /// Edits that were carried out.
        done: Vec<String>,
        /// Edits that were refused.
        conflicts: Vec<QueueConflict>,
    }
    /// An edit that was refused.
    QueueConflict {
        /// Line of the file, from 1.
        line: u64,
        /// Task that the line names, as `TASK-12`.
        task: Option<String>,
        /// Text of the line.
        wrote: String,
        /// Why it was refused.
        why: String,
    }
}

requests! {
    /// A work queue that people have edited.
    QueueBody {
        /// The whole file.
        text: String,
    }
}

operations! {
    /// The work queue as Markdown: `client.queue()`.
    QueueClient {
        /// The work queue as Markdown.
        GET "/api/v1/queue" show() -> json(QueueDoc);
        /// Carries out the edits of a work queue, and returns the queue as it is then.
        POST "/api/v1/queue" merge() [body QueueBody] -> json(QueueDoc);
    }
}
