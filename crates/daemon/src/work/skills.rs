//! The skill library in memory.

use abbey_agents::skill::Skill;
use abbey_engine::matcher::{self, Candidate, Match, Rule};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The skills of the house, ready to match.
#[derive(Default)]
pub(crate) struct SkillSet {
    pub(crate) all: BTreeMap<String, Skill>,
    pub(crate) invalid: Vec<String>,
    rules: Vec<Rule>,
}

impl SkillSet {
    pub(crate) fn load(dir: &std::path::Path) -> SkillSet {
        let (all, invalid) = abbey_agents::library::catalogue(dir);
        let rules = all
            .values()
            .filter(|s| s.program.is_some())
            .filter_map(|s| Rule::new(&s.name, &s.patterns).ok())
            .collect();
        SkillSet {
            all,
            invalid: invalid.iter().map(ToString::to_string).collect(),
            rules,
        }
    }

    /// SkillSet that fit a text, by score.
    pub(crate) fn matching_skills(&self, text: &str) -> Vec<Candidate> {
        matcher::candidates(&self.rules, text)
    }

    /// The one skill that fits a text, if exactly one does.
    pub(crate) fn find_unique_match(&self, text: &str) -> Match {
        matcher::find(&self.rules, text)
    }
}

/// The skills as they were read last.
pub(crate) struct SkillLibrary {
    dir: PathBuf,
    current: RwLock<Arc<SkillSet>>,
}

impl SkillLibrary {
    pub(crate) fn load(dir: PathBuf) -> SkillLibrary {
        let current = RwLock::new(Arc::new(SkillSet::load(&dir)));
        SkillLibrary { dir, current }
    }

    pub(crate) fn current(&self) -> Arc<SkillSet> {
        Arc::clone(&self.current.read())
    }

    /// Reads the directory again.
    pub(crate) fn reload(&self) {
        *self.current.write() = Arc::new(SkillSet::load(&self.dir));
    }
}
