//! What one agent may write by the agent API in a time: every write is a row, an entry of the audit log or a file outside
//! of its cell, and takes the store's time. SPECIFICATION.md lists the numbers among the limits.

use crate::api_server::web::{BODY_MAX, problem_response};
use crate::core::rate::TokenBucket;
use abbey_api::Problem;
use abbey_model::{FaultKind, Slug};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What is written, with an allowance of requests and one of bytes: each as a burst and a rate per second.
struct Quota {
    /// Name in messages.
    name: &'static str,
    requests: (f64, f64),
    bytes: (f64, f64),
}

const KIB: f64 = 1024.0;
/// Claims, renewals and ends of runs: as many as there are tasks, each with a bounded result.
const LEASES: Quota = Quota {
    name: "requests about leases",
    requests: (1000.0, 200.0),
    bytes: (64.0 * 1024.0 * KIB, 1024.0 * KIB),
};
/// Notes, which the audit log keeps for good.
const NOTES: Quota = Quota {
    name: "notes",
    requests: (120.0, 1.0),
    bytes: (256.0 * KIB, KIB),
};
/// Everything else: subtasks, questions, documents, approvals, facts, operations, tools.
const WRITES: Quota = Quota {
    name: "writing requests",
    requests: (600.0, 10.0),
    bytes: (16.0 * 1024.0 * KIB, 16.0 * KIB),
};

impl Quota {
    /// Quota under which a request to this path counts.
    fn of(path: &str) -> &'static Quota {
        match path.strip_prefix("/api/v1/self/") {
            Some("activity") => &NOTES,
            Some(rest) if rest.starts_with("tasks/") => &LEASES,
            _ => &WRITES,
        }
    }
}

/// Allowances that agents have left.
#[derive(Debug, Default)]
pub(super) struct AgentQuotas(Mutex<BTreeMap<(Slug, &'static str), [TokenBucket; 2]>>);

impl AgentQuotas {
    /// Counts a request of an agent at `now`, unless it only reads.
    ///
    /// # Errors
    /// The response 429, whose `Retry-After` says when it would be accepted.
    pub(super) fn count(
        &self,
        agent: &Slug,
        request: (&Method, &str, &HeaderMap),
        now: Instant,
    ) -> Result<(), Response> {
        let (method, path, headers) = request;
        if *method == Method::GET {
            return Ok(());
        }
        let quota = Quota::of(path);
        let mut all = self.0.lock();
        let buckets = all.entry((agent.clone(), quota.name)).or_insert_with(|| {
            [quota.requests, quota.bytes].map(|(burst, rate)| TokenBucket::new(burst, rate, now))
        });
        let amounts = [1.0, announced_size(headers)];
        // Of both or of none: what is refused uses up nothing.
        let waits = buckets.iter_mut().zip(amounts).map(|(b, a)| b.wait(a, now));
        let longest = waits.max().unwrap_or_default();
        if !longest.is_zero() {
            return Err(refusal(agent, quota, longest));
        }
        for (bucket, amount) in buckets.iter_mut().zip(amounts) {
            let _enough_is_left = bucket.take(amount, now);
        }
        Ok(())
    }
}

/// Size of a body, bytes; one without an announced length counts as the largest.
fn announced_size(headers: &HeaderMap) -> f64 {
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|l| l.to_str().ok()?.parse::<u32>().ok());
    match length {
        Some(length) => length.into(),
        None if headers.contains_key(header::TRANSFER_ENCODING) => BODY_MAX as f64,
        None => 0.0,
    }
}

fn refusal(agent: &Slug, quota: &Quota, wait: Duration) -> Response {
    let seconds = wait.as_secs_f64().ceil().max(1.0);
    let (count, rate) = quota.requests;
    let text = format!(
        "agent `{agent}` sent too many {}: {count} at once and {rate} a second, or {} KiB at once and {} KiB a second, are accepted",
        quota.name,
        quota.bytes.0 / KIB,
        quota.bytes.1 / KIB
    );
    let problem = Problem::new(FaultKind::Limit, text);
    let problem = problem.remedy(format!("send it again in {seconds} seconds"));
    let mut response = problem_response(problem);
    if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_of_agents_and_kinds_are_apart_and_reading_is_free() {
        let quotas = AgentQuotas::default();
        let (a, b): (Slug, Slug) = ("a".parse().unwrap(), "b".parse().unwrap());
        let now = Instant::now();
        let headers: HeaderMap = [(header::CONTENT_LENGTH, HeaderValue::from_static("8192"))]
            .into_iter()
            .collect();
        let post = |agent: &Slug, path: &str, now| {
            quotas.count(agent, (&Method::POST, path, &headers), now)
        };
        let notes = "/api/v1/self/activity";
        let accepted = (0..1000).filter(|_| post(&a, notes, now).is_ok()).count();
        assert_eq!(accepted, 32, "256 KiB of 8 KiB each");
        let refused = post(&a, notes, now).unwrap_err();
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["retry-after"], "8");
        assert!(post(&a, notes, now + Duration::from_secs(8)).is_ok());
        assert!(post(&b, notes, now).is_ok());
        assert!(post(&a, "/api/v1/self/tasks/x/complete", now).is_ok());
        assert!(post(&a, "/api/v1/self/delegate", now).is_ok());
        for _ in 0..2000 {
            let read = (&Method::GET, "/api/v1/self", &headers);
            assert!(quotas.count(&a, read, now).is_ok());
        }
    }
}
