//! URL escaping.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986, section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Percent-encodes a text as one segment of a URL path or one value of a query. Only letters, digits, `-`, `.`, `_` and
/// `~` stay.
pub fn encode_component(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreserved_characters_stay() {
        assert_eq!(encode_component("iris-2_a.b~c"), "iris-2_a.b~c");
        assert_eq!(encode_component("a/b?c=d&e f%"), "a%2Fb%3Fc%3Dd%26e%20f%25");
        assert_eq!(encode_component("é"), "%C3%A9");
    }
}
