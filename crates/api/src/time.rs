//! Instants as the wire shows them: RFC 3339, UTC, milliseconds.

use abbey_model::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// An instant on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Timestamp);

impl utoipa::PartialSchema for Time {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(
                utoipa::openapi::KnownFormat::DateTime,
            )))
            .into()
    }
}
impl utoipa::ToSchema for Time {}

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Self {
        Time(at)
    }
}

impl Time {
    /// The instant as a part of file names: as elsewhere, with `-` for every `:` and `.`.
    pub fn stamp(self) -> String {
        self.to_string().replace([':', '.'], "-")
    }

    /// The instant that such a part of a file name means; none if it is no stamp.
    pub fn from_stamp(stamp: &str) -> Option<Time> {
        let (day, time) = stamp.strip_suffix('Z')?.split_once('T')?;
        let parts: Vec<&str> = time.split('-').collect();
        let [hours, minutes, seconds, millis] = parts[..] else {
            return None;
        };
        let text = format!("{day}T{hours}:{minutes}:{seconds}.{millis}Z");
        let instant: jiff::Timestamp = text.parse().ok()?;
        Some(Time(Timestamp(instant.as_millisecond())))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instant =
            jiff::Timestamp::from_millisecond(self.0.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        write!(f, "{instant:.3}")
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let instant: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Time(Timestamp(instant.as_millisecond())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn always_three_digits_and_utc() {
        assert_eq!(Time(Timestamp(0)).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            Time(Timestamp(1_700_000_000_120)).to_string(),
            "2023-11-14T22:13:20.120Z"
        );
    }
}
