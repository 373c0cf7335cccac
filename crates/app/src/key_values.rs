//! Arguments of the form `KEY=VALUE`.

use crate::exit::{self, Failure};
use serde_json::Value;
use std::collections::BTreeMap;

/// Parses arguments of the form `KEY=VALUE`. Each value is a text, which the house converts to the type that is declared
/// for it; a text between quotes, as JSON has it, is what stands between them.
///
/// # Errors
/// Exit code 2 for an argument without `=`.
pub(crate) fn parse_key_values(input: &[String]) -> Result<BTreeMap<String, Value>, Failure> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Failure::plain(format!("argument `{text}` must be KEY=VALUE")).with_code(exit::USAGE)
        })?;
        let quoted = serde_json::from_str(value).ok().filter(Value::is_string);
        Ok((name.to_owned(), quoted.unwrap_or_else(|| value.into())))
    };
    input.iter().map(pair).collect()
}
