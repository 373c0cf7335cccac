//! Deliveries from elsewhere: authenticated by their signature alone, each taken once, made into a task, a run of a
//! workflow or an event; and the end of such a task reported to where it came from.

mod form;
mod openclaw;
mod places;
pub(crate) mod results;

pub(crate) use self::places::{DeliveryPlaces, PeerAddress};
use crate::api_server::state::ApiState;
use crate::api_server::web;
use crate::api_server::web::Path;
use crate::api_server::web::{Doc, header_text};
use crate::core::error::Result;
use crate::core::plan::PlanInForce;
use crate::work::workflows;
use abbey_api::{EventBody, Problem};
use abbey_model::{FaultKind, HookOrigin, Millis, Principal, Priority, Recipient, Secret, Slug};
use abbey_plan::{Hook, HookAction, HookKind};
use abbey_store::{DelegationRequest, NewTask};
use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use std::sync::Arc;
use std::time::Duration;

/// How far the clock of a sender may be off, as standardwebhooks.com says.
const TOLERANCE: Millis = Millis::from_secs(300);
/// Longest part of an issue's text that is given along, bytes.
const BODY_MAX: usize = 32 << 10;
/// Deliveries of one hook in a minute, and readings of its tasks.
const DELIVERIES_MAX: u32 = 240;

/// Time for the body of a delivery to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(10);

fn refused(text: impl Into<String>) -> crate::core::error::Error {
    Problem::new(FaultKind::Unauthenticated, text.into()).into()
}

/// Whether a delivery is signed with a secret; a key by which the same one is known again. `form` is the payload of a
/// body that is a form.
fn verified(
    kind: HookKind,
    secret: &Secret,
    headers: &HeaderMap,
    (body, form): (&[u8], Option<&str>),
    now_s: i64,
) -> std::result::Result<String, String> {
    let of = |name: &'static str| header_text(headers, name).ok_or(format!("it has no `{name}`"));
    let signed = |key: &[u8], parts: &[&[u8]], signature: &[u8]| {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
            return false;
        };
        parts.iter().for_each(|part| mac.update(part));
        mac.verify_slice(signature).is_ok()
    };
    let no = || "it is not signed with the secret of this hook".to_owned();
    let hex = |text: &str| -> Option<Vec<u8>> {
        let digits = |n: usize| u8::from_str_radix(text.get(n..n + 2)?, 16).ok();
        (0..text.len()).step_by(2).map(digits).collect()
    };
    // What a forge signs is the body alone, so that alone makes a delivery the same.
    let of_body = |signature: &str| -> std::result::Result<(String, bool), String> {
        let signature = hex(signature).ok_or_else(no)?;
        let key = secret.expose().as_bytes();
        // GitHub signs the form, Gitea and Forgejo the payload in it (services/webhook/deliver.go of Gitea).
        let payload = form.filter(|_| kind == HookKind::Gitea);
        let signable = [Some(body), payload.map(str::as_bytes)];
        let mut signable = signable.into_iter().flatten();
        let good = signable.find(|part| signed(key, &[*part], &signature));
        // The same payload can be written as many forms.
        let same = form.map_or(body, str::as_bytes);
        Ok((abbey_support::digest::sha256_hex(same), good.is_some()))
    };
    let (id, good) = match kind {
        HookKind::Standard => {
            let (id, at) = (of("webhook-id")?, of("webhook-timestamp")?);
            let signatures = of("webhook-signature")?;
            let seconds: i64 = at.parse().map_err(|_| "its timestamp is no number")?;
            if seconds.abs_diff(now_s) > TOLERANCE.0.unsigned_abs() / 1000 {
                return Err("it was signed too long ago, or in the future".to_owned());
            }
            // The bytes behind `whsec_` are base64 (standardwebhooks.com, section about secrets); senders of other makes sign
            // with the text as it is.
            let text = secret.expose();
            let decoded = STANDARD.decode(text.trim_start_matches("whsec_")).ok();
            let keys = [decoded, Some(text.as_bytes().to_vec())];
            let parts = [id.as_bytes(), b".", at.as_bytes(), b".", body];
            let mut versions = signatures.split(' ').filter_map(|s| s.strip_prefix("v1,"));
            let good = versions.any(|s| {
                let signature = STANDARD.decode(s);
                signature.is_ok_and(|s| {
                    keys.iter()
                        .flatten()
                        .any(|key| !key.is_empty() && signed(key, &parts, &s))
                })
            });
            (id.to_owned(), good)
        }
        HookKind::Github => {
            let signature = of("x-hub-signature-256")?.strip_prefix("sha256=");
            of_body(signature.ok_or_else(no)?)?
        }
        HookKind::Gitea => {
            let signature = of("x-gitea-signature").or_else(|_| of("x-forgejo-signature"));
            of_body(signature?)?
        }
        HookKind::Openclaw => return Err(no()),
    };
    match good {
        true => Ok(id),
        false => Err(no()),
    }
}

