//! Decodes shared documents: which agents write and read each (S3-17, S3-26, S3-41).

use super::decoder::{Decoder, suggest_similar, text, words};
use crate::document::{Document, DocumentKind};
use crate::keys::Agent;
use crate::node::Node;
use abbey_model::Slug;
use std::collections::{BTreeMap, BTreeSet};

/// Most documents: all of them fit into the boot instructions of a microVM.
const DOCUMENTS_MAX: usize = 16;

impl Decoder<'_> {
    /// Decodes the shared documents of the manifest and reports mistakes in each.
    pub(crate) fn decode_documents(
        &mut self,
        agents: &BTreeMap<Slug, Agent>,
    ) -> BTreeMap<Slug, Document> {
        let mut documents = BTreeMap::new();
        if let Some(node) = self.root.get("documents")
            && node.entries().len() > DOCUMENTS_MAX
        {
            let text = format!("a house may have at most {DOCUMENTS_MAX} documents");
            self.mistakes.push(node.place.mistake(text));
        }
        for entry in self.root.get("documents").map_or(&[][..], Node::entries) {
            let value = Some(&entry.value);
            let named = |key| -> Option<BTreeSet<Slug>> {
                entry.value.get(key)?;
                let names = words(value, key);
                Some(names.iter().filter_map(|n| n.parse().ok()).collect())
            };
            let writer: Option<Slug> = text(value, "writer").and_then(|w| w.parse().ok());
            let (writers, readers) = (named("writers"), named("readers"));
            let mut blame = |text: String| {
                let text = format!("document `{}`: {text}", entry.key);
                self.mistakes.push(entry.place.mistake(text));
            };
            let log = text(value, "kind") == Some("log");
            let report = text(value, "report").map(str::to_owned);
            match (log, &report) {
                (true, None) if writer.is_some() => {
                    blame("a log has `writers`, not one `writer`".to_owned());
                }
                (false, None) if writers.is_some() => {
                    blame("a text has one `writer`; only a log has `writers`".to_owned());
                }
                (_, Some(_)) if log || writer.is_some() || writers.is_some() => {
                    blame("a report is generated from the state, so it has no `writer` or `writers` and is not a log".to_owned());
                }
                _ => {}
            }
            let all = writer.iter().chain(writers.iter().flatten());
            for name in all.chain(readers.iter().flatten()) {
                if !agents.contains_key(name) {
                    let known = suggest_similar(name.as_str(), agents.keys().map(Slug::as_str));
                    blame(format!("no agent `{name}`{known}"));
                }
            }
            let kind = match (report, log) {
                (Some(report), _) => DocumentKind::Report(report),
                (None, true) => DocumentKind::Log(writers),
                (None, false) => DocumentKind::Text(writer),
            };
            if let Ok(name) = entry.key.parse() {
                documents.insert(name, Document { kind, readers });
            }
        }
        documents
    }
}
