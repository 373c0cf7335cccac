//! What a provider says when it fails: found in whatever it answers, short, and without anything that drives a terminal.

use crate::Provider;
use hyper::StatusCode;
use serde_json::Value;

/// Longest text of a provider that is passed on, in characters.
const WORDS_MAX: usize = 400;

/// An error that a provider answered with, as a whole answer or in the middle of a stream.
#[derive(Debug, Clone)]
pub struct ProviderError<'a> {
    /// The provider.
    pub provider: &'a Provider,
    /// Status of the answer; none in the middle of a stream, which began well.
    pub status: Option<StatusCode>,
    /// The provider's own words; none where it says nothing.
    pub words: Option<String>,
    /// The answer as JSON; null where it is something else.
    pub document: Value,
}

impl<'a> ProviderError<'a> {
    /// The error in a whole answer.
    pub fn of_answer(provider: &'a Provider, status: StatusCode, body: &[u8]) -> Self {
        let document = serde_json::from_slice(body).unwrap_or_default();
        ProviderError {
            provider,
            status: Some(status),
            words: words_of(&document).or_else(|| words_of_page(body)),
            document,
        }
    }

    /// The error in an event of a stream; `kind` is the type of the event. None if it is no error.
    pub fn of_event(provider: &'a Provider, kind: &str, document: &Value) -> Option<Self> {
        let is_error = kind == "error"
            || document["type"] == "error"
            || document.get("error").is_some_and(|e| !e.is_null());
        is_error.then(|| ProviderError {
            provider,
            status: None,
            words: words_of(document),
            document: document.clone(),
        })
    }

    /// The error for people: who, where, what, and what to do.
    pub fn text(&self) -> String {
        let Provider { name, base_url, .. } = self.provider;
        let address = base_url.split('?').next().unwrap_or_default();
        let words = self.words.as_deref().unwrap_or("it gives no reason");
        let Some(status) = self.status else {
            return format!("provider `{name}` failed during its answer: {words}");
        };
        let remedy = match status.as_u16() {
            401 | 403 => format!("; check `providers.{name}.key` of the manifest"),
            402 => "; check its account".to_owned(),
            404 => format!(
                "; check `providers.{name}.base_url` of the manifest, which usually ends with /v1, and the name of the model"
            ),
            _ => String::new(),
        };
        format!("provider `{name}` ({address}) answers {status}: {words}{remedy}")
    }
}

/// The words in a JSON document, in any of the forms that providers use.
fn words_of(document: &Value) -> Option<String> {
    let places = [
        &document["error"]["message"],
        &document["error"]["error"]["message"],
        &document["error"],
        &document["message"],
        &document["detail"],
        &document["detail"][0]["msg"],
        &document["errors"][0]["message"],
        &document[0]["error"]["message"],
        &document["error_description"],
    ];
    let text = places.into_iter().find_map(Value::as_str);
    tidy(text?)
}

/// The words of an answer that is no JSON: the title of a page, or the text itself.
fn words_of_page(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&body[..body.len().min(64 << 10)]);
    if !text.trim_start().starts_with('<') {
        return tidy(&text);
    }
    let title = text.split_once("<title>").map(|(_, rest)| rest);
    let title = title.and_then(|rest| rest.split_once("</title>"));
    match title {
        Some((title, _)) => tidy(title),
        None => tidy(
            &text
                .split('<')
                .filter_map(|part| part.split_once('>').map(|(_, shown)| shown))
                .collect::<Vec<_>>()
                .join(" "),
        ),
    }
}

/// A text on one line, without control characters, and not longer than [`WORDS_MAX`]; none if nothing is left.
fn tidy(text: &str) -> Option<String> {
    let mut words = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if !word.is_empty() && !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
        if words.chars().count() > WORDS_MAX {
            words = words.chars().take(WORDS_MAX).chain(['…']).collect();
            break;
        }
    }
    (!words.is_empty()).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(body: &[u8]) -> Option<String> {
        let document = serde_json::from_slice(body).unwrap_or_default();
        words_of(&document).or_else(|| words_of_page(body))
    }

    #[test]
    fn the_words_are_found_in_every_form() {
        for body in [
            json!({ "error": { "message": "the reason" } }),
            json!({ "error": "the reason" }),
            json!({ "object": "error", "message": "the reason", "code": 404 }),
            json!({ "detail": [{ "loc": ["body"], "msg": "the reason" }] }),
            json!({ "detail": "the reason" }),
            json!([{ "error": { "message": "the reason" } }]),
        ] {
            let found = words(body.to_string().as_bytes());
            assert_eq!(found.as_deref(), Some("the reason"), "{body}");
        }
        for page in [
            "<html><head><title>the reason</title></head><body>x</body></html>",
            "<h1>the</h1>\n<p>reason</p>",
            "  the\r\n\x1b reason\x07\n",
        ] {
            assert_eq!(words(page.as_bytes()).as_deref(), Some("the reason"));
        }
        for nothing in ["", "{}", "null", "[]", "7", "{\"error\":{}}"] {
            let found = words(nothing.as_bytes());
            assert!(found.is_none_or(|f| f == nothing), "{nothing}");
        }
        let long = words("x".repeat(10_000).as_bytes()).unwrap();
        assert_eq!(long.chars().count(), WORDS_MAX + 1);
    }
}
