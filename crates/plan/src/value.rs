//! From a value of the resolved manifest to a type.
//!
//! Values are canonical: bytes and milliseconds are numbers, sets are sorted, defaults are filled in. The checker
//! has reported what does not fit; such values are absent here.

use crate::agent_values::{Charter, ModelRef, RELATIONS};
use crate::service_kind::ServiceKind;
use abbey_model::{
    Authority, Bytes, CellKind, Egress, EgressRule, Grant, Layer, Millis, Profile, Runtime,
    SecretRef, Slug, Subnet, Tool, Vmm,
};
use abbey_words::SystemLocale;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, SocketAddrV4};

/// A type that a canonical value decodes to.
pub(crate) trait FromValue: Sized {
    /// The decoded value; none where the value does not fit, which the checker has reported.
    fn from_value(value: &Value) -> Option<Self>;
}

/// Types that are written as text.
macro_rules! from_text {
    ($($type:ty),+) => { $(impl FromValue for $type {
        fn from_value(value: &Value) -> Option<Self> {
            value.as_str()?.parse().ok()
        }
    })+ };
}
from_text!(
    Slug,
    CellKind,
    Runtime,
    Profile,
    Vmm,
    Layer,
    Tool,
    SecretRef,
    SystemLocale,
    SocketAddr,
    Authority,
    ModelRef,
    ServiceKind,
    EgressRule
);

/// Types that are written as numbers.
macro_rules! from_number {
    ($($type:ty),+) => { $(impl FromValue for $type {
        fn from_value(value: &Value) -> Option<Self> {
            value.as_u64()?.try_into().ok()
        }
    })+ };
}
from_number!(u8, u16, u32, u64);

impl FromValue for bool {
    fn from_value(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl FromValue for Bytes {
    fn from_value(value: &Value) -> Option<Self> {
        value.as_u64().map(Bytes)
    }
}

impl FromValue for Millis {
    fn from_value(value: &Value) -> Option<Self> {
        value.as_i64().map(Millis)
    }
}

impl FromValue for SocketAddrV4 {
    fn from_value(value: &Value) -> Option<Self> {
        match value.as_str()?.parse().ok()? {
            SocketAddr::V4(address) => Some(address),
            SocketAddr::V6(_) => None,
        }
    }
}

impl FromValue for Subnet {
    fn from_value(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Option<Self> {
        Some(T::from_value(value))
    }
}

impl<T: FromValue> FromValue for Vec<T> {
    fn from_value(value: &Value) -> Option<Self> {
        let items = value.as_array().map_or(&[][..], Vec::as_slice);
        Some(items.iter().filter_map(T::from_value).collect())
    }
}

impl<T: FromValue + Ord> FromValue for BTreeSet<T> {
    fn from_value(value: &Value) -> Option<Self> {
        Some(Vec::from_value(value)?.into_iter().collect())
    }
}

impl<T: FromValue> FromValue for BTreeMap<Slug, T> {
    fn from_value(value: &Value) -> Option<Self> {
        let entries = value.as_object().into_iter().flatten();
        let decoded = entries.filter_map(|(k, v)| Some((k.parse().ok()?, T::from_value(v)?)));
        Some(decoded.collect())
    }
}

/// Relations by kind.
impl FromValue for BTreeMap<&'static str, Vec<Slug>> {
    fn from_value(value: &Value) -> Option<Self> {
        let named = RELATIONS.iter().filter_map(|kind| {
            let names = Vec::from_value(value.get(kind)?)?;
            (!names.is_empty()).then_some((*kind, names))
        });
        Some(named.collect())
    }
}

impl FromValue for Egress {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::String(word) if word == "full" => Some(Egress::Full),
            Value::Array(_) => Some(Egress::List(BTreeSet::from_value(value)?)),
            _ => Some(Egress::None),
        }
    }
}

impl FromValue for Charter {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::String(path) => Some(Charter::File(path.clone())),
            stock => Some(Charter::Stock(stock.get("stock")?.as_str()?.to_owned())),
        }
    }
}

impl FromValue for Grant {
    fn from_value(value: &Value) -> Option<Self> {
        Some(Grant {
            tokens: value.get("tokens").and_then(Value::as_u64),
            skills: BTreeSet::from_value(value.get("skills").unwrap_or(&Value::Null))?,
        })
    }
}

/// Reads US dollars (a number) as billionths of a dollar, rounded; no limit when the value is absent.
pub(crate) fn nano_usd(value: &Value) -> Option<Option<u64>> {
    Some(value.as_f64().map(|dollars| (dollars * 1e9).round() as u64))
}

/// Reads a number of CPUs as thousandths of a CPU, at least 1.
pub(crate) fn cpu_milli(value: &Value) -> Option<u32> {
    value
        .as_f64()
        .map(|cpus| ((cpus * 1000.0).round() as u32).max(1))
}

/// Reads minutes as seconds; no limit when the value is absent.
pub(crate) fn seconds(value: &Value) -> Option<Option<u64>> {
    Some(value.as_u64().map(|minutes| minutes.saturating_mul(60)))
}

/// Reads the program of an agent that works by files. An empty command means that another program picks up the files;
/// none means that the agent does not work by files.
pub(crate) fn file_command(value: &Value) -> Option<Option<Vec<String>>> {
    let command = |files: &Value| Vec::from_value(files.get("command").unwrap_or(&Value::Null));
    Some(value.is_object().then(|| command(value)).flatten())
}

/// Leaves a field at its default because the decoder sets it afterwards, with checks of its own.
pub(crate) fn later<T: Default>(_: &Value) -> Option<T> {
    Some(T::default())
}
