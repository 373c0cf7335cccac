//! Durations as people type them on the command line, and the present from which they count.

use abbey_daemon::manifest;
use abbey_model::Timestamp;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Parses a duration like `10m`; a number alone counts seconds. A value parser of clap.
///
/// # Errors
/// What to write instead, for text that is no duration or longer than a year.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u64>().is_ok().then(|| format!("{text}s"));
    manifest::parse_duration_ms(seconds.as_deref().unwrap_or(text))
        .and_then(|ms| u64::try_from(ms).ok())
        .map(Duration::from_millis)
        .ok_or_else(|| {
            "write seconds, or a number with `s`, `m`, `h` or `d`, like `90s` or `10m`".to_owned()
        })
}

/// As [`parse_duration`], for what cannot be zero.
///
/// # Errors
/// As [`parse_duration`].
pub(crate) fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it must be longer than nothing".to_owned()),
        duration => Ok(duration),
    }
}

/// The present.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, milliseconds))
}

/// Milliseconds of a duration.
pub(crate) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_alone_counts_seconds() {
        for (text, seconds) in [
            ("90", 90),
            ("90s", 90),
            ("10m", 600),
            ("0", 0),
            ("2h", 7200),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in ["", "s", "-5", "1x", "ten", "99999999999999999999", "400d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_positive_duration("0s").is_err());
    }
}
