//! What a key of the manifest is, what may stand there, and the macro by which a key is defined once.
//!
//! `keys!` declares a struct whose fields are keys. From that one declaration come the shape that the checker and
//! the JSON Schema read, the decoder, the effective view, change detection and `docs/reference/manifest.md`.

use abbey_model::CellKind;
use serde::{Deserialize, Serialize};

/// Form of the value at one place of the manifest.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Free text.
    Text,
    /// A [`Slug`].
    Name,
    /// The slug of an agent; renaming the agent changes it.
    Agent,
    /// A path, relative to the manifest or absolute.
    Path,
    /// A whole number within bounds.
    Integer(i64, i64),
    /// A decimal number above 0 and up to the bound.
    Number(f64),
    /// `true` or `false`.
    Boolean,
    /// Bytes with a unit: `512MiB`.
    Bytes,
    /// A duration with a unit: `24h`.
    Duration,
    /// `80%`.
    Percent,
    /// Two ports: `18800-18999`.
    PortRange,
    /// An IPv4 network: `10.77.0.0/16`.
    Network,
    /// An address and port.
    Socket,
    /// An IANA time zone.
    TimeZone,
    /// `PROVIDER/MODEL`.
    Model,
    /// A reference to a secret.
    Secret,
    /// One of these words. The words of the second list are reserved and refused, because they are not built yet.
    Word(&'static [&'static str], &'static [&'static str]),
    /// A language as a tag of BCP 47: `sl-SI`.
    Language,
    /// A locale of programs: `sl_SI.UTF-8`.
    SystemLocale,
    /// A list in which the order counts.
    List(&'static Shape),
    /// A list in which the order does not count.
    Set(&'static Shape),
    /// A list of tools, or the word `all`.
    Tools,
    /// A list of destinations, or one of the words `none` and `full`.
    Egress,
    /// Agents that an agent may give work to: a word, or a list of them.
    Delegates,
    /// Anything: a value of JSON.
    Value,
    /// A mapping from names to things of one shape.
    Map(&'static Shape),
    /// A mapping from agents to things of one shape; renaming an agent changes its name there.
    ByAgent(&'static Shape),
    /// A mapping from names of fields to things of one shape.
    Dict(&'static Shape),
    /// A mapping with these keys, which is there or not.
    Object(&'static [Key]),
    /// A mapping with these keys; their defaults also apply where the mapping is absent.
    Section(&'static [Key]),
    /// A mapping with those of these keys that `defaults` may set.
    Defaults(&'static [Key]),
}

impl Shape {
    /// Keys that a mapping of this shape may have; none for other shapes.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        let (keys, inherited) = match *self {
            Shape::Object(keys) | Shape::Section(keys) => (keys, false),
            Shape::Defaults(keys) => (keys, true),
            _ => (&[][..], false),
        };
        keys.iter().filter(move |k| !inherited || k.inherited)
    }
}

/// What a changed value of a key does to what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing that runs changes; the value is recorded.
    None,
    /// The change takes effect without a restart.
    Live,
    /// The cell restarts.
    Restart,
}

impl Effect {
    /// Name of the effect in JSON and in the manifest reference.
    pub const fn name(self) -> &'static str {
        match self {
            Effect::None => "none",
            Effect::Live => "live",
            Effect::Restart => "restart",
        }
    }
}

/// Whose a value is, for agents that are made like another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    /// That of every agent made like it.
    Shared,
    /// That of the agent and its clones: its place among the agents of this house, and what it may spend there.
    Houses,
    /// That of the one agent: who it is to others, its addresses, and when it works by itself.
    Agents,
}

/// Definition of one manifest key.
#[derive(Debug)]
pub(crate) struct Key {
    /// Name in the manifest.
    pub(crate) name: &'static str,
    /// Form of its value.
    pub(crate) shape: Shape,
    /// Effect of a changed value.
    pub(crate) effect: Effect,
    /// Kinds of cells in which a change has that effect; all when empty.
    pub(crate) cells: &'static [CellKind],
    /// Effect of a changed value in other kinds of cells.
    pub(crate) elsewhere: Effect,
    /// Value where none is given, as the manifest writes it.
    pub(crate) default: Option<&'static str>,
    /// Whether it must be given.
    pub(crate) required: bool,
    /// Whether `defaults` may set it for all agents.
    pub(crate) inherited: bool,
    /// Whether an object is taken from one place as a whole, and not key by key.
    pub(crate) whole: bool,
    /// Whether a value lets the agent do or use more than it could without the key; the list holds the values that do
    /// not.
    pub(crate) authority: Option<&'static [&'static str]>,
    /// Whether a value is one agent's alone, so that an agent made like it does not get it.
    pub(crate) own: Own,
    /// Text that stands for an absent value in output for people.
    pub(crate) unset: &'static str,
    /// Documentation.
    doc: &'static str,
}

impl Key {
    /// A key with a name, a shape and the effect of a change; optional, without default and documentation.
    pub(crate) const fn new(name: &'static str, shape: Shape, effect: Effect) -> Key {
        Key {
            name,
            shape,
            effect,
            cells: &[],
            elsewhere: Effect::None,
            default: None,
            required: false,
            inherited: false,
            whole: false,
            authority: None,
            own: Own::Shared,
            unset: "none",
            doc: "",
        }
    }

    /// Sets the documentation of the key.
    pub(crate) const fn doc(mut self, doc: &'static str) -> Key {
        self.doc = doc;
        self
    }

    /// Sets the default value, as the manifest would write it.
    pub(crate) const fn default(mut self, text: &'static str) -> Key {
        self.default = Some(text);
        self
    }

    /// Sets the text that stands for an absent value in output for people, such as `unlimited`.
    pub(crate) const fn unset(mut self, text: &'static str) -> Key {
        self.unset = text;
        self
    }

    /// Marks the key as required.
    pub(crate) const fn required(mut self) -> Key {
        self.required = true;
        self
    }

    /// Marks the key as one that `defaults` may set for all agents.
    pub(crate) const fn inherited(mut self) -> Key {
        self.inherited = true;
        self
    }

    /// Marks an object that is taken from one layer (agent or `defaults`) as a whole, and not merged key by key.
    pub(crate) const fn whole(mut self) -> Key {
        self.whole = true;
        self
    }

    /// Marks a key by which an agent gets authority: reach, isolation, commands, resources, or work that starts by
    /// itself. `harmless` lists the values, or keys of a section, that give none.
    pub(crate) const fn authority(mut self, harmless: &'static [&'static str]) -> Key {
        self.authority = Some(harmless);
        self
    }

    /// Marks a key whose value no agent that is made like another one gets.
    pub(crate) const fn own(mut self) -> Key {
        self.own = Own::Agents;
        self
    }

    /// Marks a key whose value a clone gets, beside its original in the same house, and an agent from a template does not.
    pub(crate) const fn of_this_house(mut self) -> Key {
        self.own = Own::Houses;
        self
    }

    /// Limits the effect of a change to these kinds of cells; in other kinds a change has the effect `elsewhere`.
    pub(crate) const fn only_in(mut self, cells: &'static [CellKind], elsewhere: Effect) -> Key {
        self.cells = cells;
        self.elsewhere = elsewhere;
        self
    }

    /// Documentation of the key as one paragraph.
    pub(crate) fn text(&self) -> String {
        let lines: Vec<&str> = self.doc.lines().map(str::trim).collect();
        lines.join(" ").trim().to_owned()
    }

    /// Effect that a change of this key has in a cell of this kind.
    pub(crate) fn effect_in(&self, cell: Option<CellKind>) -> Effect {
        match cell {
            Some(cell) if !self.cells.is_empty() && !self.cells.contains(&cell) => self.elsewhere,
            _ => self.effect,
        }
    }
}

