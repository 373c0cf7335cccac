//! Removes secrets from text before it is written.
//!
//! Two rules: texts that are known to be secret, and texts that have the shape of a
//! credential. The shapes are published token prefixes; a false positive costs a few letters of
//! a log line, a false negative costs a key.

use crate::Secret;

const MARK: &str = "[redacted]";

/// Prefix of a credential, and the least number of token characters after it.
const SHAPES: [(&str, usize); 15] = [
    ("abbey_op_", 20),
    ("abbey_ag_", 20),
    ("abbey_sv_", 20),
    ("sk-abbey-", 20),
    ("sk-ant-", 16),
    ("sk-proj-", 16),
    ("sk-", 20),
    ("ghp_", 20),
    ("gho_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("xoxb-", 16),
    ("xoxp-", 16),
    ("AKIA", 16),
    ("AIza", 30),
];
const PEM: &str = "-----BEGIN ";
const PEM_KEY_END: &str = "PRIVATE KEY-----";

/// Removes known secrets and secret-shaped texts.
#[derive(Clone, Default)]
pub struct Redactor {
    known: Vec<Secret>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} known)", self.known.len())
    }
}

impl Redactor {
    /// A redactor that knows `secrets`; those shorter than six characters are ignored, because
    /// removing them would damage ordinary words.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let mut known: Vec<Secret> = secrets
            .into_iter()
            .filter(|s| s.expose().len() >= 6)
            .collect();
        // Longest first: one secret may contain another.
        known.sort_by_key(|s| std::cmp::Reverse(s.expose().len()));
        known.dedup();
        Redactor { known }
    }

    /// The text with every known secret replaced; borrowed when it contains none.
    pub fn clean<'a>(&self, text: &'a str) -> std::borrow::Cow<'a, str> {
        let mut out = std::borrow::Cow::Borrowed(text);
        for secret in &self.known {
            if out.contains(secret.expose()) {
                out = out.replace(secret.expose(), MARK).into();
            }
        }
        match clean_shapes(&out) {
            Some(cleaned) => cleaned.into(),
            None => out,
        }
    }
}

fn token_char(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')
}

/// Length of the secret-shaped text at the start of `rest`, if there is one.
fn shape_at(rest: &str) -> Option<usize> {
    for (prefix, least) in SHAPES {
        if let Some(tail) = rest.strip_prefix(prefix) {
            let tail_len = tail.bytes().take_while(|b| token_char(*b)).count();
            if tail_len >= least {
                return Some(prefix.len() + tail_len);
            }
        }
    }
    if rest.starts_with("eyJ") {
        // A JSON Web Token: three dotted parts of base64url.
        let len = rest.bytes().take_while(|b| token_char(*b)).count();
        if len >= 40 && rest[..len].bytes().filter(|b| *b == b'.').count() == 2 {
            return Some(len);
        }
    }
    if rest.starts_with(PEM) {
        let head_end = rest.find('\n').unwrap_or(rest.len());
        if rest[..head_end].contains(PEM_KEY_END) {
            let body = &rest[head_end..];
            let end = body
                .find(PEM_KEY_END)
                .map_or(rest.len(), |i| head_end + i + PEM_KEY_END.len());
            return Some(end);
        }
    }
    None
}

fn clean_shapes(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out: Option<String> = None;
    let mut copied = 0;
    let mut i = 0;
    while i < bytes.len() {
        // Every shape begins with one of these letters, at the start of a word.
        let candidate = matches!(bytes[i], b'a' | b's' | b'g' | b'x' | b'A' | b'e' | b'-')
            && (i == 0 || !token_char(bytes[i - 1]) || bytes[i] == b'-');
        if candidate && let Some(len) = shape_at(&text[i..]) {
            let buffer = out.get_or_insert_with(String::new);
            buffer.push_str(&text[copied..i]);
            buffer.push_str(MARK);
            i += len;
            copied = i;
        } else {
            i += 1;
        }
    }
    if let Some(buffer) = out.as_mut() {
        buffer.push_str(&text[copied..]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_secrets_and_shapes_are_removed() {
        let redactor = Redactor::new([Secret::new("correct-horse")]);
        assert_eq!(redactor.clean("x correct-horse y"), "x [redacted] y");
        assert_eq!(
            redactor.clean(&format!("key=sk-ant-{} end", "A1b2".repeat(8))),
            "key=[redacted] end"
        );
        let pem = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\nafter";
        assert_eq!(redactor.clean(pem), "[redacted]\nafter");
    }

    #[test]
    fn ordinary_text_is_untouched_and_not_copied() {
        let redactor = Redactor::default();
        let text = "ask-anything: the risk-free sk-8 task — naïve ž";
        assert!(matches!(
            redactor.clean(text),
            std::borrow::Cow::Borrowed(_)
        ));
    }

    #[test]
    fn a_bearer_header_loses_its_token() {
        let text = format!("Authorization: Bearer abbey_ag_{}", "a".repeat(43));
        assert_eq!(
            Redactor::default().clean(&text),
            "Authorization: Bearer [redacted]"
        );
    }
}
