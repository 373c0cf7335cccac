//! The skill library in memory.

use abbey_agents::skill::Skill;
use abbey_engine::matcher::{self, Candidate, Match, Rule};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

/// Patterns of the built-in skills, compiled once: their text never changes.
static STOCK_RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let with_program = abbey_agents::library::stock_skills().filter(|s| s.program.is_some());
    let rules = with_program.map(|s| Rule::new(&s.name, &s.patterns));
    rules.filter_map(Result::ok).collect()
});

/// The skills of one reading of the library, ready to match.
#[derive(Default)]
pub(crate) struct SkillSet {
    /// Valid skills by name.
    pub(crate) all: BTreeMap<String, Skill>,
    /// Errors of the skills that could not be loaded.
    pub(crate) invalid: Vec<String>,
    rules: Vec<Rule>,
}

impl SkillSet {
    /// Reads the built-in skills and those in a directory. Patterns that are compiled already, in `before` or as built in,
    /// are not compiled again: that is what costs here.
    pub(crate) fn load(dir: &std::path::Path, before: &SkillSet) -> SkillSet {
        let rule = |s: &Skill| {
            let mut compiled = before.rules.iter().chain(STOCK_RULES.iter());
            let known = compiled.find(|r| r.is_compiled_from(&s.name, &s.patterns));
            known
                .cloned()
                .or_else(|| Rule::new(&s.name, &s.patterns).ok())
        };
        let (all, invalid) = abbey_agents::library::load_catalogue(dir);
        let rules = all
            .values()
            .filter(|s| s.program.is_some())
            .filter_map(rule)
            .collect();
        SkillSet {
            all,
            invalid: invalid.iter().map(ToString::to_string).collect(),
            rules,
        }
    }

    /// Skills whose patterns match a text, with their scores.
    pub(crate) fn matching_skills(&self, text: &str) -> Vec<Candidate> {
        matcher::score_skills(&self.rules, text)
    }

    /// Result of matching a text: one skill, several, or none.
    pub(crate) fn find_unique_match(&self, text: &str) -> Match {
        matcher::match_skill(&self.rules, text)
    }
}

/// The newest reading of the skill library.
pub(crate) struct SkillLibrary {
    dir: PathBuf,
    current: RwLock<Arc<SkillSet>>,
}

impl SkillLibrary {
    /// Reads the library from a directory.
    pub(crate) fn load(dir: PathBuf) -> SkillLibrary {
        let current = RwLock::new(Arc::new(SkillSet::load(&dir, &SkillSet::default())));
        SkillLibrary { dir, current }
    }

    /// The skills as last read.
    pub(crate) fn current(&self) -> Arc<SkillSet> {
        Arc::clone(&self.current.read())
    }

    /// Names of the skills whose files differ from those that were last read.
    pub(crate) fn changed_on_disk(&self) -> Vec<String> {
        let (current, fresh) = (
            self.current(),
            abbey_agents::library::load_catalogue(&self.dir),
        );
        let hashes = |all: &BTreeMap<String, Skill>| -> BTreeMap<String, String> {
            all.iter()
                .map(|(n, s)| (n.clone(), s.hash.clone()))
                .collect()
        };
        let (before, after) = (hashes(&current.all), hashes(&fresh.0));
        let names = before.keys().chain(after.keys());
        let names = names.filter(|name| before.get(*name) != after.get(*name));
        let mut names: Vec<String> = names.cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    /// Reads the directory again.
    pub(crate) fn reload(&self) {
        let fresh = SkillSet::load(&self.dir, &self.current());
        *self.current.write() = Arc::new(fresh);
    }
}
