//! Amounts of documents in units that people use.

use crate::output::{grouped, human_bytes, local_time, with_local_times};
use abbey_api::Time;
use abbey_model::{Metric, Millis, Timestamp};
use serde_json::Value;

/// Milliseconds since 1970 that an instant of a house can be, from 2001 to 2286.
const INSTANTS: std::ops::Range<i64> = 1_000_000_000_000..10_000_000_000_000;

/// Details of entries about a budget that are in the unit of its metric.
const BUDGET_AMOUNTS: [&str; 3] = ["limit", "before", "spent"];

fn human(ms: i64) -> String {
    Millis(ms).human()
}

/// Money in billionths of a US dollar: `$1,250.00`, `$0.0031`.
pub(crate) fn dollars(nano_usd: u64) -> String {
    let (whole, rest) = (nano_usd / 1_000_000_000, nano_usd % 1_000_000_000);
    let digits = format!("{rest:09}");
    let shown = digits.trim_end_matches('0').len().max(2);
    format!("${}.{}", grouped(whole), &digits[..shown])
}

/// What a budget counts, in the unit of its metric.
pub(crate) fn budget_amount(metric: Metric, amount: u64) -> String {
    match metric {
        Metric::NanoUsd => dollars(amount),
        Metric::Seconds => {
            let seconds = i64::try_from(amount).unwrap_or(i64::MAX / 1000);
            human(seconds.saturating_mul(1000))
        }
        Metric::Tokens | Metric::Runs => grouped(amount),
    }
}

/// What a budget counts, as the head of a column has it.
pub(crate) fn budget_metric(metric: Metric) -> String {
    match metric {
        Metric::NanoUsd => "money".to_owned(),
        Metric::Seconds => "run time".to_owned(),
        Metric::Tokens | Metric::Runs => metric.to_string(),
    }
}

/// The details of an entry of the audit log as `key: value`, without what says nothing. Instants are in the zone of this
/// process; durations and amounts have units.
pub(crate) fn describe_details(detail: &Value) -> String {
    match detail {
        Value::Object(map) => {
            let metric = map.get("metric").and_then(Value::as_str);
            let metric = metric.and_then(|m| m.parse::<Metric>().ok());
            let known = map.iter().filter(|(_, value)| !value.is_null());
            let shown = known.map(|(key, value)| match (metric, value.as_u64()) {
                (Some(metric), None) if key == "metric" => {
                    format!("metric: {}", budget_metric(metric))
                }
                (Some(metric), Some(amount)) if BUDGET_AMOUNTS.contains(&key.as_str()) => {
                    format!("{key}: {}", budget_amount(metric, amount))
                }
                _ => {
                    let (name, value) = readable(key, value);
                    format!("{name}: {}", one_line(&value))
                }
            });
            shown.collect::<Vec<_>>().join(", ")
        }
        Value::Null => String::new(),
        other => one_line(&readable("", other).1),
    }
}

