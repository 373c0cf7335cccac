//! The skill library in memory.

use abbey_agents::arguments::convert_arguments;
use abbey_agents::skill::{InvalidSkill, Skill};
use abbey_engine::matcher::{Explanation, Rule, explain, score_by_words};
use parking_lot::RwLock;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The skills of one reading of the library, ready to match.
#[derive(Default)]
pub(crate) struct SkillSet {
    /// Valid skills by name.
    pub(crate) all: BTreeMap<String, Skill>,
    /// Errors of the skills that could not be loaded.
    pub(crate) invalid: Vec<InvalidSkill>,
    /// What matching knows of each skill.
    pub(crate) rules: Vec<Rule>,
}

impl SkillSet {
    /// Reads the built-in skills and those in a directory.
    pub(crate) fn load(dir: &std::path::Path) -> SkillSet {
        let (all, invalid) = abbey_agents::library::load_catalogue(dir);
        let rules = all.values().map(Skill::matching_rule).collect();
        SkillSet {
            all,
            invalid,
            rules,
        }
    }

    /// Scores of the skills that a text has to do with, by name: by their patterns, or else by their words.
    pub(crate) fn matching_skills(&self, text: &str) -> BTreeMap<String, u32> {
        let mut scores: BTreeMap<String, u32> =
            score_by_words(&self.rules, text).into_iter().collect();
        for found in self.explain(text).considered {
            scores.insert(found.skill, found.score);
        }
        scores
    }

    /// Why the skill of this name could not be loaded; none if it could, or if there is none.
    pub(crate) fn why_invalid(&self, name: &str) -> Option<String> {
        let invalid = self.invalid.iter().find(|skill| skill.name == name)?;
        Some(invalid.to_string())
    }

    /// Arguments of a skill in the types that it declares; those of a skill that is not there stay as they are.
    pub(crate) fn convert_arguments(
        &self,
        skill: &str,
        args: BTreeMap<String, Value>,
    ) -> BTreeMap<String, Value> {
        match self.all.get(skill) {
            Some(skill) => convert_arguments(&skill.args, args),
            None => args,
        }
    }

    /// How a text is matched in a house that does not run, of which no names are known.
    pub(crate) fn explain(&self, text: &str) -> Explanation {
        explain(&self.rules, text, None)
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
        let current = RwLock::new(Arc::new(SkillSet::load(&dir)));
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
        let fresh = SkillSet::load(&self.dir);
        *self.current.write() = Arc::new(fresh);
    }
}
