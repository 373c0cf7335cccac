//! The work queue as Markdown.

use crate::macros::{documents, operations, requests};

documents! {
    /// The work queue as a file.
    QueueDoc {
        /// Always 1.
        version: u32,
        /// The file as it is now.
        text: String,
        /// Difference between the text that was sent and `text`, in order.
        #[serde(default)]
        edits: Vec<QueueTextEdit>,
        /// Edits that were carried out.
        done: Vec<String>,
        /// Lines without a number that were added earlier, so that no task was added for them.
        #[serde(default)]
        known: Vec<String>,
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
        /// Whether the line stays in the file as it was written.
        #[serde(default)]
        kept: bool,
    }
    /// A change of a text.
    QueueTextEdit {
        /// First byte of the UTF-8 text that is replaced.
        start: u64,
        /// Byte behind the last one that is replaced.
        end: u64,
        /// What is there instead.
        text: String,
    }
}

requests! {
    /// A work queue that people have edited.
    QueueBody {
        /// The whole file.
        text: String,
        /// Offsets of characters of `text`, in bytes and ascending, that stand for bytes which are not UTF-8. Entries with
        /// such characters are left as they are.
        #[serde(default)]
        undecoded: Vec<u64>,
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