/// Handles a webhook delivery: authenticates it as its hook in the manifest requires, and does what that declares, such
/// as adding a task or publishing an event.
#[utoipa::path(
    post, path = "/hooks/{hook}", operation_id = "hooks_deliver", tag = "hooks",
    summary = "A delivery from elsewhere, authenticated by its signature",
    security(()),
    request_body = serde_json::Value,
    params(("hook" = String, Path)),
    responses((status = 202, body = serde_json::Value)),
)]
pub(crate) async fn receive_hook(
    State(api): State<Arc<ApiState>>,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    peer: Option<Extension<PeerAddress>>,
    body: Body,
) -> Response {
    let body = Arriving {
        body,
        peer: peer.map(|Extension(peer)| peer),
    };
    if matches!(name.as_str(), "agent" | "wake") {
        return openclaw::serve_openclaw_hook(&api, &name, &uri, &headers, body).await;
    }
    match receive(&api, &name, &headers, body).await {
        Ok(answer) => (StatusCode::ACCEPTED, Doc(answer)).into_response(),
        Err(refusal) => refusal,
    }
}

/// Body of a delivery that is not read yet.
struct Arriving {
    body: Body,
    peer: Option<PeerAddress>,
}

/// Reads the body of a delivery, in bounded time and beside few others: whoever has no secret of a hook can occupy
/// neither memory nor time of the house, nor keep the deliveries of others out.
///
/// # Errors
/// The responses 408, 413 and 503.
async fn read_delivery(
    api: &ApiState,
    Arriving { body, peer }: Arriving,
    limit: usize,
) -> std::result::Result<Bytes, Response> {
    let place = api.delivery_places.take(peer);
    let read = web::read_body(body, limit);
    let late = "the request body did not arrive within 10 seconds";
    tokio::select! {
        biased;
        read = api.core.rt.timeout(BODY_WITHIN, read) => read.map_err(|_| web::refuse_late_body(late))?,
        () = place.lost() => {
            let text = "too many deliveries arrive at once; try again";
            Err(web::problem_response(Problem::new(FaultKind::Unavailable, text)))
        }
    }
}

/// The hook of this name in the plan in force.
fn find_hook<'c>(
    current: Option<&'c PlanInForce>,
    name: &str,
) -> Result<(Slug, &'c Hook, &'c PlanInForce)> {
    let hook = name.parse::<Slug>().ok().zip(current);
    let hook = hook.and_then(|(name, c)| Some((name.clone(), c.house.hooks.get(&name)?, c)));
    hook.ok_or_else(|| {
        let text = format!("there is no hook `{name}`");
        Problem::new(FaultKind::NotFound, text).into()
    })
}

/// Checks that a delivery has the headers of a signature of this kind, before its body is read.
fn check_is_signed(kind: HookKind, headers: &HeaderMap) -> std::result::Result<(), String> {
    let needed: &[&'static str] = match kind {
        HookKind::Standard => &["webhook-id", "webhook-timestamp", "webhook-signature"],
        HookKind::Github => &["x-hub-signature-256"],
        HookKind::Gitea if header_text(headers, "x-forgejo-signature").is_some() => &[],
        HookKind::Gitea => &["x-gitea-signature"],
        // It signs nothing, and its paths are its own.
        HookKind::Openclaw => return Err("it is called at `/hooks/agent`".to_owned()),
    };
    let missing = needed
        .iter()
        .find(|name| header_text(headers, name).is_none());
    missing.map_or(Ok(()), |name| Err(format!("it has no `{name}`")))
}

