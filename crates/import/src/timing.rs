//! Times of other schedulers in the form of the house, as its own scheduler reads them.

use crate::document::Key;
use crate::imported_agent::ScheduleTime;
use crate::names::one_line;
use crate::{Import, ReportKind};
use abbey_engine::budget::TimeZone;
use abbey_engine::timetable::{parse_cron, parse_instant};
use jiff::civil::DateTime;

/// Names that stand for cron patterns.
const NAMED: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];
/// Longest interval of a schedule, in seconds.
const EVERY_MAX: u64 = 366 * 86_400;

/// Time of a schedule, or why the house cannot have it.
pub(crate) type Timing = Result<ScheduleTime, String>;

/// A cron pattern with its time zone. A change of its form, and a zone that is missing, are reported at `pattern`.
pub(crate) fn cron(import: &mut Import, pattern: &Key<'_>, zone: Option<&str>) -> Timing {
    let Some(written) = pattern.text() else {
        return Err("it has no cron pattern".to_owned());
    };
    let (cron, change) = five_fields(written)?;
    let zone = zone.map(str::trim).filter(|z| !z.is_empty());
    if let Some(zone) = zone {
        check_zone(zone)?;
    }
    if let Some(change) = change {
        pattern.report(import, ReportKind::Changed, change);
    }
    if zone.is_none() {
        let text = "no time zone is given: it runs in that of the house; set `timezone` in the schedule if that is another";
        pattern.report(import, ReportKind::Changed, text);
    }
    Ok(ScheduleTime::Cron(cron, zone.map(str::to_owned)))
}

/// Checks that the house knows a time zone.
///
/// # Errors
/// That it does not.
pub(crate) fn check_zone(zone: &str) -> Result<(), String> {
    match TimeZone::get(zone) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("`{}` is not a time zone", one_line(zone))),
    }
}

/// Pattern of five fields, and what was changed in it.
fn five_fields(written: &str) -> Result<(String, Option<String>), String> {
    let written = one_line(written);
    let lower = written.to_lowercase();
    let named = NAMED.iter().find(|(name, _)| *name == lower);
    let fields: Vec<&str> = written.split(' ').collect();
    let (cron, change) = match (named, fields.as_slice()) {
        (Some((_, cron)), _) => {
            let change = format!("`{written}` is written as `{cron}`");
            ((*cron).to_owned(), Some(change))
        }
        (None, [second, rest @ ..]) if rest.len() == 5 => {
            if second.parse::<u8>().is_err() {
                return Err(format!(
                    "`{written}` starts several times a minute; a schedule here starts at most once a minute by `cron`, use `every`"
                ));
            }
            let cron = rest.join(" ");
            let change =
                format!("`{written}` is written as `{cron}`: patterns have no field for seconds");
            (cron, Some(change))
        }
        _ => (written, None),
    };
    if cron.split(' ').count() != 5 {
        return Err(format!("`{cron}` is not a cron pattern of five fields"));
    }
    parse_cron(&cron).map(|_| (cron, change))
}

/// An instant as text. One without an offset is in `zone`, or else in UTC, which is reported.
pub(crate) fn instant(import: &mut Import, at: &Key<'_>, zone: Option<&str>) -> Timing {
    let Some(written) = at.text() else {
        return Err("it has no instant".to_owned());
    };
    let written = one_line(written);
    if parse_instant(&written).is_ok() {
        return Ok(ScheduleTime::At(written));
    }
    let wrong = || format!("`{written}` is not an instant");
    let local: DateTime = written.parse().map_err(|_| wrong())?;
    let name = zone
        .map(str::trim)
        .filter(|z| !z.is_empty())
        .unwrap_or("UTC");
    check_zone(name)?;
    let there = TimeZone::get(name).and_then(|zone| local.to_zoned(zone));
    let text = there.map_err(|_| wrong())?.timestamp().to_string();
    let change = format!("`{written}` has no offset: read in time zone {name}, as `{text}`");
    at.report(import, ReportKind::Changed, change);
    Ok(ScheduleTime::At(text))
}

/// An interval in seconds.
pub(crate) fn every(seconds: u64) -> Timing {
    match seconds {
        0 => Err("its interval is less than a second".to_owned()),
        1..=EVERY_MAX => Ok(ScheduleTime::Every(seconds)),
        _ => Err("its interval is longer than 366 days".to_owned()),
    }
}

/// Seconds of a duration such as `30m`, `1h30m` or `1h 30m`; a number alone has the unit `bare`, in seconds. None when it
/// is not a duration.
pub(crate) fn duration(text: &str, bare: u64) -> Option<u64> {
    let text: String = text.to_lowercase().split_whitespace().collect();
    let mut rest = text.as_str();
    let mut millis = 0u64;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (digits, behind) = rest.split_at(end);
        let number: u64 = digits.parse().ok()?;
        let end = behind
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let unit = match unit {
            "" if digits == text => bare.checked_mul(1000)?,
            "ms" => 1,
            "s" | "sec" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        millis = millis.checked_add(number.checked_mul(unit)?)?;
        rest = behind;
    }
    (!text.is_empty()).then_some(millis / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_may_have_several_parts() {
        for (text, seconds) in [
            ("30m", Some(1800)),
            ("1h30m", Some(5400)),
            ("1h 30m", Some(5400)),
            ("90", Some(5400)),
            ("0m", Some(0)),
            ("2d", Some(172_800)),
            ("1500ms", Some(1)),
            ("", None),
            ("soon", None),
            ("1h30", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration(text, 60), seconds, "{text}");
        }
    }

    #[test]
    fn patterns_have_five_fields_or_a_reason() {
        assert_eq!(
            five_fields("0 9 * * 1-5").unwrap(),
            ("0 9 * * 1-5".to_owned(), None)
        );
        assert_eq!(five_fields("0 30 7 * * *").unwrap().0, "30 7 * * *");
        assert_eq!(five_fields("@Daily").unwrap().0, "0 0 * * *");
        for wrong in [
            "*/30 * * * * *",
            "99 9 * * *",
            "0 31 * * *",
            "every full moon",
            "@reboot",
            "",
        ] {
            assert!(five_fields(wrong).is_err(), "{wrong}");
        }
    }
}
