//! Checks the tree of a manifest against the shapes of its keys, and parses amounts, ports and networks.

use crate::key::{Key, Shape};
use crate::node::{Entry, Kind, Mistake, Node, Place};
use abbey_engine::budget::TimeZone;
use abbey_model::{EgressRule, SecretRef, Slug, Tool};
use abbey_words::SystemLocale;

/// Keys of planned features; refused by name, not as unknown.
const NOT_BUILT: &[&str] = &[
    "fallback",
    "channels",
    "skills",
    "teams",
    "approvals",
    "evidence",
    "env",
    "secrets",
    "mounts",
];

/// Checks a node of the manifest against a shape and appends every mistake to `mistakes`. `path` is the key's path, for
/// messages.
pub(crate) fn check(shape: &Shape, node: &Node, path: &str, mistakes: &mut Vec<Mistake>) {
    match shape {
        Shape::Object(_) | Shape::Section(_) | Shape::Defaults(_) => {
            let keys: Vec<&Key> = shape.keys().collect();
            check_object(&keys, node, path, mistakes);
        }
        Shape::Map(inner) | Shape::ByAgent(inner) => {
            let Kind::Map(entries) = &node.kind else {
                if !node.is_null() {
                    mistakes.push(node.place.mistake(format!(
                        "`{path}` must be a mapping of names, not {}",
                        node.describe()
                    )));
                }
                return;
            };
            for Entry { key, place, value } in entries {
                if let Err(error) = key.parse::<Slug>() {
                    mistakes.push(place.mistake(error.to_string()));
                }
                check(inner, value, &format!("{path}.{key}"), mistakes);
            }
        }
        Shape::Value => {}
        Shape::Dict(inner) => {
            if !matches!(&node.kind, Kind::Map(_)) && !node.is_null() {
                mistakes.push(node.place.mistake(format!(
                    "`{path}` must be a mapping of fields, not {}",
                    node.describe()
                )));
            }
            for Entry { key, place, value } in node.entries() {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
                if key.is_empty() || key.len() > 64 || !key.bytes().all(plain) {
                    mistakes.push(place.mistake(format!(
                        "`{key}` is not a field name; use 1 to 64 letters, digits, `_` and `-`"
                    )));
                }
                check(inner, value, &format!("{path}.{key}"), mistakes);
            }
        }
        Shape::List(inner) | Shape::Set(inner) => {
            let Kind::List(items) = &node.kind else {
                let words: Vec<&str> = node.text().unwrap_or("").split_whitespace().collect();
                let example = match words.is_empty() {
                    true => String::new(),
                    false => format!("; write `[{}]`", words.join(", ")),
                };
                mistakes.push(node.place.mistake(format!(
                    "`{path}` must be a list, not {}{example}",
                    node.describe()
                )));
                return;
            };
            for item in items {
                check(inner, item, path, mistakes);
            }
        }
        Shape::Egress => match &node.kind {
            Kind::Scalar { text, .. } if text == "none" || text == "full" => {}
            Kind::List(items) => {
                for item in items {
                    if let Err(error) = item.text().unwrap_or("").parse::<EgressRule>() {
                        mistakes.push(item.place.mistake(format!("`{path}`: {error}")));
                    }
                }
            }
            Kind::Scalar { .. } | Kind::Map(_) => {
                mistakes.push(node.place.mistake(format!(
                    "`{path}` must be `none`, `full` or a list like `[api.example.org:443]`"
                )));
            }
        },
        Shape::Delegates => {
            let words: Vec<&Node> = match &node.kind {
                Kind::Scalar { .. } => vec![node],
                Kind::List(items) => items.iter().collect(),
                Kind::Map(_) => Vec::new(),
            };
            if words.is_empty() && !matches!(&node.kind, Kind::List(_)) {
                mistakes.push(node.place.mistake(format!(
                    "`{path}` must be `all`, `none`, or a list like `[atlas, mason]` or `[all, -manager]`"
                )));
            }
            for word in words {
                let text = word.text().unwrap_or("");
                if let Err(error) = abbey_model::Authority::default().add(text) {
                    mistakes.push(word.place.mistake(format!("`{path}`: {error}")));
                }
            }
        }
        Shape::Tools => match &node.kind {
            Kind::Scalar { text, .. } if text == "all" => {}
            Kind::List(items) => {
                for item in items {
                    if let Err(error) = item.text().unwrap_or("").parse::<Tool>() {
                        mistakes.push(item.place.mistake(format!("`{path}`: {error}")));
                    }
                }
            }
            Kind::Scalar { .. } | Kind::Map(_) => {
                mistakes.push(node.place.mistake(format!(
                    "`{path}` must be a list of tools or the word `all`"
                )));
            }
        },
        scalar => {
            let Some(text) = node.text() else {
                mistakes.push(node.place.mistake(format!(
                    "`{path}` is {}, not {}",
                    scalar.title(),
                    node.describe()
                )));
                return;
            };
            if let Err(why) = scalar.accepts(text) {
                mistakes.push(node.place.mistake(format!("`{path}`: {why}")));
            }
        }
    }
}

