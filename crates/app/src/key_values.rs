//! Arguments of the form `KEY=VALUE`.

use crate::exit::{self, Failure};
use serde_json::Value;
use std::collections::BTreeMap;

/// Parses arguments of the form `KEY=VALUE`. A value that is valid JSON is read as JSON, any other as text.
///
/// # Errors
/// Exit code 2 for an argument without `=`.
pub(crate) fn parse_key_values(input: &[String]) -> Result<BTreeMap<String, Value>, Failure> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Failure::plain(format!("argument `{text}` must be KEY=VALUE")).with_code(exit::USAGE)
        })?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        Ok((name.to_owned(), value))
    };
    input.iter().map(pair).collect()
}
