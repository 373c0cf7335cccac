//! From a checked tree to a [`House`]: values resolved and decoded, references checked, every mistake
//! reported at once.

mod agents;
mod colleagues;
mod decoder;
mod documents;
mod hooks;
mod schedules;
mod services;
mod sinks;
mod workflows;

use crate::house::{Endpoint, House, Listen, Network, Provider};
use crate::keys::{ListenKeys, MANIFEST, ManifestKeys, NetworkKeys, ProviderKeys, Service};
use crate::node::{self, Entry, Mistake, Node, Removal};
use crate::settings::{self, Given, Layer};
use crate::shape;
use crate::value::FromValue;
use abbey_model::{NanoUsd, Slug, Subnet, is_private};
use decoder::{Decoder, check_without_password, suggest_similar, text};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

pub(crate) use workflows::value_type;

/// Service addresses of a house that names none.
const SLOTS: [(&str, u32); 4] = [("git", 2), ("cms", 3), ("models", 4), ("db", 5)];

/// Parses and validates the text of a manifest.
///
/// # Errors
/// Every mistake with its line and column, in the order of the text.
pub fn parse(text: &str) -> Result<House, Vec<Mistake>> {
    decode(&node::parse_yaml(text)?)
}

/// Most rounds in which mistakes of a stored manifest are left out; one can uncover others.
const ROUNDS_MAX: usize = 32;

/// Parses a manifest that an earlier release accepted and put in force. A key whose value this release refuses is left
/// out, so that it has its default; returned with the house is what was wrong with each.
///
/// # Errors
/// As [`parse`], if an agent or a service as a whole, or a budget, would have to be left out.
pub fn parse_stored(text: &str) -> Result<(House, Vec<Mistake>), Vec<Mistake>> {
    let mut root = node::parse_yaml(text)?;
    let mut left_out = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let mistakes = match decode(&root) {
            Ok(house) => return Ok((house, left_out)),
            Err(mistakes) => mistakes,
        };
        let (gone, stay): (Vec<_>, Vec<_>) = mistakes.into_iter().partition(|m| {
            let at = (m.line, m.column);
            root.remove_at(at, &mut Vec::new(), &may_leave_out) == Removal::Done
        });
        if gone.is_empty() {
            return Err(stay);
        }
        left_out.extend(gone);
    }
    Err(left_out)
}

/// Whether a house can do without the key at this path until somebody changes it: without an agent or service it would
/// be another house, and without a budget it would spend without a limit.
fn may_leave_out(path: &[String]) -> bool {
    let named = matches!(path, [section, _] if section == "agents" || section == "services");
    let section = matches!(path, [section] if MANIFEST.keys().any(|k| k.name == section));
    !named && !section && !path.iter().any(|key| key == "budget")
}

fn decode(root: &Node) -> Result<House, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    shape::check(&MANIFEST, root, "", &mut mistakes);
    let house = Decoder {
        root,
        mistakes: &mut mistakes,
    }
    .house();
    if mistakes.is_empty() {
        return house
            .ok_or_else(|| vec![root.place.mistake("the manifest has no name for the house")]);
    }
    mistakes.sort();
    mistakes.dedup();
    Err(mistakes)
}