/// Whether one more delivery of a hook is taken now: whoever has its secret cannot flood the house.
fn allowed_now(api: &ApiState, hook: &Slug) -> bool {
    api.count_delivery(hook.to_string(), DELIVERIES_MAX)
}

/// What a delivery comes to.
async fn receive(
    api: &Arc<ApiState>,
    name: &str,
    headers: &HeaderMap,
    body: Arriving,
) -> std::result::Result<Value, Response> {
    let refusal = IntoResponse::into_response;
    let current = api.core.plan.current();
    let (name, hook, current) = find_hook(current.as_deref(), name).map_err(refusal)?;
    let is_signed = check_is_signed(hook.kind, headers);
    is_signed.map_err(|why| refusal(refused(format!("hook `{name}`: {why}"))))?;
    let body = read_delivery(api, body, web::BODY_MAX).await?;
    let delivery = Delivery {
        headers,
        body: &body,
    };
    perform(api, (name, hook, current), &delivery)
        .await
        .map_err(refusal)
}

/// Headers and body of a delivery.
struct Delivery<'a> {
    headers: &'a HeaderMap,
    body: &'a [u8],
}

/// Authenticates a delivery and does what its hook declares.
async fn perform(
    api: &Arc<ApiState>,
    (name, hook, current): (Slug, &Hook, &PlanInForce),
    &Delivery { headers, body }: &Delivery<'_>,
) -> Result<Value> {
    let secret = api
        .core
        .secrets
        .read_secret(&hook.secret, &current.base_dir)
        .map_err(|why| Problem::new(FaultKind::Unavailable, why))?;
    let now = api.core.store.now();
    let form = form::payload_of_form(headers, body);
    let signed = (body, form.as_deref());
    let key = verified(hook.kind, &secret, headers, signed, now.0 / 1000).map_err(|why| {
        tracing::warn!(hook = name.as_str(), why, "a delivery was refused");
        refused(format!("hook `{name}`: {why}"))
    })?;
    if !allowed_now(api, &name) {
        let text = format!("hook `{name}`: too many requests; try again in a minute");
        return Err(Problem::new(FaultKind::Limit, text).into());
    }
    let payload = form.as_deref().map_or(body, str::as_bytes);
    let payload: Value = serde_json::from_slice(payload).map_err(|e| {
        let what = match form {
            Some(_) => "the field `payload` of the form",
            None => "the body of the request",
        };
        let text = format!("hook `{name}`: {what} is not valid JSON: {e}");
        Problem::new(FaultKind::Invalid, text)
    })?;
    let key = format!("hook {name} {key}");
    // GitHub sends it when a webhook is made, before anything happens in the repository.
    if hook.kind == HookKind::Github && header_text(headers, "x-github-event") == Some("ping") {
        return Ok(json!({ "heard": true, "ignored": "a ping asks for nothing" }));
    }
    let event = header_text(headers, "x-github-event").or(header_text(headers, "x-gitea-event"));
    let event = event.unwrap_or_default();
    if !hook.hears(event, payload["action"].as_str()) {
        let why = "`on` of the hook does not have this event";
        tracing::info!(hook = name.as_str(), why, "a delivery starts nothing");
        return Ok(json!({ "heard": true, "ignored": why }));
    }
    match &hook.action {
        HookAction::Workflow(workflow) => {
            let declared = current.house.workflows.get(workflow);
            let input = workflows::payload_input(declared, payload);
            let started =
                workflows::start_run(&api.work, workflow, input, Principal::House, Some(key));
            Ok(json!({ "run": format!("WF-{}", started.await?.0.number) }))
        }
        HookAction::Event(event) => {
            let body = EventBody {
                data: payload,
                run: None,
            };
            let heard =
                workflows::publish_event(&api.work, event, body, Principal::House, Some(key));
            let heard = heard.await?;
            Ok(json!({ "told": heard.told, "started": heard.started, "ignored": heard.ignored }))
        }
        HookAction::Task(agent) => match subject(event, &payload) {
            Ok(subject) => task(api, (&name, hook), agent, subject, key).await,
            Err(why) => {
                tracing::info!(hook = name.as_str(), why, "no work comes of a delivery");
                Ok(json!({ "heard": true, "ignored": why }))
            }
        },
    }
}

