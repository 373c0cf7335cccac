//! Shared documents.

use crate::headers::IdempotencyKey;
use crate::macros::{documents, operations, queries, requests};
use crate::time::Time;
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
    /// Shared documents.
    DocumentsDoc {
        /// Always 1.
        version: u32,
        /// Documents that the caller may read.
        documents: Vec<DocumentView>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// A shared document.
    DocumentView {
        /// Name of the document.
        name: String,
        /// Kind of the document.
        kind: DocumentType,
        /// Principals that write it; none for a report.
        writers: Vec<String>,
        /// Agents that read it.
        readers: Vec<String>,
        /// Number of the newest version or entry; 0 when there is none, and for a report.
        newest: u64,
        /// When the newest version was written.
        at: Option<Time>,
        /// Principal that wrote the newest version.
        author: Option<String>,
    }
    /// A version of a shared document.
    DocumentDoc {
        /// Always 1.
        version: u32,
        /// The document.
        document: DocumentView,
        /// Number of the version that is returned; for a log, its newest entry.
        shown: u64,
        /// Its text; for a log, one line for each of its newest entries.
        text: String,
    }
}

requests! {
    /// A new version of a text, or an entry of a log.
    DocumentBody {
        /// Text to write.
        text: String,
        /// For a text: number of the version that the writer read, 0 for none.
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
