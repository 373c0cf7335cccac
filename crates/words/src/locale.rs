//! Tags of languages (BCP 47) and names of locales (POSIX), parsed and normalised (S1-22).

use std::fmt;
use std::str::FromStr;
use unic_langid::LanguageIdentifier;

/// Why a tag or a name of a locale is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocaleError {
    /// Not a language tag.
    #[error("`{0}` is not a language tag; write it like `sl-SI`")]
    Tag(String),
    /// Not a name of a POSIX locale.
    #[error("`{0}` is not a system locale; write it like `sl_SI.UTF-8`")]
    System(String),
    /// A locale with another encoding than UTF-8.
    #[error("the locale `{0}` is not in UTF-8; write it as `{1}.UTF-8`")]
    Charset(String, String),
}

/// Normalizes a language tag to its canonical form (BCP 47).
///
/// # Errors
/// [`LocaleError::Tag`] when it is not a language tag.
pub fn normalize_language_tag(text: &str) -> Result<String, LocaleError> {
    let wrong = || LocaleError::Tag(text.to_owned());
    let parsed: LanguageIdentifier = text.parse().map_err(|_| wrong())?;
    // The notation of the other kind parses as well.
    match text.contains('_') || parsed.language.is_empty() {
        true => Err(wrong()),
        false => Ok(parsed.to_string()),
    }
}

/// Name of a locale, like `sl_SI.UTF-8`. Source: POSIX, "Internationalization Variables"; names as in locale(7) of
/// Linux.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SystemLocale {
    language: String,
    modifier: Option<String>,
}

impl SystemLocale {
    /// The locale `C.UTF-8`, which every host has.
    pub fn plain() -> SystemLocale {
        SystemLocale {
            language: "C".to_owned(),
            modifier: None,
        }
    }

    /// Whether the C library supports the locale without locale files on the host.
    pub fn is_plain(&self) -> bool {
        self.language == "C" || self.language == "POSIX"
    }

    /// Name of the locale in the host's locale directory and archive, like `sl_SI.utf8`.
    pub fn file_name(&self) -> String {
        let modifier = self.modifier.as_ref();
        let modifier = modifier.map_or_else(String::new, |m| format!("@{m}"));
        format!("{}.utf8{modifier}", self.language)
    }
}

impl fmt::Display for SystemLocale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.UTF-8", self.language)?;
        match &self.modifier {
            Some(modifier) => write!(f, "@{modifier}"),
            None => Ok(()),
        }
    }
}

impl FromStr for SystemLocale {
    type Err = LocaleError;
    fn from_str(text: &str) -> Result<SystemLocale, LocaleError> {
        let wrong = || LocaleError::System(text.to_owned());
        let (rest, modifier) = match text.split_once('@') {
            Some((rest, modifier)) => (rest, Some(modifier)),
            None => (text, None),
        };
        let (language, charset) = match rest.split_once('.') {
            Some((language, charset)) => (language, Some(charset)),
            None => (rest, None),
        };
        let lower = |t: &str, n: std::ops::RangeInclusive<usize>| {
            n.contains(&t.len()) && t.bytes().all(|b| b.is_ascii_lowercase())
        };
        let good = match language.split_once('_') {
            Some((language, country)) => {
                let country = country.len() == 2 && country.bytes().all(|b| b.is_ascii_uppercase());
                lower(language, 2..=3) && country
            }
            None => matches!(language, "C" | "POSIX") || lower(language, 2..=3),
        };
        if !good || modifier.is_some_and(|m| !lower(m, 1..=16)) {
            return Err(wrong());
        }
        let word = |c: &str| c.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if charset.is_some_and(|c| !word(c)) {
            return Err(wrong());
        }
        let utf8 = charset.is_some_and(|c| {
            let plain: String = c.chars().filter(char::is_ascii_alphanumeric).collect();
            plain.eq_ignore_ascii_case("utf8")
        });
        match utf8 {
            true => Ok(SystemLocale {
                language: language.to_owned(),
                modifier: modifier.map(str::to_owned),
            }),
            false => Err(LocaleError::Charset(text.to_owned(), language.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_are_told_apart_and_checked() {
        assert_eq!(normalize_language_tag("sl-si").unwrap(), "sl-SI");
        assert_eq!(normalize_language_tag("zh-CN").unwrap(), "zh-CN");
        for wrong in ["", "sl_SI", "slovenian language", "sl_SI.UTF-8", "$(id)"] {
            assert!(normalize_language_tag(wrong).is_err(), "{wrong}");
        }
        let system = |text: &str| text.parse::<SystemLocale>();
        assert_eq!(system("sl_SI.UTF-8").unwrap().file_name(), "sl_SI.utf8");
        assert_eq!(
            system("de_DE.utf8@euro").unwrap().to_string(),
            "de_DE.UTF-8@euro"
        );
        assert!(system("C.UTF-8").unwrap().is_plain());
        for wrong in ["sl-SI", "sl_SI.UTF-8; id", "../x.UTF-8", "SL_si.UTF-8", ""] {
            assert!(
                matches!(system(wrong), Err(LocaleError::System(_))),
                "{wrong}"
            );
        }
        let told = system("sl_SI.ISO-8859-2").unwrap_err().to_string();
        assert!(told.contains("write it as `sl_SI.UTF-8`"), "{told}");
        assert!(matches!(system("de_DE"), Err(LocaleError::Charset(..))));
    }
}
