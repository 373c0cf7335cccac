//! `abbey document`: lists, shows and writes shared documents.

use crate::connect::operator_client;
use crate::exit::{self, Failure, Outcome};
use crate::output::{self, print_table, text_or_dash};
use abbey_api::{
    DocumentBody, DocumentQuery, DocumentType, DocumentView, DocumentsDoc, DocumentsQuery,
};
use abbey_daemon::Home;
use abbey_support::input::{read_input_text, read_text_within};
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum DocumentCommand {
    /// List the documents with their writers and readers.
    #[command(after_help = "Example:\n  abbey document list")]
    List,
    /// Print a document.
    #[command(after_help = "Example:\n  abbey document show plan --version 3")]
    Show {
        /// Name of the document.
        document: String,
        /// Version to print [default: the newest].
        #[arg(long)]
        version: Option<u64>,
    },
    /// Write a new version of a text document, or append an entry to a log document.
    #[command(after_help = "Example:\n  abbey document write plan --file plan.md --seen 3")]
    Write {
        /// Name of the document.
        document: String,
        /// File to read [default: standard input].
        #[arg(short, long)]
        file: Option<PathBuf>,
        /// Version of the text that you edited, 0 for none; the write is refused if a newer one exists [default: the
        /// newest].
        #[arg(long)]
        seen: Option<u64>,
    },
}

/// `abbey document`: lists shared documents, prints one, or writes a new version of one.
pub(crate) async fn cmd_document(home: &Home, json: bool, command: DocumentCommand) -> Outcome {
    let client = operator_client(home)?;
    match command {
        DocumentCommand::List => {
            let doc = client.documents().list(&DocumentsQuery::default()).await?;
            match json {
                true => output::print_json(&doc),
                false => list(&doc),
            }
        }
        DocumentCommand::Show { document, version } => {
            let query = DocumentQuery { version };
            let doc = client.documents().show(&document, &query).await?;
            match json {
                true => output::print_json(&doc),
                false => output::print_line(doc.text.trim_end()),
            }
        }
        DocumentCommand::Write {
            document,
            file,
            seen,
        } => {
            let text = match &file {
                Some(file) => read_input_text(file, TEXT_MAX)
                    .map_err(|e| Failure::unusable_path("cannot read", file, e))?,
                None => read_text_within(std::io::stdin().lock(), TEXT_MAX).map_err(|e| {
                    Failure::usage(format!("cannot read standard input as UTF-8 text: {e}"))
                })?,
            };
            let newest = DocumentQuery::default();
            let now = client.documents().show(&document, &newest).await?;
            let seen = match now.document.kind {
                DocumentType::Text => Some(seen.unwrap_or(now.document.newest)),
                _ => seen,
            };
            let body = DocumentBody { text, seen };
            let doc = client.documents().write(&document, &body, None).await?;
            match json {
                true => output::print_json(&doc),
                false => output::print_line(&format!(
                    "document `{document}` is at version {}",
                    doc.document.newest
                )),
            }
        }
    }
    Ok(exit::OK)
}

/// Longest text that is read for a document, bytes; the house takes shorter ones.
const TEXT_MAX: u64 = 1 << 20;

fn list(doc: &DocumentsDoc) {
    let row = |d: &DocumentView| {
        vec![
            d.name.clone(),
            d.kind.to_string(),
            d.newest.to_string(),
            text_or_dash(d.author.clone()),
            d.writers.join(", "),
            d.readers.join(", "),
        ]
    };
    print_table(
        &["DOCUMENT", "KIND", "NEWEST", "BY", "WRITERS", "READERS"],
        doc.documents.iter().map(row).collect(),
        "no documents; the key `documents` of the manifest declares them",
    );
}
