//! The house that receives an import.

use crate::document::Key;
use crate::report::{Import, ReportKind};
use abbey_model::Slug;
use std::collections::BTreeSet;

/// Facts about the house that receives the import.
#[derive(Debug, Clone, Default)]
pub struct TargetHouse {
    /// Names of agents and services that are in use.
    pub taken: BTreeSet<Slug>,
    /// Declared model providers.
    pub providers: BTreeSet<Slug>,
    /// Name for the imported agent, when there is only one.
    pub named: Option<Slug>,
    /// Places of the installation that are left out, as the import report writes them.
    pub skip: Vec<String>,
}

impl TargetHouse {
    /// Name of a model in the house's notation `PROVIDER/MODEL`; none if its provider is not declared, which is reported at
    /// `key`.
    pub(crate) fn translate_model(
        &self,
        import: &mut Import,
        key: &Key<'_>,
        wanted: &str,
    ) -> Option<String> {
        let plain = !wanted.is_empty() && wanted.chars().all(|c| c.is_ascii_graphic() && c != '"');
        let provider = wanted
            .split_once('/')
            .and_then(|(p, _)| p.parse::<Slug>().ok());
        if plain && provider.is_some_and(|p| self.providers.contains(&p)) {
            return Some(wanted.to_owned());
        }
        let shown: String = wanted
            .chars()
            .filter(|c| !c.is_control())
            .take(80)
            .collect();
        let text = format!(
            "model `{shown}`: its provider is not declared; declare it under `providers` and set `model`"
        );
        key.report(import, ReportKind::Left, text);
        None
    }
}