fn check_object(fields: &[&Key], node: &Node, path: &str, mistakes: &mut Vec<Mistake>) {
    let Kind::Map(entries) = &node.kind else {
        // An agent may be named and nothing more.
        if !node.is_null() || fields.iter().any(|f| f.required) {
            let what = match path {
                "" => "the manifest".to_owned(),
                path => format!("`{path}`"),
            };
            mistakes.push(
                node.place
                    .mistake(format!("{what} must be a mapping, not {}", node.describe())),
            );
        }
        return;
    };
    for Entry { key, place, value } in entries {
        let at = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match fields.iter().find(|f| f.name == key) {
            Some(field) => check(&field.shape, value, &at, mistakes),
            None => mistakes.push(unknown(fields, key, &at, *place)),
        }
    }
    for field in fields.iter().filter(|f| f.required) {
        if !entries.iter().any(|e| e.key == field.name) {
            let owner = if path.is_empty() {
                "the manifest".to_owned()
            } else {
                format!("`{path}`")
            };
            // A key with one value is written as it is to be written.
            let text = match field.shape {
                Shape::Integer(least, most) if least == most => {
                    format!("`{}: {least}` is missing", field.name)
                }
                _ => format!("{owner} needs the key `{}`: {}", field.name, field.text()),
            };
            mistakes.push(node.place.mistake(text));
        }
    }
}

fn unknown(fields: &[&Key], key: &str, at: &str, place: Place) -> Mistake {
    if NOT_BUILT.contains(&key) {
        return place.mistake(format!(
            "`{at}` is not built yet; remove it from the manifest"
        ));
    }
    let nearest = fields
        .iter()
        .map(|f| (strsim::damerau_levenshtein(f.name, key), f.name))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3));
    match nearest {
        Some((_, name)) => place.mistake(format!("unknown key `{at}`; did you mean `{name}`?")),
        None => {
            let known: Vec<&str> = fields.iter().map(|f| f.name).collect();
            place.mistake(format!(
                "unknown key `{at}`; known keys: {}",
                known.join(", ")
            ))
        }
    }
}

