//! Typed identifiers in TypeID form: a prefix that names the kind and a UUIDv7 in base 32.
//!
//! Source: TypeID specification 0.3 (prefix, underscore, 26 characters of Crockford base 32).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A kind of identifier; one alphabetical registry below, so a run id is never taken for a task id.
pub trait IdKind {
    /// Prefix of the text form, lower-case letters.
    const PREFIX: &'static str;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $prefix:literal as $alias:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub enum $kind {}
        impl IdKind for $kind { const PREFIX: &'static str = $prefix; }
        #[doc = concat!("Identifier with the prefix `", $prefix, "_`.")]
        pub type $alias = Id<$kind>;
    )*};
}

kinds! {
    /// Marks ids of conversations.
    ConversationKind = "conv" as ConversationId;
    /// Marks ids of reservations.
    ReservationKind = "resv" as ReservationId;
    /// Marks ids of runs.
    RunKind = "run" as RunId;
    /// Marks ids of sagas.
    SagaKind = "saga" as SagaId;
    /// Marks ids of sessions.
    SessionKind = "sess" as SessionId;
    /// Marks ids of tasks.
    TaskKind = "task" as TaskId;
}

/// One identifier of kind `K`: 128 bits, ordered by creation time when made as UUIDv7.
pub struct Id<K> {
    bits: u128,
    kind: PhantomData<fn() -> K>,
}

impl<K> Id<K> {
    /// An identifier with these 128 bits of a UUID.
    pub const fn from_bits(bits: u128) -> Self {
        Id {
            bits,
            kind: PhantomData,
        }
    }

    /// Builds a UUIDv7 (RFC 9562, section 5.7) from a time in milliseconds and 80 random bits.
    pub const fn v7(unix_ms: u64, random: u128) -> Self {
        let time = (unix_ms as u128 & 0xffff_ffff_ffff) << 80;
        let rand_a = (random >> 68) & 0x0fff;
        let rand_b = random & 0x3fff_ffff_ffff_ffff;
        Id::from_bits(time | (0x7 << 76) | (rand_a << 64) | (0b10 << 62) | rand_b)
    }

    /// The 128 bits of the UUID.
    pub const fn bits(self) -> u128 {
        self.bits
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.bits == other.bits
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.bits.cmp(&other.bits)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bits.hash(state);
    }
}

impl<K: IdKind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 26];
        for (i, slot) in text.iter_mut().enumerate() {
            let shift = 125 - 5 * i;
            *slot = ALPHABET[(self.bits >> shift) as usize & 31];
        }
        // The alphabet is ASCII, so the bytes are valid UTF-8.
        write!(
            f,
            "{}_{}",
            K::PREFIX,
            std::str::from_utf8(&text).unwrap_or_default()
        )
    }
}

impl<K: IdKind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id of the form `{prefix}_` and 26 characters")]
pub struct IdError {
    text: String,
    prefix: &'static str,
}

impl<K: IdKind> FromStr for Id<K> {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError {
            text: text.chars().take(64).collect(),
            prefix: K::PREFIX,
        };
        let suffix = text
            .strip_prefix(K::PREFIX)
            .and_then(|rest| rest.strip_prefix('_'))
            .filter(|s| s.len() == 26 && s.as_bytes()[0] <= b'7')
            .ok_or_else(error)?;
        let mut bits = 0u128;
        for byte in suffix.bytes() {
            let digit = ALPHABET.iter().position(|&c| c == byte).ok_or_else(error)?;
            bits = bits << 5 | digit as u128;
        }
        Ok(Id::from_bits(bits))
    }
}

impl<K: IdKind> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, K: IdKind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Reference to a task: its short number or its identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskRef {
    /// `TASK-12`.
    Number(u64),
    /// `task_…`.
    Id(TaskId),
}

impl fmt::Display for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskRef::Number(n) => write!(f, "TASK-{n}"),
            TaskRef::Id(id) => write!(f, "{id}"),
        }
    }
}

impl FromStr for TaskRef {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let number = text
            .strip_prefix("TASK-")
            .or_else(|| text.strip_prefix("task-"))
            .unwrap_or(text);
        if let Ok(n) = number.parse() {
            return Ok(TaskRef::Number(n));
        }
        text.parse().map(TaskRef::Id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_refuses_other_kinds() {
        let id: TaskId = Id::v7(1_700_000_000_000, 0x1234_5678_9abc_def0_1234);
        let text = id.to_string();
        assert_eq!(text.len(), "task_".len() + 26);
        assert_eq!(text.parse::<TaskId>(), Ok(id));
        assert!(text.parse::<RunId>().is_err());
    }

    #[test]
    fn known_vector_of_the_specification() {
        // TypeID specification, valid.yml: uuid 01890a5d-ac96-774b-bcce-b302099a8057.
        let id: TaskId = Id::from_bits(0x01890a5d_ac96_774b_bcce_b302099a8057);
        assert_eq!(id.to_string(), "task_01h455vb4pex5vsknk084sn02q");
    }

    #[test]
    fn order_follows_creation_time() {
        let early: RunId = Id::v7(1, u128::MAX);
        let late: RunId = Id::v7(2, 0);
        assert!(early < late);
    }

    #[test]
    fn a_task_is_named_by_number_or_id() {
        assert_eq!("TASK-12".parse::<TaskRef>().unwrap(), TaskRef::Number(12));
        assert_eq!("12".parse::<TaskRef>().unwrap(), TaskRef::Number(12));
        assert!("TASK-x".parse::<TaskRef>().is_err());
    }
}
