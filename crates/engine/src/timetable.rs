//! Schedules: which instants are due, which were missed, and what is done about them (S2-16, S4-05).
//!
//! An instant is a function of the schedule alone, so it is known by its own time: what fired is never fired
//! again, however often it is asked for. Across a change of the clock a job at a fixed time fires once: after a gap
//! at its end, in a fold at the first pass; one of every so many minutes follows the time that passes.
//! Source: the Open Cron Pattern Specification, as `croner` keeps it.

use crate::budget::TimeZone;
use abbey_model::{Millis, Timestamp};
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use std::str::FromStr;

/// Most instants that one call evaluates; beyond that the oldest are only counted.
const LOOK_MAX: usize = 10_000;
/// What fires later than this was missed.
pub const TOLERANCE: Millis = Millis::from_secs(90);

/// Rule that says when a schedule fires.
#[derive(Debug, Clone)]
pub enum ScheduleTiming {
    /// By a cron pattern in a time zone.
    Cron {
        /// Cron pattern of minute, hour, day, month and weekday.
        pattern: Box<Cron>,
        /// Time zone of the pattern.
        zone: TimeZone,
    },
    /// At this interval, counted from the instant at which the schedule was registered.
    Every(Millis),
    /// Once, at this instant.
    At(Timestamp),
}

/// Parses a cron pattern of five fields: minute, hour, day, month, weekday.
///
/// # Errors
/// Why the text is not a pattern.
pub fn parse_cron(text: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
    parser.parse(text).map_err(|e| {
        let why = e.to_string();
        let why = why.trim_start_matches("Component error: ");
        format!("`{text}` is no cron pattern of five fields: {why}")
    })
}

/// Parses one instant like `2026-12-01T10:00:00Z` (RFC 3339).
///
/// # Errors
/// What to write instead.
pub fn parse_instant(text: &str) -> Result<Timestamp, String> {
    let parsed = text.parse::<jiff::Timestamp>();
    parsed
        .map(|at| Timestamp(at.as_millisecond()))
        .map_err(|_| {
            format!(
                "`{text}` is no instant: write day, time and offset, like `2026-12-01T10:00:00Z` or `2026-12-01T11:00:00+01:00`"
            )
        })
}

/// Whether a cron pattern has an instant after `after`: no month has a 31 February.
pub fn occurs_after(pattern: &Cron, after: Timestamp) -> bool {
    let utc = jiff::Timestamp::from_millisecond(after.0).map(|t| t.to_zoned(TimeZone::UTC));
    utc.is_ok_and(|from| pattern.find_next_occurrence(&from, false).is_ok())
}

/// What happens to instants that passed while the house was down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// They are counted as missed.
    Skip,
    /// The newest one fires.
    #[default]
    Once,
    /// This many of the newest fire, in order.
    All(u32),
}

impl FromStr for CatchUp {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is not `skip`, `once` or a number of missed ones to fire, 1 to 1000")
        };
        match text {
            "skip" => Ok(CatchUp::Skip),
            "once" => Ok(CatchUp::Once),
            number => match number.parse::<u32>() {
                Ok(n @ 1..=1000) => Ok(CatchUp::All(n)),
                _ => Err(wrong()),
            },
        }
    }
}

/// What happens when what the previous instant started has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// The instant starts nothing.
    #[default]
    Skip,
    /// The instant starts its work as well; the queue orders both.
    Queue,
    /// The previous start is cancelled.
    Replace,
}

impl FromStr for Overlap {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "skip" => Ok(Overlap::Skip),
            "queue" => Ok(Overlap::Queue),
            "replace" => Ok(Overlap::Replace),
            _ => Err(format!("`{text}` is not `skip`, `queue` or `replace`")),
        }
    }
}

/// Instants of a schedule that are due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Instants that fire, oldest first.
    pub fire: Vec<Timestamp>,
    /// Number of instants that were missed and do not fire.
    pub missed: u64,
    /// Last of the instants considered; none when none is due.
    pub through: Option<Timestamp>,
}

