//! The work queue as Markdown.

use crate::macros::{documents, operations, requests};

documents! {
    /// What came of it.
    QueueDoc {
        /// Always 1.
        version: u32,
        /// The file as it is to be now.
        text: String,
        /// What was done.
        done: Vec<String>,
        /// What was not, and why.
        conflicts: Vec<QueueConflict>,
    }
    /// Something of the file that was not done.
    QueueConflict {
        /// Line of the file, from 1.
        line: u64,
        /// `TASK-12`, where the line names one.
        task: Option<String>,
        /// What stands there.
        wrote: String,
        /// Why it was not done.
        why: String,
    }
}

requests! {
    /// The work queue as a file that people edit.
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