/// An optional key whose changes take effect without a restart.
pub(crate) const fn live(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key::new(name, shape, Effect::Live).doc(doc)
}

/// A required key whose changes take effect without a restart.
pub(crate) const fn must(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    live(name, shape, doc).required()
}

/// Declares a struct whose fields are keys of the manifest.
///
/// ```ignore
/// keys! {
///     /// Ceilings of a cell.
///     pub(crate) struct LimitKeys {
///         /// Most memory, for example `512MiB`.
///         pub(crate) memory: Bytes = Key::new("memory", Shape::Bytes, Effect::Restart).default("512MiB"),
///     }
/// }
/// ```
///
/// The doc comment of a field is the documentation of its key. The type decodes itself
/// ([`FromValue`](crate::value::FromValue)), or `=> reader` names a function that does. Fields after `derived`
/// are no keys; their values are arguments of `read`.
macro_rules! keys {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[doc = $doc:literal])+ $field_vis:vis $field:ident: $type:ty = $key:expr $(=> $reader:path)?,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        $vis struct $name {
            $($(#[doc = $doc])+ $field_vis $field: $type,)+
        }
        impl $name {
            /// Definitions of its keys.
            pub(crate) const KEYS: &'static [$crate::key::Key] =
                &[$($key.doc(concat!($($doc, "\n"),+))),+];
        }
        impl $crate::value::FromValue for $name {
            fn from_value(value: &serde_json::Value) -> Option<Self> {
                Some($name {
                    $($field: {
                        const NAME: &str = $key.name;
                        keys!(@read value.get(NAME).unwrap_or(&serde_json::Value::Null) $(, $reader)?)?
                    },)+
                })
            }
        }
    };
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[doc = $doc:literal])+ $field_vis:vis $field:ident: $type:ty = $key:expr $(=> $reader:path)?,)+
        }
        derived {
            $($(#[$derived_meta:meta])+ $derived_vis:vis $derived:ident: $derived_type:ty,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        $vis struct $name {
            $($(#[doc = $doc])+ $field_vis $field: $type,)+
            $($(#[$derived_meta])+ $derived_vis $derived: $derived_type,)+
        }
        impl $name {
            /// Definitions of its keys.
            pub(crate) const KEYS: &'static [$crate::key::Key] =
                &[$($key.doc(concat!($($doc, "\n"),+))),+];

            /// Decodes its keys; the rest is given.
            pub(crate) fn read(value: &serde_json::Value, $($derived: $derived_type),+) -> Option<Self> {
                Some($name {
                    $($field: {
                        const NAME: &str = $key.name;
                        keys!(@read value.get(NAME).unwrap_or(&serde_json::Value::Null) $(, $reader)?)?
                    },)+
                    $($derived,)+
                })
            }
        }
    };
    (@read $value:expr) => { $crate::value::FromValue::from_value($value) };
    (@read $value:expr, $reader:path) => { $reader($value) };
}
pub(crate) use keys;