impl ScheduleTiming {
    /// First instant of the schedule after the instant `after`; none when there is no more. `since` is when the
    /// schedule was registered.
    pub fn next_after(&self, since: Timestamp, after: Timestamp) -> Option<Timestamp> {
        match self {
            ScheduleTiming::At(at) => Some(*at).filter(|at| *at > after),
            ScheduleTiming::Every(every) => {
                let every = every.0.max(1000);
                let passed = after.since(since).0.max(0) / every;
                Some(Timestamp(since.0 + (passed + 1) * every))
            }
            ScheduleTiming::Cron { pattern, zone } => {
                let from = jiff::Timestamp::from_millisecond(after.0).ok()?;
                let next = pattern
                    .find_next_occurrence(&from.to_zoned(zone.clone()), false)
                    .ok()?;
                Some(Timestamp(next.timestamp().as_millisecond()))
            }
        }
    }

    /// Instants of the schedule between `settled` and `now` that fire now, and the number of those that count as
    /// missed. `since` is when the schedule was registered.
    pub fn due_instants(
        &self,
        since: Timestamp,
        settled: Timestamp,
        now: Timestamp,
        catch_up: CatchUp,
    ) -> Due {
        let mut instants = Vec::new();
        let mut at = settled;
        while let Some(next) = self.next_after(since, at).filter(|n| *n <= now) {
            instants.push(next);
            at = next;
            if instants.len() == LOOK_MAX {
                break;
            }
        }
        let through = instants.last().copied();
        let (late, fresh): (Vec<_>, Vec<_>) = instants
            .into_iter()
            .partition(|i| now.since(*i) > TOLERANCE);
        let kept = match catch_up {
            CatchUp::Skip => 0,
            // What is fresh makes up for what was missed.
            CatchUp::Once => usize::from(fresh.is_empty()),
            CatchUp::All(n) => usize::try_from(n).unwrap_or(usize::MAX),
        };
        let skipped = late.len().saturating_sub(kept);
        let mut fire = late[skipped..].to_vec();
        // However short the pauses, one is enough for a moment that was slept through.
        fire.extend(match catch_up {
            CatchUp::All(_) => &fresh[..],
            CatchUp::Skip | CatchUp::Once => &fresh[fresh.len().saturating_sub(1)..],
        });
        Due {
            fire,
            missed: u64::try_from(skipped).unwrap_or(u64::MAX),
            through,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    fn timing(pattern: &str, zone: &str) -> ScheduleTiming {
        ScheduleTiming::Cron {
            pattern: Box::new(parse_cron(pattern).unwrap()),
            zone: TimeZone::get(zone).unwrap(),
        }
    }

    fn instant(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn shown(at: Timestamp, zone: &str) -> String {
        let at = jiff::Timestamp::from_millisecond(at.0).unwrap();
        let there = at.to_zoned(TimeZone::get(zone).unwrap());
        there.strftime("%m-%d %H:%M %Z").to_string()
    }

    /// Four zones, both changes of the clock, in the gap and in the fold: each instant once.
    #[test]
    fn the_clock_changes_and_each_instant_is_there_once() {
        let zones = [
            (
                "Europe/Ljubljana",
                "2026-03-28T12:00:00Z",
                "2026-10-24T12:00:00Z",
            ),
            (
                "America/New_York",
                "2026-03-07T12:00:00Z",
                "2026-10-31T12:00:00Z",
            ),
            (
                "Australia/Lord_Howe",
                "2026-10-03T00:00:00Z",
                "2026-04-04T00:00:00Z",
            ),
            ("Asia/Tokyo", "2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z"),
        ];
        let mut table = String::new();
        for (zone, spring, autumn) in zones {
            for (season, from) in [("spring", spring), ("autumn", autumn)] {
                for pattern in ["30 2 * * *", "15 2 * * *", "*/30 1-3 * * *"] {
                    let timing = timing(pattern, zone);
                    let (mut at, end) =
                        (instant(from), instant(from) + Millis::from_secs(36 * 3600));
                    let mut seen = Vec::new();
                    while let Some(next) = timing.next_after(Timestamp(0), at).filter(|n| *n < end)
                    {
                        assert!(next > at, "time goes on");
                        seen.push(next);
                        at = next;
                    }
                    let shown: Vec<String> = seen.iter().map(|i| shown(*i, zone)).collect();
                    let _cannot_fail =
                        writeln!(table, "{zone} {season} `{pattern}`: {}", shown.join(", "));
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_day_asleep_is_made_up_for_as_agreed() {
        let hourly = timing("0 * * * *", "UTC");
        let (settled, now) = (
            instant("2026-06-01T00:00:00Z"),
            instant("2026-06-02T00:30:00Z"),
        );
        let due = |catch_up| {
            let due = hourly.due_instants(Timestamp(0), settled, now, catch_up);
            (due.fire.len(), due.missed, due.through)
        };
        let last = Some(instant("2026-06-02T00:00:00Z"));
        assert_eq!(due(CatchUp::Skip), (0, 24, last));
        assert_eq!(due(CatchUp::Once), (1, 23, last));
        assert_eq!(due(CatchUp::All(5)), (5, 19, last));
        assert_eq!(due(CatchUp::All(100)), (24, 0, last));
        // In time there is nothing to make up for.
        let now = instant("2026-06-01T01:00:01Z");
        for catch_up in [CatchUp::Skip, CatchUp::Once, CatchUp::All(3)] {
            let due = hourly.due_instants(Timestamp(0), settled, now, catch_up);
            assert_eq!((due.fire.len(), due.missed), (1, 0));
        }
        // A second look finds nothing.
        let through = hourly
            .due_instants(Timestamp(0), settled, now, CatchUp::Once)
            .through
            .unwrap();
        assert_eq!(
            hourly.due_instants(Timestamp(0), through, now, CatchUp::Once),
            Due::default()
        );
    }

    #[test]
    fn once_and_every_are_what_they_say() {
        let at = instant("2026-06-01T12:00:00Z");
        let once = ScheduleTiming::At(at);
        assert_eq!(once.next_after(Timestamp(0), at + Millis(-1)), Some(at));
        assert_eq!(once.next_after(Timestamp(0), at), None);
        let every = ScheduleTiming::Every(Millis::from_secs(60));
        assert_eq!(
            every.next_after(Timestamp(5), Timestamp(5)),
            Some(Timestamp(60_005))
        );
        assert_eq!(
            every.next_after(Timestamp(5), Timestamp(60_005)),
            Some(Timestamp(120_005))
        );
        for wrong in [
            "* * * *",
            "* * * * * *",
            "61 * * * *",
            "hello",
            "0 25 * * *",
        ] {
            assert!(parse_cron(wrong).is_err(), "{wrong}");
        }
        for (pattern, occurs) in [
            ("0 2 30 2 *", false),
            ("0 2 29 2 *", true),
            ("0 0 31 4,6 *", false),
        ] {
            let parsed = parse_cron(pattern).unwrap();
            assert_eq!(
                occurs_after(&parsed, Timestamp(1_796_000_000_000)),
                occurs,
                "{pattern}"
            );
        }
        assert!(parse_cron("1 * * * *").is_ok_and(|c| {
            // `1` is the first minute, and no minute that begins with it.
            let zoned = |m: i64| {
                jiff::Timestamp::from_second(m * 60)
                    .unwrap()
                    .to_zoned(TimeZone::UTC)
            };
            c.is_time_matching(&zoned(1)).unwrap() && !c.is_time_matching(&zoned(11)).unwrap()
        }));
    }
}