impl Decoder<'_> {
    fn house(&mut self) -> Option<House> {
        let own = Layer {
            node: self.root,
            defaults: false,
        };
        let resources = ["agents", "services"];
        let keys = MANIFEST.keys().filter(|k| !resources.contains(&k.name));
        let (value, settings) = settings::resolve(keys, &[own], Given::new());
        let keys = ManifestKeys::from_value(&value)?;
        let listen = self.listen(keys.listen);
        let network = self.network(keys.network);
        let (services, disabled) = self.decode_services(&network.slots);
        let providers = self.providers(keys.providers, &services);
        let agents = self.decode_agents(&keys.budget, &providers);
        self.check_org_chart(&agents);
        self.check_colleagues(&agents);
        self.check_shares(&agents);
        self.check_consumers(&services, &agents);
        let workflows = self.decode_workflows(&agents);
        let hooks = self.decode_hooks(&agents, &workflows);
        let checkpoint_sinks = self.decode_sinks();
        let documents = self.decode_documents(&agents);
        let escalation = self.decode_escalation(&agents);
        let locale = self.root.get("defaults").and_then(|d| d.get("locale"));
        let display =
            text(locale, "display").and_then(|t| abbey_words::normalize_language_tag(t).ok());
        Some(House {
            display,
            escalation,
            name: keys.house?,
            listen,
            network,
            delegation: keys.delegation,
            admission: keys.admission,
            providers,
            budget: keys.budget,
            services,
            agents,
            checkpoint_sinks,
            compatibility: keys.compatibility,
            hooks,
            documents,
            workflows,
            disabled,
            settings,
        })
    }

    fn listen(&mut self, keys: ListenKeys) -> Listen {
        let node = self.root.get("listen");
        let address = keys.address;
        let tls = match (keys.tls_certificate, keys.tls_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                self.report_mistake(
                    node,
                    "`listen` needs both `tls_certificate` and `tls_key`, or neither",
                );
                None
            }
        };
        if tls.is_none() && !address.ip().is_loopback() {
            self.report_mistake(node, format!(
                "`listen.address`: {address} is reachable from other hosts, so TLS is required: \
                 set `tls_certificate` and `tls_key`, or listen on 127.0.0.1"
            ));
        }
        Listen { address, tls }
    }

    fn network(&mut self, keys: NetworkKeys) -> Network {
        let node = self.root.get("network");
        let (pool, pool_prefix) =
            shape::parse_network(&keys.pool).unwrap_or((Ipv4Addr::new(10, 77, 0, 0), 16));
        let prefix = keys.prefix;
        if prefix < pool_prefix {
            self.report_mistake(node, format!("`network.prefix`: a subnet of /{prefix} does not fit into the pool /{pool_prefix}"));
        }
        if !is_private((pool, pool_prefix)) {
            let text = format!(
                "`network.pool`: {pool}/{pool_prefix} is not inside 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10; with other addresses, this host could no longer reach hosts on the internet"
            );
            self.report_mistake(node, text);
        }
        let slots = self.slots(prefix, &keys.slots);
        Network {
            bridged: keys.layout == "bridge",
            pool,
            pool_prefix,
            prefix,
            ports: shape::parse_port_range(&keys.ports).unwrap_or((18800, 18999)),
            slots,
        }
    }

    /// Service addresses by name; those that do not fit are reported.
    fn slots(&mut self, prefix: u8, declared: &BTreeMap<Slug, u32>) -> BTreeMap<Slug, u32> {
        let written = self.root.get("network").and_then(|n| n.get("slots"));
        let Some(node) = written else {
            let fits = |(_, offset): &(&str, u32)| *offset < Subnet::cell_offset(prefix);
            let known = SLOTS.into_iter().filter(fits);
            return known
                .filter_map(|(name, offset)| Some((name.parse().ok()?, offset)))
                .collect();
        };
        let (last, cell) = (u32::MAX >> prefix, Subnet::cell_offset(prefix));
        let mut slots = BTreeMap::new();
        for Entry { key, place, .. } in node.entries() {
            let declared = key
                .parse()
                .ok()
                .and_then(|s: Slug| declared.get_key_value(&s));
            let Some((slug, &offset)) = declared else {
                continue;
            };
            let why = if offset >= last {
                format!("is outside a subnet of /{prefix}")
            } else if offset == cell {
                "is the address of the cell itself".to_owned()
            } else if let Some((other, _)) = slots.iter().find(|(_, o)| **o == offset) {
                format!("is already used by the slot `{other}`")
            } else {
                slots.insert(slug.clone(), offset);
                continue;
            };
            self.mistakes
                .push(place.mistake(format!("`network.slots.{slug}`: {offset} {why}")));
        }
        slots
    }

    fn providers(
        &mut self,
        written: BTreeMap<Slug, ProviderKeys>,
        services: &BTreeMap<Slug, Service>,
    ) -> BTreeMap<Slug, Provider> {
        let mut providers = BTreeMap::new();
        let entries = self.root.get("providers").map_or(&[][..], Node::entries);
        for Entry { key, place, value } in entries {
            let Some((name, keys)) = key
                .parse()
                .ok()
                .and_then(|s: Slug| written.get_key_value(&s))
            else {
                continue;
            };
            let endpoint = match (&keys.base_url, &keys.service) {
                (Some(url), None) => {
                    let key = format!("providers.{name}.base_url");
                    let instead = "give the credential as `credential: env:NAME`";
                    if let Err(why) = check_without_password(&key, url, instead) {
                        self.report_mistake(value.get("base_url"), why);
                    } else if !(url.starts_with("http://") || url.starts_with("https://")) {
                        self.report_mistake(
                            value.get("base_url"),
                            format!(
                                "`providers.{name}.base_url` must begin with http:// or https://"
                            ),
                        );
                    }
                    Endpoint::Url(url.trim_end_matches('/').to_owned())
                }
                (None, Some(service)) => {
                    if !services.contains_key(service) {
                        let known =
                            suggest_similar(service.as_str(), services.keys().map(Slug::as_str));
                        self.report_mistake(
                            value.get("service"),
                            format!("no service `{service}` is declared{known}"),
                        );
                    }
                    Endpoint::Service(service.clone())
                }
                _ => {
                    self.mistakes.push(place.mistake(format!(
                        "`providers.{name}` needs either `base_url` or `service`"
                    )));
                    continue;
                }
            };
            let (input, output) = (keys.input_nano_usd, keys.output_nano_usd);
            providers.insert(
                name.clone(),
                Provider {
                    endpoint,
                    key: keys.key.clone(),
                    price: input.map(NanoUsd).zip(output.map(NanoUsd)),
                    half_priced: input.is_some() != output.is_some(),
                    output_tokens_max: keys.output_tokens_max,
                },
            );
        }
        providers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUSE: &str = "version: 1\nhouse: old\ndefaults: { cell: sandbox }\nagents:\n  a: { cell: sandbox, profile: nested }\n  b:\n    cell: sandbox\n    profile: nested\n    gone: [1, 2]\nold_section: { x: 1 }\n";

    #[test]
    fn what_a_release_does_not_know_is_left_out_of_a_stored_manifest() {
        assert!(parse(HOUSE).is_err());
        let (house, left_out) = parse_stored(HOUSE).unwrap();
        let places: Vec<usize> = left_out.iter().map(|m| m.line).collect();
        assert_eq!(places, [5, 8, 9, 10], "{left_out:?}");
        let agents: Vec<&str> = house.agents.keys().map(Slug::as_str).collect();
        assert_eq!(agents, ["a", "b"]);
        let a = house.agents.values().next().unwrap();
        assert_eq!(a.profile, abbey_model::Profile::default());
        // A list goes whole: without the item that narrows it, it would grant more.
        let text = "version: 1\nhouse: old\nagents:\n  a: {}\n  b: { delegates_to: [all, -5] }\n";
        let (house, left_out) = parse_stored(text).unwrap();
        assert_eq!(left_out.len(), 1, "{left_out:?}");
        let b = house.agents.values().next_back().unwrap();
        assert_eq!(b.delegates, house.agents.values().next().unwrap().delegates);
        let (_, none) = parse_stored("version: 1\nhouse: new\nagents: { a: {} }\n").unwrap();
        assert!(none.is_empty());
    }

    #[test]
    fn agents_and_budgets_are_never_left_out_of_a_stored_manifest() {
        for text in [
            "house: h\nagents: { a: 5 }\n",
            "house: h\nagents: { a: { budget: { tokens_per_day: many } } }\n",
            "house: h\nbudget: none\nagents: { a: {} }\n",
            "agents: { a: {} }\n",
        ] {
            let text = format!("version: 1\n{text}");
            assert!(parse_stored(&text).is_err(), "{text}");
        }
    }
}
