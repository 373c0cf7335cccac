//! Names of agents and services as people type them.

use crate::exit::{self, Failure};
use crate::manifest_file::parse_slug;
use abbey_daemon::manifest;
use abbey_model::Slug;

/// Each name once, in the order in which they came first.
pub(crate) fn distinct(names: &[String]) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    names.iter().filter(|n| seen.insert(*n)).cloned().collect()
}

/// Parses the name that an agent is to have from now on.
///
/// # Errors
/// As [`parse_slug`]; exit code 4 for a word that means something else where agents are named.
pub(crate) fn parse_new_agent(text: &str) -> Result<Slug, Failure> {
    let name = parse_slug(text)?;
    match manifest::reserved_agent_name(&name) {
        None => Ok(name),
        Some(why) => Err(Failure::plain(why)
            .hint("nothing was changed")
            .with_code(exit::CONFLICT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_stays_once() {
        let names = ["b", "a", "b", "service/a", "a"].map(str::to_owned);
        assert_eq!(distinct(&names), ["b", "a", "service/a"]);
    }
}
