//! Shared documents. Keys may be added, none removed or renamed.

use crate::Time;
use crate::views::documents;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

documents! {
    /// `abbey document list`.
    DocumentsDoc {
        /// Always 1.
        version: u32,
        /// Those that the caller reads.
        documents: Vec<DocumentView>,
    }
    /// One shared document.
    DocumentView {
        /// Its name.
        name: String,
        /// `text`, `log` or `report`.
        kind: String,
        /// Who writes it or adds to it; `operator` where no agent does, none for a report.
        writers: Vec<String>,
        /// Agents who read it.
        readers: Vec<String>,
        /// Number of the newest version or entry; 0 when there is none, and for a report.
        newest: u64,
        /// When that was written.
        at: Option<Time>,
        /// By whom.
        author: Option<String>,
    }
    /// `abbey document show NAME`.
    DocumentDoc {
        /// Always 1.
        version: u32,
        /// Which.
        document: DocumentView,
        /// The version that is shown; of a log, its newest entry.
        shown: u64,
        /// Its text; of a log, a line for each of its newest entries.
        text: String,
    }
    /// The work queue as a file that people edit.
    QueueBody {
        /// The whole file.
        text: String,
    }
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
    /// A new version of a text, or one more entry of a log.
    DocumentBody {
        /// What it says.
        text: String,
        /// Of a text: the version that the writer saw, 0 for none.
        seen: Option<u64>,
    }
}
