//! What the operator leaves out of an import.

use crate::{Import, ReportKind};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Places that are not imported, as reports write them: a file, a directory, or `FILE: KEY`.
#[derive(Debug, Default)]
pub(crate) struct Skips {
    places: BTreeSet<String>,
    met: RefCell<BTreeSet<String>>,
}

impl Skips {
    /// Leaves these places out.
    pub(crate) fn new(places: &[String]) -> Skips {
        let plain = |p: &String| {
            p.trim()
                .trim_start_matches("./")
                .trim_end_matches('/')
                .to_owned()
        };
        Skips {
            places: places.iter().map(plain).collect(),
            met: RefCell::default(),
        }
    }

    /// Whether a place is left out, or what it is in.
    pub(crate) fn hides(&self, place: &str) -> bool {
        let inside = |skipped: &&String| {
            let rest = place.strip_prefix(skipped.as_str());
            let key = skipped.contains(": ");
            let below = |r: &str| match key {
                true => r.starts_with(['.', '[']),
                false => r.starts_with('/') || r.starts_with(": "),
            };
            rest.is_some_and(|r| r.is_empty() || below(r))
        };
        match self.places.iter().find(inside) {
            Some(skipped) => {
                self.met.borrow_mut().insert(skipped.clone());
                true
            }
            None => false,
        }
    }

    /// Reports what was left out; returns a place that was not met in the installation.
    pub(crate) fn report(&self, import: &mut Import) -> Option<String> {
        let met = self.met.borrow();
        for place in met.iter() {
            import.add_report_entry(ReportKind::Left, place, "left out by `--skip`");
        }
        self.places.difference(&met).next().cloned()
    }
}