/// An issue or a pull request that asks for work.
struct Subject {
    kind: &'static str,
    repository: String,
    number: u64,
    commit: Option<String>,
    data: Map<String, Value>,
}

/// What a delivery asks for. Its words are data; none of them becomes part of an instruction.
///
/// # Errors
/// Why it asks for nothing.
fn subject(event: &str, payload: &Value) -> std::result::Result<Subject, &'static str> {
    const OTHER: &str = "an agent gets work from the events `issues` (opened, reopened) and `pull_request` (opened, reopened, \
         synchronize); for others use a hook with `event` or `workflow`";
    let action = payload["action"].as_str().ok_or(OTHER)?;
    let (kind, it) = match event {
        "issues" if ["opened", "reopened"].contains(&action) => ("Issue", &payload["issue"]),
        "pull_request"
            if ["opened", "reopened", "synchronize", "synchronized"].contains(&action) =>
        {
            ("Pull request", &payload["pull_request"])
        }
        _ => return Err(OTHER),
    };
    let plain = |part: &str| {
        let usual = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        !part.is_empty() && part.len() <= 100 && part.bytes().all(usual)
    };
    let full = payload["repository"]["full_name"].as_str();
    let (repository, _) = full
        .and_then(|full| Some((full, full.split_once('/')?)))
        .filter(|(_, (owner, name))| plain(owner) && plain(name))
        .ok_or("`repository.full_name` is not such as `owner/name`")?;
    let number = it["number"]
        .as_u64()
        .ok_or("the issue or pull request has no number")?;
    let commit = it["head"]["sha"].as_str().filter(|s| plain(s));
    let short = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        let cut = text.char_indices().map(|(at, c)| at + c.len_utf8());
        let end = cut.take_while(|end| *end <= BODY_MAX).last().unwrap_or(0);
        Value::from(&text[..end])
    };
    let data = [
        ("title", short(&it["title"])),
        ("body", short(&it["body"])),
        ("author", short(&it["user"]["login"])),
        ("url", short(&it["html_url"])),
        ("action", action.into()),
    ];
    Ok(Subject {
        kind,
        repository: repository.to_owned(),
        number,
        commit: commit.map(str::to_owned),
        data: data.map(|(k, v)| (k.to_owned(), v)).into_iter().collect(),
    })
}

