//! Where imported agents stand in the house that gets them: below whom, and which installation they came from. A comment in
//! the manifest records the latter, so it goes with the agent's entry.

use abbey_daemon::manifest::{self, House, IMPORT_RECORD, Mistake, is_import_record};
use abbey_import::{Import, ImportedAgent, ReportKind};
use abbey_model::Slug;
use std::path::Path;

/// Place of notes about the house's organization in an import report.
const ORGANIZATION: &str = "reports_to";

/// The installation that an import reads.
pub(crate) struct Installation {
    /// Format and path, as they begin the comment.
    beginning: String,
}

impl Installation {
    pub(crate) fn new(format: &str, path: &Path) -> Installation {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        // As JSON a path is one line, whatever is in it.
        let path = serde_json::json!(path.to_string_lossy());
        Installation {
            beginning: format!("{IMPORT_RECORD}{format} {path}: "),
        }
    }

    /// Manifest text with the entry of an agent, and the comment that records where it came from.
    ///
    /// # Errors
    /// As [`manifest::add_entry`].
    pub(crate) fn add_entry(
        &self,
        text: &str,
        agent: &ImportedAgent,
    ) -> Result<String, Vec<Mistake>> {
        let comment = format!("{}{}", self.beginning, serde_json::json!(agent.was));
        let count = |text: &str| text.lines().filter(|l| l.trim() == comment).count();
        let mut lines = agent.manifest_lines();
        // Records in the entry of a bundle are of another house.
        lines.retain(|line| !is_import_record(line));
        lines.insert(1.min(lines.len()), format!("  {comment}"));
        let edited = manifest::add_entry(text, &agent.slug, &lines)?;
        Ok(match count(&edited) > count(text) {
            true => edited,
            // Between braces there is no place for a comment.
            false => format!("{}\n{comment} as {}\n", edited.trim_end(), agent.slug),
        })
    }

    /// Agents of the house that came from this installation and are in `import` again.
    pub(crate) fn imported_before(&self, text: &str, house: &House, import: &Import) -> Vec<Slug> {
        let again = |was: &String| import.agents.iter().any(|a| a.was == *was);
        let mut found = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let Some(rest) = line.trim().strip_prefix(&self.beginning) else {
                continue;
            };
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            if !values
                .next()
                .and_then(Result::ok)
                .is_some_and(|w| again(&w))
            {
                continue;
            }
            let rest = rest.get(values.byte_offset()..).unwrap_or_default();
            let agent = match rest.trim_start().strip_prefix("as ") {
                Some(name) => house.agents.values().find(|a| a.slug.as_str() == name),
                // The entry that the comment is in is the last one that begins before it.
                None => {
                    let before = house.agents.values().filter(|a| a.line <= number);
                    before.max_by_key(|a| a.line)
                }
            };
            found.extend(agent.map(|a| a.slug.clone()));
        }
        found.sort();
        found.dedup();
        found
    }
}

/// Agents that report to no other: they get tasks that name no agent and that no skill and no charter decides.
pub(crate) fn top_of(house: &House) -> Vec<Slug> {
    let top = house.agents.values().filter(|a| a.reports_to.is_none());
    top.map(|a| a.slug.clone()).collect()
}

/// Puts imported agents that report to nobody below the agent at the top of the house, if there is exactly one, and reports
/// that, or else what it means that they are at the top. Entries of bundles are in the manifest text, the others not yet.
///
/// # Errors
/// If an entry is written in a style that cannot be edited.
pub(crate) fn place_below_top(
    import: &mut Import,
    text: &mut String,
    top: &[Slug],
) -> Result<(), Vec<Mistake>> {
    let mut at_top = Vec::new();
    let mut placed = Vec::new();
    for agent in &mut import.agents {
        let reports = match &agent.entry {
            Some(_) => manifest::has_value_at(text, &agent.slug, &["reports_to"]),
            None => agent.reports_to.is_some(),
        };
        match top {
            _ if reports => {}
            [above] => {
                agent.reports_to = Some(above.clone());
                if agent.entry.is_some() {
                    *text = manifest::set_key(text, &agent.slug, "reports_to", above.as_str())?;
                    agent.entry = Some(manifest::agent_entry(text, &agent.slug)?);
                }
                placed.push((agent.place.clone(), format!(
                    "`{}` reports to `{above}`, which is at the top of the organization and gets tasks that name no agent",
                    agent.slug
                )));
            }
            _ => at_top.push(agent.slug.clone()),
        }
    }
    for (place, text) in placed {
        import.add_report_entry(ReportKind::Changed, place, text);
    }
    if !at_top.is_empty() {
        let (new, old) = (list(&at_top), list(top));
        let beside = match top {
            [] => format!("at the top of the organization: {new}"),
            _ => format!("at the top of the organization: {new}, beside {old}"),
        };
        let text = format!(
            "{beside}; tasks that name no agent, and that no skill and no agent's role fits clearly, are offered to all of them: set `reports_to` where that is not meant"
        );
        import.add_report_entry(ReportKind::Note, ORGANIZATION, text);
    }
    Ok(())
}

/// Names for a message.
pub(crate) fn list(names: &[Slug]) -> String {
    let names: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
    names.join(", ")
}
