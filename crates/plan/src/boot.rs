//! What a cell is started with: values and allocations that only a restart can change, and their digest.

use crate::allocate::Registry;
use crate::house::House;
use crate::key::Effect;
use crate::keys::{Agent, Service};
use crate::reach;
use crate::settings::KeyChange;
use abbey_support::digest::sha256_hex;
use serde_json::{Map, Value};

/// Values that a cell is started with and that only a restart can change.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Boot {
    /// Values of keys and allocations, by name.
    pub(crate) values: Map<String, Value>,
    /// Names of those that are allocations.
    allocated: Vec<String>,
}

impl Boot {
    fn new(mut values: Map<String, Value>, allocated: Vec<(String, Value)>) -> Boot {
        let names = allocated.iter().map(|(name, _)| name.clone()).collect();
        values.extend(allocated);
        Boot {
            values,
            allocated: names,
        }
    }

    /// Allocations that differ from those of `old`, as changed keys of the plan.
    pub(crate) fn changes(&self, old: &Boot) -> Vec<KeyChange> {
        let gone = old.allocated.iter();
        let gone = gone.filter(|n| !self.allocated.contains(n));
        let text = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        let differs = |name: &String| {
            let (old, new) = (old.values.get(name), self.values.get(name));
            (old != new).then(|| KeyChange {
                key: name.clone(),
                old: old.map(text),
                new: new.map(text),
                effect: Effect::Restart,
                unset: "none",
            })
        };
        let all = self.allocated.iter().chain(gone);
        all.filter_map(differs).collect()
    }
}

/// Settings and allocations that an agent's cell is started with.
pub(crate) fn agent_boot(agent: &Agent, house: &House, registry: &Registry) -> Boot {
    let owner = format!("agent:{}", agent.slug);
    let subnet = reach::allocated_subnet(registry, &owner);
    let mut allocated = allocations(registry, &owner, &["door", "uid", "subnet"]);
    if subnet.is_some() {
        allocated.push(layout(house));
    }
    for reach in reach::reachable_services(house, registry, agent, subnet) {
        let own = reach
            .name_in_service
            .map_or_else(String::new, |own| format!(" as {own}"));
        let to = match reach.external {
            true => String::new(),
            false => format!(" for {}", reach.host_address),
        };
        let text = format!("{} at {}{to}{own}", reach.kind.name(), reach.address);
        allocated.push((format!("services.{}", reach.service), text.into()));
    }
    if agent.disks().is_some() {
        allocated.push(("allocated.file_systems".to_owned(), true.into()));
    }
    Boot::new(agent.settings.values(Some(agent.cell)), allocated)
}

/// Settings and allocations that a service's cell is started with.
pub(crate) fn service_boot(service: &Service, house: &House, registry: &Registry) -> Boot {
    let owner = format!("service:{}", service.slug);
    let mut allocated = allocations(registry, &owner, &["port", "uid", "subnet"]);
    if reach::allocated_subnet(registry, &owner).is_some() {
        allocated.push(layout(house));
    }
    Boot::new(service.settings.values(Some(service.cell)), allocated)
}

/// How people read the purpose of an allocation.
fn allocation_name(purpose: &str) -> &str {
    match purpose {
        "door" => "agent_api_port",
        other => other,
    }
}

fn allocations(registry: &Registry, owner: &str, purposes: &[&str]) -> Vec<(String, Value)> {
    let held = |purpose: &&str| {
        let row = registry.find_allocation(owner, purpose)?;
        Some((
            format!("allocated.{}", allocation_name(purpose)),
            row.port()
                .map_or(row.value.clone(), |p| p.to_string())
                .into(),
        ))
    };
    purposes.iter().filter_map(held).collect()
}

fn layout(house: &House) -> (String, Value) {
    let name = if house.network.bridged {
        "bridge"
    } else {
        "routed"
    };
    ("network.layout".to_owned(), name.into())
}

/// SHA-256, hexadecimal, of values in canonical JSON (RFC 8785).
pub(crate) fn digest(values: Map<String, Value>) -> String {
    let values = Value::Object(values);
    let text = serde_json_canonicalizer::to_string(&values);
    sha256_hex(text.unwrap_or_else(|_| values.to_string()))
}