async fn task(
    api: &Arc<ApiState>,
    (name, hook): (&Slug, &Hook),
    agent: &Slug,
    subject: Subject,
    key: String,
) -> Result<Value> {
    let text = format!(
        "{} #{} of {} was opened or changed; handle it according to your charter",
        subject.kind, subject.number, subject.repository
    );
    let origin = HookOrigin {
        hook: name.clone(),
        repository: subject.repository,
        number: subject.number,
        commit: subject.commit,
    };
    let deliver = match hook.api {
        Some(_) => Recipient::Hook(origin),
        None => Recipient::Kept,
    };
    let new = NewTask {
        priority: Priority::P1,
        idempotency: Some((key, abbey_support::digest::sha256_hex(text.as_bytes()))),
        delegated: Some(DelegationRequest {
            deliver,
            data: subject.data,
            hook: Some(name.clone()),
            ..DelegationRequest::default()
        }),
        ..api.work.house_task(agent, text)
    };
    let added = api.core.store.add_task(new).await?;
    Ok(json!({ "task": format!("TASK-{}", added.task.number), "new": added.new }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(k, v): &(&'static str, &str)| ((*k).parse().unwrap(), v.parse().unwrap());
        let pairs: Vec<(axum::http::HeaderName, axum::http::HeaderValue)> =
            pairs.iter().map(pair).collect();
        pairs.into_iter().collect()
    }

    /// The example of the specification of Standard Webhooks' reference libraries.
    #[test]
    fn the_published_example_is_verified_and_nothing_else_is() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
        let body = br#"{"test": 2432232314}"#;
        let given = |id: &str, signature: &str| {
            headers(&[
                ("webhook-id", id),
                ("webhook-timestamp", "1614265330"),
                ("webhook-signature", signature),
            ])
        };
        let (id, signature) = (
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        );
        let check = |headers: &HeaderMap, body: &[u8], now| {
            verified(HookKind::Standard, &secret, headers, (body, None), now)
        };
        let good = given(id, signature);
        assert_eq!(check(&good, body, 1_614_265_330).unwrap(), id);
        let two = given(id, &format!("v1,aaaa {signature}"));
        assert!(check(&two, body, 1_614_265_400).is_ok());
        // A secret that is no base64 is the key as it is; an empty one is none.
        let text = |secret: &str| {
            let secret = Secret::new(secret.to_owned());
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).unwrap();
            mac.update(format!("{id}.1614265330.").as_bytes());
            mac.update(body);
            let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
            let headers = given(id, &signature);
            verified(
                HookKind::Standard,
                &secret,
                &headers,
                (body, None),
                1_614_265_330,
            )
        };
        assert_eq!(text("a secret, and no base64").unwrap(), id);
        assert!(text("").is_err());
        assert!(check(&good, body, 1_614_265_330 + 301).is_err());
        assert!(check(&good, b"{}", 1_614_265_330).is_err());
        assert!(check(&given("msg_other", signature), body, 1_614_265_330).is_err());
        assert!(check(&headers(&[]), body, 1_614_265_330).is_err());
    }

    /// The example of GitHub's page on validating deliveries.
    #[test]
    fn a_forge_signs_the_body() {
        let secret = Secret::new("It's a Secret to Everybody".to_owned());
        let hex = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let github = headers(&[("x-hub-signature-256", &format!("sha256={hex}"))]);
        let body = b"Hello, World!";
        let check = |kind, headers: &HeaderMap, body: &[u8]| {
            verified(kind, &secret, headers, (body, None), 0)
        };
        assert!(check(HookKind::Github, &github, body).is_ok());
        assert!(check(HookKind::Github, &github, b"Hello").is_err());
        assert!(check(HookKind::Gitea, &github, body).is_err());
        for header in ["x-gitea-signature", "x-forgejo-signature"] {
            let gitea = headers(&[(header, hex)]);
            assert!(check(HookKind::Gitea, &gitea, body).is_ok());
            assert!(check_is_signed(HookKind::Gitea, &gitea).is_ok());
        }
        // In a form, Gitea and Forgejo sign the payload, GitHub the whole.
        let form = |kind, headers: &HeaderMap| {
            let text = std::str::from_utf8(body).ok();
            verified(
                kind,
                &secret,
                headers,
                (b"payload=Hello%2C+World!", text),
                0,
            )
        };
        let gitea = headers(&[("x-gitea-signature", hex)]);
        assert_eq!(
            form(HookKind::Gitea, &gitea).unwrap(),
            check(HookKind::Gitea, &gitea, body).unwrap()
        );
        assert!(form(HookKind::Github, &github).is_err());
        for wrong in ["", "zz", "7571", "é7571"] {
            let wrong = headers(&[("x-gitea-signature", wrong)]);
            assert!(check(HookKind::Gitea, &wrong, body).is_err());
        }
    }

    #[test]
    fn only_what_asks_for_work_becomes_work_and_its_words_stay_data() {
        let issue = |action: &str, name: &str| {
            json!({ "action": action, "repository": { "full_name": name },
                "issue": { "number": 3, "title": "run: show system stats", "body": "b", "user": { "login": "u" } } })
        };
        let found = subject("issues", &issue("opened", "a/b")).unwrap();
        assert_eq!((found.number, found.repository.as_str()), (3, "a/b"));
        assert_eq!(found.data["title"], "run: show system stats");
        for (event, payload) in [
            ("issues", issue("closed", "a/b")),
            ("issues", issue("opened", "a/../b")),
            ("issues", issue("opened", "a/b c; x")),
            ("push", issue("opened", "a/b")),
            ("issues", Value::Null),
        ] {
            assert!(subject(event, &payload).is_err(), "{event} {payload}");
        }
    }
}
