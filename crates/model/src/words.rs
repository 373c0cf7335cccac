//! Enums whose variants have one word each, the same in JSON, in the database and in messages.

/// Declares an enum of words: its names, parsing, display, serde and OpenAPI schema come from one list. The crate that
/// uses it depends on `serde` and `utoipa`.
#[macro_export]
macro_rules! words {
    ($(#[doc = $doc:literal])* $(#[derive($derive:ident)])? $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[doc = $doc])*
        $(#[derive($derive)])?
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant,)* }
        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// Word in JSON and in the database.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .description(Some(concat!($($doc),*).trim()))
                    .enum_values(Some([$($text),*]))
                    .into()
            }
        }
        impl utoipa::ToSchema for $name {}
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.pad(self.name()) }
        }
        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok($name::$variant),)*
                    _ => Err(format!(
                        "unknown {} `{text}`; one of: {}",
                        $crate::words::spaced(stringify!($name)),
                        [$($text),*].join(", "),
                    )),
                }
            }
        }
    };
}
pub use crate::words;

/// Serializes a type as the text of its `Display` and `FromStr`.
macro_rules! text_form {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use text_form;

/// A type name as words in lower case: `TaskState` becomes `task state`.
#[doc(hidden)]
pub fn spaced(type_name: &str) -> String {
    let mut words = String::new();
    for c in type_name.chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use crate::TaskState;

    #[test]
    fn unknown_words_are_refused_with_the_known_ones() {
        let error = "fine".parse::<TaskState>().unwrap_err();
        assert!(
            error.starts_with("unknown task state `fine`; one of: pending, parked"),
            "{error}"
        );
    }
}
