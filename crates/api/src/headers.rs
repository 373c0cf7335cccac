//! Request headers with a meaning in the API.

use std::fmt;
use std::str::FromStr;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Required, schema::Schema};

/// Longest idempotency key, bytes.
pub const KEY_MAX: usize = 200;

/// A header, or one that may be absent.
pub trait HeaderField {
    /// Name, in lower case.
    const NAME: &'static str;
    /// Its value, if it is sent.
    fn value(&self) -> Option<String>;
}

impl<H: HeaderField> HeaderField for Option<H> {
    const NAME: &'static str = H::NAME;
    fn value(&self) -> Option<String> {
        self.as_ref()?.value()
    }
}

/// `Idempotency-Key`: a request that is sent again with the key of an earlier one is the same request. Keys of different
/// callers and of different routes have nothing to do with each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(pub String);

/// `If-Match`: the version that the caller saw; the request is refused when there is a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IfMatch(pub u64);

/// `If-None-Match`: the version that the caller has; only a newer one is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IfNoneMatch(pub u64);

/// `Abbey-Lease`: the fencing token of the lease on a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease(pub u64);

/// `Abbey-Lease` where a request may be part of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionalLease(pub u64);

/// `Last-Event-ID`: number of the newest entry that the caller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastEventId(pub u64);

impl FromStr for IdempotencyKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.len() {
            1..=KEY_MAX => Ok(IdempotencyKey(text.to_owned())),
            n => Err(format!(
                "an idempotency key has 1 to {KEY_MAX} characters, not {n}"
            )),
        }
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn version(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    digits
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("`{text}` is not a valid version; send the value of the `ETag` header of an earlier response, like \"3\""))
}

macro_rules! numbers {
    ($($name:ident: $header:literal, $required:ident, $parse:expr, $format:literal, $about:literal;)*) => {$(
        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> { $parse(text).map($name) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, $format, self.0) }
        }
        field!($name: $header, $required, $about);
    )*};
}

macro_rules! field {
    ($name:ident: $header:literal, $required:ident, $about:literal) => {
        impl HeaderField for $name {
            const NAME: &'static str = $header;
            fn value(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
        impl IntoParams for $name {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                vec![parameter($header, Required::$required, $about)]
            }
        }
    };
}

field!(IdempotencyKey: "idempotency-key", False, "Makes repeating the request safe: the same key is the same request.");
numbers! {
    IfMatch: "if-match", False, version, "\"{}\"", "Version on which the request is based; the request fails if a newer version exists.";
    IfNoneMatch: "if-none-match", False, version, "\"{}\"", "The version that the caller has; it is not sent again.";
    Lease: "abbey-lease", True, number, "{}", "Fencing token of the lease on the task.";
    OptionalLease: "abbey-lease", False, number, "{}", "Fencing token of the lease on the task that this is part of; needed where `task` is given.";
    LastEventId: "last-event-id", False, number, "{}", "Number of the newest entry that the caller has.";
}

fn number(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a number"))
}

fn parameter(name: &str, required: Required, about: &str) -> Parameter {
    let schema: RefOr<Schema> = ObjectBuilder::new().schema_type(Type::String).into();
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(required)
        .description(Some(about))
        .schema(Some(schema))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_quoted_and_read_either_way() {
        assert_eq!(IfMatch(3).to_string(), "\"3\"");
        assert_eq!("\"3\"".parse(), Ok(IfMatch(3)));
        assert_eq!("3".parse(), Ok(IfMatch(3)));
        assert!("\"x\"".parse::<IfMatch>().is_err());
    }

    #[test]
    fn keys_have_a_length() {
        assert!("".parse::<IdempotencyKey>().is_err());
        assert!("k".repeat(201).parse::<IdempotencyKey>().is_err());
        assert_eq!("k".parse(), Ok(IdempotencyKey("k".to_owned())));
    }
}
