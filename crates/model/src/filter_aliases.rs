//! Presences of earlier versions, which filters of the API still accept (`docs/glossary.md` explains each once).

use crate::Presence;

/// Word of an earlier version and the presence that it means.
const ALIASES: &[(&str, Presence)] = &[
    ("robed", Presence::Ready),
    ("unrobed", Presence::WorkerOnly),
    ("lobster", Presence::IngressOnly),
    ("dead", Presence::Down),
];

impl Presence {
    /// Parses a presence in a filter of a request, where the names of earlier versions are accepted as well.
    ///
    /// # Errors
    /// When the word is neither a presence nor the name of one in an earlier version.
    pub fn from_filter(word: &str) -> Result<Presence, String> {
        match ALIASES.iter().find(|(alias, _)| *alias == word) {
            Some((_, presence)) => Ok(*presence),
            None => word.parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_words_of_presence_are_accepted_by_filters_only() {
        assert_eq!(Presence::from_filter("robed"), Ok(Presence::Ready));
        assert_eq!(Presence::from_filter("idle"), Ok(Presence::Idle));
        assert!("robed".parse::<Presence>().is_err());
    }
}