fn one_line(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A key and its value as people read them; the unit is in the value.
fn readable<'k>(key: &'k str, value: &Value) -> (&'k str, Value) {
    let without = |unit: &str| key.strip_suffix(unit).filter(|name| !name.is_empty());
    let number = value.as_i64();
    let amount = value.as_u64();
    let instant = number.filter(|n| INSTANTS.contains(n));
    let is_instant = ["until", "at", "instant"].contains(&key)
        || ["_at", "_until"].iter().any(|end| key.ends_with(end));
    if let Some(ms) = instant
        && (is_instant || key.ends_with("_ms"))
    {
        let name = without("_ms").unwrap_or(key);
        return (name, local_time(Time(Timestamp(ms))).into());
    }
    if let (Some(name), Some(ms)) = (without("_ms"), number) {
        return (name, human(ms).into());
    }
    if let (Some(name), Some(us)) = (without("_us"), number) {
        return (name, human(us / 1000).into());
    }
    if let (Some(name), Some(seconds)) = (without("_seconds").or(without("_s")), number) {
        return (name, human(seconds.saturating_mul(1000)).into());
    }
    if let (Some(name), Some(bytes)) = (without("_bytes"), amount) {
        return (name, human_bytes(bytes).into());
    }
    match (key, value) {
        ("ms", Value::Number(_)) => {
            let text = number.map(human);
            ("took", text.map_or_else(|| value.clone(), Value::from))
        }
        ("bytes" | "memory", Value::Number(_)) => {
            let text = amount.map(human_bytes);
            (key, text.map_or_else(|| value.clone(), Value::from))
        }
        ("nano_usd", Value::Number(_)) => {
            let text = amount.map(dollars);
            ("cost", text.map_or_else(|| value.clone(), Value::from))
        }
        ("cpu_milli", Value::Number(_)) => {
            let cpus = value.as_f64().unwrap_or_default() / 1000.0;
            ("cpus", cpus.into())
        }
        (_, Value::String(text)) => (key, with_local_times(text).into()),
        (_, Value::Array(items)) => {
            let items = items.iter().map(|item| readable("", item).1);
            (key, items.collect())
        }
        (_, Value::Object(map)) => {
            let pairs = map.iter().map(|(key, value)| {
                let (name, value) = readable(key, value);
                (name.to_owned(), value)
            });
            (key, Value::Object(pairs.collect()))
        }
        (_, other) => (key, other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_have_their_two_largest_units() {
        for (ms, text) in [
            (0, "0 ms"),
            (250, "250 ms"),
            (90_400, "90 s"),
            (240_000, "4 min"),
            (9_000_000, "2 h 30 min"),
            (259_200_000, "3 d"),
            (-5000, "-5 s"),
        ] {
            assert_eq!(human(ms), text);
        }
    }

    #[test]
    fn money_is_in_dollars_and_exact() {
        for (nano, text) in [
            (0, "$0.00"),
            (440_000_000, "$0.44"),
            (3_100_000, "$0.0031"),
            (1_250_000_000_000, "$1,250.00"),
            (1, "$0.000000001"),
        ] {
            assert_eq!(dollars(nano), text);
        }
    }

    #[test]
    fn details_of_budgets_have_the_unit_of_their_metric() {
        let detail = json!({ "metric": "nano_usd", "before": null, "limit": 2_500_000_000u64, "spent": 1_369_000 });
        let text = describe_details(&detail);
        assert_eq!(text, "metric: money, limit: $2.50, spent: $0.001369");
        let detail = json!({ "metric": "runs", "before": 1, "limit": 2000 });
        assert_eq!(
            describe_details(&detail),
            "metric: runs, before: 1, limit: 2,000"
        );
    }

    #[test]
    fn details_have_no_values_of_machines() {
        let at = 1_764_394_136_000_i64;
        let local = local_time(Time(Timestamp(at)));
        let detail = json!({ "until": at, "until_ms": at, "grace_ms": 604_800_000, "ended_at": at, "why": null,
            "limits": { "memory": 536_870_912, "cpu_milli": 500 }, "spent": { "nano_usd": 440_000_000 },
            "text": "at 2025-11-29T05:28:56.000Z", "overlap_ms": 60_000, "task": 3 });
        let text = describe_details(&detail);
        for part in [
            format!("until: {local}"),
            format!("ended_at: {local}"),
            format!("text: at {local}"),
            "grace: 7 d".to_owned(),
            "overlap: 60 s".to_owned(),
            "\"memory\":\"512.0 MiB\"".to_owned(),
            "\"cost\":\"$0.44\"".to_owned(),
            "\"cpus\":0.5".to_owned(),
            "task: 3".to_owned(),
        ] {
            assert!(text.contains(&part), "{part} in {text}");
        }
        assert!(!text.contains("17643"), "{text}");
    }
}
