//! Decodes checkpoint sinks.

use super::decoder::{Decoder, check_without_password, takes_credential, text};
use crate::node::Node;
use crate::sink::CheckpointSink;
use abbey_model::Slug;
use std::collections::BTreeMap;
use std::path::{Component, Path};

impl Decoder<'_> {
    /// Decodes the checkpoint sinks of the manifest and reports mistakes in each.
    pub(crate) fn decode_sinks(&mut self) -> BTreeMap<Slug, CheckpointSink> {
        let mut sinks = BTreeMap::new();
        let entries = self.root.get("checkpoint_sinks");
        for entry in entries.map_or(&[][..], Node::entries) {
            match decode_sink(Some(&entry.value)) {
                Ok(sink) => {
                    let twin = sinks
                        .iter()
                        .find(|(_, s): &(&Slug, &CheckpointSink)| s.target() == sink.target());
                    if let Some((name, _)) = twin {
                        let text = format!(
                            "checkpoint sink `{}`: `{name}` is the same destination",
                            entry.key
                        );
                        self.mistakes.push(entry.place.mistake(text));
                    }
                    if let Ok(name) = entry.key.parse() {
                        sinks.insert(name, sink);
                    }
                }
                Err(why) => {
                    let text = format!("checkpoint sink `{}`: {why}", entry.key);
                    self.mistakes.push(entry.place.mistake(text));
                }
            }
        }
        sinks
    }
}

fn decode_sink(value: Option<&Node>) -> Result<CheckpointSink, String> {
    let token = text(value, "token");
    if token.is_some() && text(value, "url").is_none() {
        return Err("`token` belongs to `url`".to_owned());
    }
    match (
        text(value, "file"),
        text(value, "syslog"),
        text(value, "url"),
    ) {
        (Some(file), None, None) => {
            let path = Path::new(file);
            let plain = |c| matches!(c, Component::RootDir | Component::Normal(_));
            match path.is_absolute() && path.components().all(plain) {
                true => Ok(CheckpointSink::File(path.components().collect())),
                false => Err(format!(
                    "`file` is `{file}`, and must be an absolute path without `..`"
                )),
            }
        }
        (None, Some(address), None) => Ok(CheckpointSink::Syslog(address.parse()?)),
        (None, None, Some(url)) => {
            check_without_password("url", url, "give the credential as `token: env:NAME`")?;
            let secure = takes_credential(url);
            if !secure && !url.starts_with("http://") {
                return Err(format!(
                    "`url` is `{url}`, and must begin with https:// or http://"
                ));
            }
            if token.is_some() && !secure {
                return Err(format!(
                    "`url` is `{url}`, but a credential is sent only to https:// or to 127.0.0.1"
                ));
            }
            let token = token.and_then(|t| t.parse().ok());
            Ok(CheckpointSink::Http {
                url: url.to_owned(),
                token,
            })
        }
        _ => Err("needs exactly one of `file`, `syslog` and `url`".to_owned()),
    }
}
