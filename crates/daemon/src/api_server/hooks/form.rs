//! Deliveries whose body is a form, which GitHub, Gitea and Forgejo send where the hook was set up with that type.

use super::header_text;
use axum::http::HeaderMap;

/// Media type of a form (HTML, 4.10.21.7).
const FORM: &str = "application/x-www-form-urlencoded";

/// The field `payload` of a body that is a form; none if it is no form or has no such field. Programs such as `curl -d`
/// call any body a form, so a body without the field is taken as it is.
pub(super) fn payload_of_form(headers: &HeaderMap, body: &[u8]) -> Option<String> {
    let kind = header_text(headers, "content-type")?;
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case(FORM) {
        return None;
    }
    // Text within JSON is no field, whatever its sender calls it.
    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        return None;
    }
    let fields: Vec<(String, String)> = serde_urlencoded::from_bytes(body).ok()?;
    let mut payloads = fields.into_iter().filter(|(name, _)| name == "payload");
    // A second one would be another delivery than the first.
    match (payloads.next(), payloads.next()) {
        (Some((_, payload)), None) => Some(payload),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_of_a_form_is_decoded() {
        let of = |kind: &str, body: &str| {
            let headers = [("content-type".parse().unwrap(), kind.parse().unwrap())];
            payload_of_form(&headers.into_iter().collect(), body.as_bytes())
        };
        let body = "payload=%7B%22a%22%3A%22x%20%26+y%22%7D";
        let json = Some(r#"{"a":"x & y"}"#.to_owned());
        for kind in [FORM, "Application/X-WWW-form-urlencoded; charset=utf-8"] {
            assert_eq!(of(kind, body), json);
        }
        assert_eq!(of(FORM, "a=1&payload=x"), Some("x".to_owned()));
        for (kind, body) in [
            ("application/json", body),
            (FORM, r#"{"a": 1}"#),
            (FORM, r#"{"title": "x&payload=%7B%22b%22%3A2%7D&y"}"#),
            (FORM, "payload=a&payload=b"),
            (FORM, ""),
        ] {
            assert_eq!(of(kind, body), None, "{kind} {body}");
        }
    }
}
