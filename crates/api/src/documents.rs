//! Shared documents.

use crate::Time;
use crate::headers::IdempotencyKey;
use crate::macros::{documents, operations, queries, requests};
use abbey_model::words;

words! {
    /// Kind of a shared document.
    DocumentType {
        /// One writer replaces it.
        Text = "text",
        /// Its writers add entries.
        Log = "log",
        /// Made from the state of the house at every reading.
        Report = "report",
    }
}

documents! {
    /// `abbey document list`.
    DocumentsDoc {
        /// Always 1.
        version: u32,
        /// Those that the caller reads.
        documents: Vec<DocumentView>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// One shared document.
    DocumentView {
        /// Its name.
        name: String,
        /// `text`, `log` or `report`.
        kind: DocumentType,
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
}

requests! {
    /// A new version of a text, or one more entry of a log.
    DocumentBody {
        /// What it says.
        text: String,
        /// Of a text: the version that the writer saw, 0 for none.
        seen: Option<u64>,
    }
}

queries! {
    /// Which version to show.
    DocumentQuery {
        /// Number of the version; the newest when not given.
        version: Option<u64>,
    }
    /// Which documents to list.
    DocumentsQuery {
        /// Most rows of one page.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
        /// `cursor` of the page before.
        cursor: Option<String>,
    }
}

operations! {
    /// Shared documents: `client.documents()`.
    DocumentsClient {
        /// Every shared document.
        GET "/api/v1/documents" list() [query DocumentsQuery] -> json(DocumentsDoc);
        /// One shared document.
        GET "/api/v1/documents/{document}" show(document) [query DocumentQuery] -> json(DocumentDoc);
        /// Writes a version of a text, or adds to a log.
        POST "/api/v1/documents/{document}" write(document) [body DocumentBody] [header key: Option<IdempotencyKey>] -> json(DocumentDoc);
    }
}