impl Shape {
    /// Description of a value of this shape for error messages, such as `a whole number`.
    pub(crate) fn title(&self) -> &'static str {
        match self {
            Shape::Text => "a text",
            Shape::Name => "a name",
            Shape::Agent => "an agent",
            Shape::Path => "a path",
            Shape::Integer(..) => "a whole number",
            Shape::Number(_) => "a number",
            Shape::Boolean => "`true` or `false`",
            Shape::Bytes => "an amount like `512MiB`",
            Shape::Duration => "a duration like `5m`",
            Shape::Percent => "a percentage like `80%`",
            Shape::PortRange => "two ports like `18800-18999`",
            Shape::Network => "a network like `10.77.0.0/16`",
            Shape::Socket => "an address like `127.0.0.1:3100`",
            Shape::TimeZone => "a time zone like `Europe/Ljubljana`",
            Shape::Model => "a model like `ollama/qwen2.5:1.5b`",
            Shape::Secret => "a reference like `env:NAME`",
            Shape::Word(..) => "a word",
            Shape::Language => "a language like `sl-SI`",
            Shape::SystemLocale => "a locale like `sl_SI.UTF-8`",
            Shape::List(_) | Shape::Set(_) => "a list",
            Shape::Tools => "a list of tools",
            Shape::Egress => "a list of destinations",
            Shape::Delegates => "a list of agents",
            Shape::Value => "a value",
            Shape::Map(_)
            | Shape::ByAgent(_)
            | Shape::Dict(_)
            | Shape::Object(_)
            | Shape::Section(_)
            | Shape::Defaults(_) => "a mapping",
        }
    }

    /// Description of the values that this shape accepts, for the manifest reference.
    pub(crate) fn notation(&self) -> String {
        match self {
            Shape::Integer(least, most) if *most == i64::MAX => {
                format!("a whole number from {least}")
            }
            Shape::Integer(least, most) => format!("a whole number from {least} to {most}"),
            Shape::Number(most) => format!("a number above 0, at most {most}"),
            Shape::Word(words, _) => quoted(words),
            Shape::List(inner) => format!("a list; each {}", inner.notation()),
            Shape::Set(inner) => format!("a list in any order; each {}", inner.notation()),
            Shape::Tools => "`all`, or a list of tools".to_owned(),
            Shape::Egress => "`none`, `full`, or a list like `[api.example.org:443]`".to_owned(),
            Shape::Delegates => "`all`, `none`, or a list of agents".to_owned(),
            other => other.title().to_owned(),
        }
    }

    /// Checks that a text is a valid scalar of this shape.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn accepts(&self, text: &str) -> Result<(), String> {
        let not = || format!("`{text}` is not {}", self.title());
        let ok = |good: bool| if good { Ok(()) } else { Err(not()) };
        match self {
            Shape::Text => ok(!text.is_empty() && text.len() <= 4096 && !text.contains('\0')),
            Shape::Path => ok(!text.is_empty() && text.len() <= 4096 && !text.contains('\0')),
            Shape::Name | Shape::Agent => text.parse::<Slug>().map(drop).map_err(|e| e.to_string()),
            Shape::Integer(least, most) => match text.replace('_', "").parse::<i64>() {
                Ok(n) if (*least..=*most).contains(&n) => Ok(()),
                Ok(n) => Err(format!("{n} is outside {least} to {most}")),
                Err(_) => Err(not()),
            },
            Shape::Number(most) => match text.parse::<f64>() {
                Ok(n) if n > 0.0 && n <= *most => Ok(()),
                Ok(n) => Err(format!("{n} must be above 0 and at most {most}")),
                Err(_) => Err(not()),
            },
            Shape::Boolean => ok(matches!(text, "true" | "false")),
            Shape::Bytes if is_number(text) => {
                Err(format!("`{text}` has no unit; write `{text}MiB`"))
            }
            Shape::Bytes => ok(parse_bytes(text).is_some()),
            Shape::Duration if is_number(text) => {
                Err(format!("`{text}` has no unit; write `{text}s`"))
            }
            Shape::Duration => ok(parse_duration_ms(text).is_some()),
            Shape::Percent => match text.strip_suffix('%') {
                Some(number) if is_number(number) && parse_percent(text).is_none() => {
                    Err(format!("`{text}` must be at most 100%"))
                }
                _ => ok(parse_percent(text).is_some()),
            },
            Shape::PortRange => ok(parse_port_range(text).is_some()),
            Shape::Network => ok(parse_network(text).is_some()),
            Shape::Socket => ok(text.parse::<std::net::SocketAddr>().is_ok()),
            Shape::TimeZone => TimeZone::get(text).map(drop).map_err(|_| {
                format!("unknown time zone `{text}`; write an IANA name like `Europe/Ljubljana`")
            }),
            Shape::Language => abbey_words::normalize_language_tag(text)
                .map(drop)
                .map_err(|e| e.to_string()),
            Shape::SystemLocale => text
                .parse::<SystemLocale>()
                .map(drop)
                .map_err(|e| e.to_string()),
            Shape::Model => ok(text
                .split_once('/')
                .is_some_and(|(p, m)| p.parse::<Slug>().is_ok() && !m.is_empty())),
            // The text is not repeated: it may be a secret that was pasted here.
            Shape::Secret => text
                .parse::<SecretRef>()
                .map(drop)
                .map_err(|e| e.to_string()),
            Shape::Word(words, later) => {
                if words.contains(&text) {
                    Ok(())
                } else if later.contains(&text) {
                    Err(format!(
                        "`{text}` is not built yet on this host; use {}",
                        quoted(words)
                    ))
                } else {
                    Err(format!("unknown word `{text}`; one of {}", quoted(words)))
                }
            }
            Shape::List(_)
            | Shape::Set(_)
            | Shape::Tools
            | Shape::Egress
            | Shape::Delegates
            | Shape::Value
            | Shape::Dict(_)
            | Shape::Map(_)
            | Shape::ByAgent(_)
            | Shape::Object(_)
            | Shape::Section(_)
            | Shape::Defaults(_) => Err(not()),
        }
    }
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|w| format!("`{w}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(split);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Number of bytes of an amount like `512MiB`, or `512M` for short; none when it is not one, or 0.
pub fn parse_bytes(text: &str) -> Option<u64> {
    scaled(
        text,
        &[
            ("B", 1),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("TiB", 1 << 40),
            ("K", 1 << 10),
            ("M", 1 << 20),
            ("G", 1 << 30),
            ("T", 1 << 40),
        ],
    )
    .filter(|n| *n > 0)
}

/// Milliseconds of a duration like `60s` or `24h`; none when it is not one, or longer than 366 days.
pub fn parse_duration_ms(text: &str) -> Option<i64> {
    let units = [
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    scaled(text, &units)
        .and_then(|ms| i64::try_from(ms).ok())
        .filter(|ms| *ms <= 366 * 86_400_000)
}

/// Number of a percentage like `80%`; none above 100 or when it is not one.
pub(crate) fn parse_percent(text: &str) -> Option<u8> {
    text.strip_suffix('%')?.parse().ok().filter(|p| *p <= 100)
}

/// First and last port of a range like `18800-18999`; none below 1024 or when it is not one.
pub(crate) fn parse_port_range(text: &str) -> Option<(u16, u16)> {
    let (a, b) = text.split_once('-')?;
    let (a, b) = (a.trim().parse().ok()?, b.trim().parse().ok()?);
    (a >= 1024 && a <= b).then_some((a, b))
}

/// Address and prefix length of an IPv4 network like `10.77.0.0/16`; none when host bits are set or it is not one.
pub(crate) fn parse_network(text: &str) -> Option<(std::net::Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: std::net::Ipv4Addr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok().filter(|p| (8..=30).contains(p))?;
    // Host bits must be clear, or two people read two different networks.
    (u32::from(address) & (u32::MAX >> prefix) == 0).then_some((address, prefix))
}
