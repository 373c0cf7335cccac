//! Checks of a house against its host before a plan is carried out: notes with severity, subject and remedy.

use crate::agent_values::{AgentBudget, NOBODY, taken_by_keyword};
use crate::house::House;
use crate::keys::{Agent, Service};
use crate::plan::{Inventory, Note, Severity};
use crate::schedule::ScheduleTrigger;
use crate::service_kind::ServiceKind;
use crate::storage;
use crate::workflow_warnings::workflow_warnings;
use abbey_engine::timetable::{occurs_after, parse_cron};
use abbey_model::{
    Bytes, CellKind, Destination, Egress, Layer, Millis, RESERVED, Slug, Vmm, overlap,
};
use abbey_words::SystemLocale;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Least memory of a microVM: its kernel and first process use 40 MiB of it.
const MACHINE_MEMORY_MIN: Bytes = Bytes(128 << 20);
/// Least memory of any other cell: with less, what starts its program is killed.
const CELL_MEMORY_MIN: Bytes = Bytes(8 << 20);
/// Least bytes a second of a disk.
const IO_MIN: Bytes = Bytes(1 << 20);
/// First port at which an ordinary user listens: Linux, ip(7), `ip_unprivileged_port_start`.
const PORT_MIN: u16 = 1024;
/// Ports that Linux gives a bridge. Source: `BR_MAX_PORTS` of its net/bridge, which counts one that is none.
pub const BRIDGE_PORTS_MAX: usize = 1023;
/// Longest path of a Unix socket that every platform takes, in bytes.
const SOCKET_PATH_MAX: usize = 104;
/// Longest relative socket path under the house's directory.
const SOCKET_SUFFIX: usize = "/run/cells/".len() + 32 + "/control.sock".len();

/// Whether programs in a cell of this kind can have a locale.
fn has_locale(cell: CellKind, locale: &SystemLocale, inventory: &Inventory) -> bool {
    locale.is_plain()
        || (matches!(cell, CellKind::Process | CellKind::Sandbox)
            && inventory.host.locales.contains(&locale.file_name()))
}

/// Why no task of an agent ever starts, if a day has less time for its runs than one may take: that much is set aside before
/// it begins.
fn no_time_for_a_run(house: &House, agent: &Agent) -> Option<String> {
    let run = Millis(agent.tools.wall_ms_max);
    let days = [
        ("its `budget.minutes_per_day`", agent.budget().seconds),
        (
            "`budget.minutes_per_day` of the house",
            house.budget.limits().seconds,
        ),
    ];
    let needed = u64::try_from(run.secs_ceil()).unwrap_or(u64::MAX);
    let short = |day: &Option<u64>| day.is_some_and(|day| day < needed);
    let (which, _) = days.into_iter().find(|(_, day)| short(day))?;
    Some(format!(
        "no task of it ever starts: {which} is shorter than a run may take ({}, `tools.wall`)",
        run.human()
    ))
}

/// Checks whether a house can run on a host and finds likely mistakes in its configuration. Returns one note for each
/// finding.
pub fn check(house: &House, inventory: &Inventory) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut note = |severity, subject: &str, text: String| {
        notes.push(Note {
            severity,
            subject: subject.to_owned(),
            text,
        });
    };
    if let Some(current) = &inventory.current
        && current.house.name != house.name
    {
        let (is, named) = (&current.house.name, &house.name);
        note(
            Severity::Fatal,
            "house",
            format!(
                "this is house `{is}`, and the manifest is of house `{named}`; `--home` or ABBEY_HOME selects the home of `{named}`"
            ),
        );
    }
    if house.agents.is_empty() {
        note(
            Severity::Warning,
            "agents",
            "the house has no agent; add one under `agents`".to_owned(),
        );
    }
    if house.compatibility.controlplane_secret.is_some() {
        note(
            Severity::Warning,
            "compatibility",
            "every client with the shared secret may read and add tasks at `/api/controlplane`, and the audit log cannot tell them apart; give each client its own token, then remove `compatibility.controlplane_secret`".to_owned(),
        );
    }
    for agent in house.agents.values() {
        let subject = format!("agent:{}", agent.slug);
        let current = inventory.current.as_ref();
        let is_new = current.is_none_or(|c| !c.house.agents.contains_key(&agent.slug));
        if is_new && let Some(text) = taken_by_keyword(&agent.slug) {
            let severity = match agent.slug.as_str() {
                NOBODY => Severity::Warning,
                _ => Severity::Fatal,
            };
            note(severity, &subject, text);
        }
        if !agent.cell.isolates() {
            let user = if inventory.host.uid_first.is_some() {
                "a user of its own, but"
            } else {
                "the user of the house and"
            };
            note(
                Severity::Info,
                &subject,
                format!("not isolated: a process cell has {user} no isolation layers"),
            );
        }
        if let Some(reason) = &inventory.host.no_limits
            && !agent.waived.contains(&Layer::Limits)
        {
            note(
                Severity::Fatal,
                &subject,
                limits_unenforced(reason, &format!("agents.{}", agent.slug)),
            );
        }
        if let Some(text) =
            missing_landlock(agent.cell, &agent.waived, "agents", &agent.slug, inventory)
        {
            note(Severity::Fatal, &subject, text);
        }
        let old = current.and_then(|c| c.house.agents.get(&agent.slug));
        // Files that did not get onto drives are where they were, whatever the plan in force says.
        let off_drives = inventory.host.files_off_drives.get(&subject);
        let on_drives = old.filter(|_| off_drives.is_none());
        let change = on_drives.and_then(|old| storage::refuse_change(old, agent));
        let size = off_drives.and_then(|sizes| storage::refuse_size(agent, *sizes));
        let space = off_drives
            .and_then(|sizes| storage::refuse_move(agent, *sizes, inventory.host.free_space));
        for why in change.into_iter().chain(size).chain(space) {
            note(Severity::Fatal, &subject, why);
        }
        for (name, schedule) in &agent.schedules {
            if let ScheduleTrigger::Cron(text) = &schedule.trigger
                && parse_cron(text).is_ok_and(|pattern| !occurs_after(&pattern, inventory.now))
            {
                note(
                    Severity::Warning,
                    &subject,
                    format!("its schedule `{name}` never starts: no day fits `{text}`"),
                );
            }
        }
        if let (Some(_), Some(reason)) = (agent.disks(), &inventory.host.no_disks) {
            note(
                Severity::Fatal,
                &subject,
                format!(
                    "its `drives` cannot be made: {reason}; take them out, and its files share the disk of the house"
                ),
            );
        }
        if let Some(locale) = &agent.locale.system
            && !has_locale(agent.cell, locale, inventory)
        {
            let where_ = match agent.cell {
                CellKind::Microvm | CellKind::Container => {
                    format!("the image `{}` is not known to have", agent.image)
                }
                _ => "this host does not have".to_owned(),
            };
            note(
                Severity::Warning,
                &subject,
                format!("{where_} the locale {locale}; its programs get C.UTF-8"),
            );
        }
        let lacking = match agent.cell {
            // Its monitor runs in a sandbox.
            CellKind::Microvm => [
                missing_for_microvm(agent, inventory),
                missing_for_sandbox(inventory),
            ]
            .concat(),
            CellKind::Container => missing_for_container(agent, inventory),
            CellKind::Jail => vec![
                "its jail cannot run: jails need FreeBSD, and this host is none; use `cell: sandbox`"
                    .to_owned(),
            ],
            CellKind::Sandbox => missing_for_sandbox(inventory),
            CellKind::Process => Vec::new(),
        };
        for text in lacking.into_iter().chain(unreachable_network(agent)) {
            note(Severity::Fatal, &subject, text);
        }
        if agent.tools.tools.contains(&abbey_model::Tool::Shell) && !agent.cell.isolates() {
            note(
                Severity::Warning,
                &subject,
                "may run any program in a cell that is not isolated".to_owned(),
            );
        }
        if agent.model.is_some()
            && agent.budget() == AgentBudget::default()
            && house.budget.limits() == AgentBudget::default()
        {
            note(
                Severity::Warning,
                &subject,
                "has a model and no budget on any level".to_owned(),
            );
        }
        if let Some(text) = no_time_for_a_run(house, agent) {
            note(Severity::Warning, &subject, text);
        }
    }
    if let Some(found) = storage::find_overcommitment(house, inventory) {
        let severity = match found.is_new {
            true => Severity::Fatal,
            false => Severity::Warning,
        };
        note(severity, "agents", found.text);
    }
    for (subject, provider) in unpriced_money(house) {
        let key = match subject.as_str() {
            "house" => "budget.usd_per_day".to_owned(),
            agent => format!("budget.usd_per_day of {}", agent.replacen(':', " ", 1)),
        };
        let text = format!(
            "`{key}` can't hold for calls to provider `{provider}`, which have no price; set its `input_usd_per_mtok` and `output_usd_per_mtok` (0 if they cost nothing)"
        );
        note(Severity::Fatal, &subject, text);
    }
    for (name, _) in house.providers.iter().filter(|(_, p)| p.half_priced) {
        note(
            Severity::Warning,
            &format!("provider:{name}"),
            "only one of `input_usd_per_mtok` and `output_usd_per_mtok` is set, so its calls have no price and count against no budget in dollars; set both (0 is a price)".to_owned(),
        );
    }
    for service in house.services.values() {
        if !service.serves_port() && service.at.is_none() && service.probe().is_some() {
            note(
                Severity::Warning,
                &format!("service:{}", service.slug),
                "it names no port (`port`, `slot`, `probe` or `{port}` in `command`): it is ready once it accepts connections at `$PORT`; write `probe: none` if it serves no port".to_owned(),
            );
        }
        let old = inventory
            .current
            .as_ref()
            .and_then(|c| c.house.services.get(&service.slug));
        let (slug, is) = (&service.slug, service.kind);
        let subject = format!("service:{slug}");
        let had_data = |old: &&Service| old.kind.has_consumers() && old.at.is_none();
        // A program of the manifest's writes in its directory what it likes, and may not hold up a plan by that.
        let is_stock = |old: &Service| old.kind.has_consumers();
        let notes_kind = service.at.is_none() && old.is_none_or(is_stock);
        let noted = inventory.host.kinds_of_data.get(&subject);
        let noted = noted.and_then(|kind| kind.parse::<ServiceKind>().ok());
        // Data of a release that did not note its kind is of that of the plan in force.
        let of_data = noted
            .filter(|kind| notes_kind && kind.has_consumers())
            .or_else(|| old.filter(had_data).map(|old| old.kind));
        if let Some(was) = of_data.filter(|was| *was != is) {
            let (was, is) = (was.name(), is.name());
            let text = format!(
                "its kind cannot be `{is}`: `services/{slug}` in the state directory has what agents keep in a service of kind `{was}`, which would go to others; `kind: {was}` serves it to them again, and another name for the new service leaves it where it is; to give it up, remove `{slug}` from the manifest, move that directory to another place, and add the service anew"
            );
            note(Severity::Fatal, &subject, text);
        }
        // Its programs look up the name of their user, and only an isolated cell has one.
        if service.kind == ServiceKind::Postgres
            && service.cell == CellKind::Process
            && inventory.host.uid_first.is_some()
        {
            let text = "PostgreSQL needs a user that has a name, and the user of a process cell has none; use `cell: sandbox`";
            let subject = format!("service:{}", service.slug);
            note(Severity::Fatal, &subject, text.to_owned());
        }
    }
    for service in house.services.values() {
        let own = |port: &u16| *port < PORT_MIN && service.at.is_none();
        // Podman lets programs of a container listen anywhere in its network.
        if service.cell != CellKind::Container
            && let Some(port) = service.port.filter(own)
        {
            let text = format!(
                "`port` {port} is below {PORT_MIN}, where programs of a cell can't listen; give it a higher one, and `expose: {port}` offers it at port {port} of the host"
            );
            note(Severity::Fatal, &format!("service:{}", service.slug), text);
        }
        let used = |agent: &Agent| {
            let at_slot = service.shared && service.slot.is_some() && agent.cell.isolates();
            at_slot || agent.uses.contains(&service.slug)
        };
        let provider = house.provider_of(&service.slug);
        let asked = service.slot.is_some()
            || house
                .agents
                .values()
                .any(|a| a.uses.contains(&service.slug));
        if let Some(provider) = provider {
            let subject = format!("service:{}", service.slug);
            if service.unmetered {
                let text = format!(
                    "agents may call the model provider `{provider}` directly (`unmetered`): such calls count against no budget"
                );
                note(Severity::Warning, &subject, text);
            } else if asked {
                let text = format!(
                    "it answers the calls of the model provider `{provider}`, so agents reach it through the gateway alone, in spite of its `slot` or their `uses`; `unmetered: true` lets them call it directly, past all budgets"
                );
                note(Severity::Warning, &subject, text);
            }
        }
        let is_provider = provider.is_some();
        if !service.settings.is_set("shared") || !service.shared || is_provider {
            continue;
        }
        if !house.agents.values().any(used) {
            note(
                Severity::Warning,
                &format!("service:{}", service.slug),
                "it is `shared`, and no agent reaches it: without a `slot` no agent knows where it is; give it a `slot`, or name it in the `uses` of agents".to_owned(),
            );
        }
    }
    let behind_walls = house
        .agents
        .values()
        .filter(|a| a.cell == CellKind::Sandbox);
    let services = house
        .services
        .values()
        .filter(|s| s.cell == CellKind::Sandbox);
    let ports = behind_walls.count() + services.count();
    if house.network.bridged && ports > BRIDGE_PORTS_MAX {
        let text = format!(
            "{ports} cells do not fit on one bridge, which has {BRIDGE_PORTS_MAX} ports; use `layout: routed`"
        );
        note(Severity::Fatal, "network", text);
    }
    for (severity, subject, text) in memory(house, inventory) {
        note(severity, &subject, text);
    }
    let bounded = house
        .agents
        .values()
        .map(|a| (format!("agent:{}", a.slug), a.limits.io));
    let services = house.services.values();
    let bounded = bounded.chain(services.map(|s| (format!("service:{}", s.slug), s.limits.io)));
    for (subject, _) in bounded.filter(|(_, io)| io.is_some_and(|io| io < IO_MIN)) {
        let text = "`limits.io` is at least 1MiB; less would stop it".to_owned();
        note(Severity::Fatal, &subject, text);
    }
    for service in house.services.values() {
        if let Some(reason) = &inventory.host.no_limits
            && !service.waived.contains(&Layer::Limits)
        {
            note(
                Severity::Fatal,
                &format!("service:{}", service.slug),
                limits_unenforced(reason, &format!("services.{}", service.slug)),
            );
        }
        let subject = format!("service:{}", service.slug);
        if service.at.is_none()
            && let Some(text) = missing_landlock(
                service.cell,
                &service.waived,
                "services",
                &service.slug,
                inventory,
            )
        {
            note(Severity::Fatal, &subject, text);
        }
        if service.cell == CellKind::Sandbox && service.at.is_none() {
            for text in missing_for_sandbox(inventory) {
                note(Severity::Fatal, &format!("service:{}", service.slug), text);
            }
        }
    }
    for service in house
        .services
        .values()
        .filter(|s| s.cell.isolates() && s.at.is_none())
    {
        if let Some(reason) = &inventory.host.no_network {
            note(
                Severity::Fatal,
                &format!("service:{}", service.slug),
                format!(
                    "agents could not reach it in an isolated cell: {reason}; fix that, or accept `cell: process`"
                ),
            );
        }
    }
    let unenforced = house
        .agents
        .values()
        .map(|a| (format!("agent:{}", a.slug), a.cell, &a.egress));
    let services = house.services.values();
    let unenforced = unenforced
        .chain(services.map(|s| (format!("service:{}", s.slug), s.cell, &s.egress)))
        .filter(|(_, cell, egress)| !cell.isolates() && matches!(egress, Egress::List(_)));
    for (subject, ..) in unenforced {
        note(
            Severity::Fatal,
            &subject,
            "its `egress` cannot be enforced: a process cell shares the host's network; use `cell: sandbox`, or accept it with `egress: full`".to_owned(),
        );
    }
    note_reserved_destinations(house, &mut note);
    for (name, workflow) in &house.workflows {
        for text in workflow_warnings(workflow) {
            note(Severity::Warning, &format!("workflow:{name}"), text);
        }
    }
    for text in overlapping_networks(house, inventory) {
        note(Severity::Warning, "network", text);
    }
    notes
}

/// Networks of the host that overlap the pool of the house, in one sentence for each other house and one for all routes: every
/// cell of another house has a network.
fn overlapping_networks(house: &House, inventory: &Inventory) -> Vec<String> {
    let pool = (house.network.pool, house.network.pool_prefix);
    let all = inventory.host.subnets.iter();
    let all: Vec<_> = all
        .filter(|(address, prefix, _)| *prefix > 0 && overlap((*address, *prefix), pool))
        .collect();
    let is_route = |seen: &str| seen.starts_with(ROUTE);
    // The host routes the network of each cell of another house that has started.
    let is_of_house = |address: &Ipv4Addr, prefix: u8| {
        let mut houses = all.iter().filter(|(.., seen)| !is_route(seen));
        houses.any(|(base, p, _)| overlap((*base, *p), (*address, prefix)))
    };
    let mut groups: BTreeMap<&str, Vec<(Ipv4Addr, u8, &str)>> = BTreeMap::new();
    for (address, prefix, seen) in &all {
        let group = match is_route(seen) {
            true if is_of_house(address, *prefix) => continue,
            true => ROUTE,
            false => seen.as_str(),
        };
        let group = groups.entry(group).or_default();
        group.push((*address, *prefix, seen));
    }
    let texts = groups.into_iter().filter_map(|(group, networks)| {
        let (address, prefix, seen) = networks.first()?;
        let (pool, bits) = pool;
        let left_out = "those subnets are left out";
        Some(match (networks.len(), group) {
            (1, _) => format!(
                "the pool {pool}/{bits} overlaps {address}/{prefix} of this host ({seen}); {left_out}"
            ),
            (count, ROUTE) => format!(
                "the pool {pool}/{bits} overlaps {count} networks of this host, the first {address}/{prefix} ({seen}); {left_out}"
            ),
            (count, seen) => format!(
                "the pool {pool}/{bits} overlaps {count} networks of another house on this host ({seen}), the first {address}/{prefix}; {left_out}"
            ),
        })
    });
    texts.collect()
}

/// What begins the text on where a network was seen that is a route of the host, and no subnet of another house.
const ROUTE: &str = "route by ";

/// Cells that are too large for this host, and whether all of them fit at once.
fn memory(house: &House, inventory: &Inventory) -> Vec<(Severity, String, String)> {
    let Some(all) = inventory.host.memory else {
        return Vec::new();
    };
    let most = Bytes(all.0.saturating_sub(house.admission.memory_reserve.0));
    let agents = house.agents.values();
    let cells = agents.map(|a| (format!("agent:{}", a.slug), a.limits.memory, a.cell));
    let services = house.services.values();
    let cells =
        cells.chain(services.map(|s| (format!("service:{}", s.slug), s.limits.memory, s.cell)));
    let mut notes = Vec::new();
    let mut sum = Bytes(0);
    for (subject, limit, cell) in cells {
        sum.0 = sum.0.saturating_add(limit.0);
        if limit < CELL_MEMORY_MIN {
            let text = format!(
                "`limits.memory` is {}, and a cell needs 8 MiB to start; raise it",
                limit.human()
            );
            notes.push((Severity::Fatal, subject, text));
            continue;
        }
        if limit <= most {
            continue;
        }
        let severity = match cell {
            CellKind::Microvm => Severity::Fatal,
            _ => Severity::Warning,
        };
        let text = format!(
            "`limits.memory` is {}, and this host has {}, of which {} are reserved for the host; lower it",
            limit.human(),
            all.human(),
            house.admission.memory_reserve.human()
        );
        notes.push((severity, subject, text));
    }
    if sum > most {
        let text = format!(
            "all cells together may use {}, but this host has {}; one whose program used more before than is free waits until it is free",
            sum.human(),
            all.human()
        );
        notes.push((Severity::Warning, "agents".to_owned(), text));
    }
    notes
}

/// Reasons why an agent's microVM cannot run on this host.
fn missing_for_microvm(agent: &Agent, inventory: &Inventory) -> Vec<String> {
    let mut texts = Vec::new();
    let (lacking, instead) = match agent.vmm {
        Vmm::Qemu => (&inventory.host.no_machines, "`cell: sandbox`"),
        Vmm::Firecracker => (&inventory.host.no_firecracker, "`vmm: qemu`"),
    };
    if let Some(reason) = lacking {
        texts.push(format!(
            "its microVM cannot run: {reason}; fix that, or use {instead}"
        ));
    } else if !inventory.host.images.contains(&agent.image) {
        texts.push(format!(
            "its image `{0}` does not exist; build it with `abbey image build {0}`",
            agent.image
        ));
    }
    if agent.limits.memory < MACHINE_MEMORY_MIN {
        texts.push("a microVM has at least 128 MiB; raise `limits.memory`".to_owned());
    }
    texts
}

/// Reasons why a sandbox cannot be built on this host.
fn missing_for_sandbox(inventory: &Inventory) -> Vec<String> {
    let reason = inventory.host.no_sandboxes.iter();
    reason
        .map(|r| format!("its sandbox cannot be built: {r}; allow them, or accept `cell: process`, which isolates nothing"))
        .collect()
}

/// Text for a cell whose sandbox, or that of its microVM, would be without Landlock and whose manifest does not accept
/// that. `of` is the section of the manifest.
fn missing_landlock(
    cell: CellKind,
    waived: &BTreeSet<Layer>,
    of: &str,
    slug: &Slug,
    inventory: &Inventory,
) -> Option<String> {
    let sandboxed = matches!(cell, CellKind::Sandbox | CellKind::Microvm);
    let reason = inventory.host.no_landlock.as_ref()?;
    (sandboxed && !waived.contains(&Layer::Landlock)).then(|| {
        format!(
            "its sandbox would be without the layer `landlock`: {reason}; change that, or accept it with `{of}.{slug}.waive: [landlock]` (`defaults.waive: [landlock]` for everything)"
        )
    })
}

/// Reasons why an agent's container cannot run on this host.
fn missing_for_container(agent: &Agent, inventory: &Inventory) -> Vec<String> {
    let (host, image) = (&inventory.host, &agent.image);
    if let Some(reason) = &host.no_containers {
        return vec![format!(
            "its container cannot run: {reason}; install it, or use `cell: sandbox`"
        )];
    }
    let missing = host.missing_container_images.contains(image);
    let text = missing.then(|| {
        format!(
            "Podman has no image `localhost/{image}` to make its container from; build or tag one (`podman tag IMAGE localhost/{image}`), or name another as `image`"
        )
    });
    text.into_iter().collect()
}

/// Warns of rules of `egress` that name addresses of hosts, private networks or metadata services, which nothing else lets a
/// cell reach.
fn note_reserved_destinations(house: &House, note: &mut impl FnMut(Severity, &str, String)) {
    let agents = house.agents.values();
    let agents = agents.map(|a| (format!("agent:{}", a.slug), &a.egress));
    let services = house.services.values();
    let services = services.map(|s| (format!("service:{}", s.slug), &s.egress));
    for (subject, egress) in agents.chain(services) {
        let Egress::List(rules) = egress else {
            continue;
        };
        let reserved = rules.iter().filter(|rule| match rule.destination {
            Destination::Net(base, prefix) => {
                RESERVED.iter().any(|net| overlap(*net, (base, prefix)))
            }
            Destination::Name(_) | Destination::Below(_) => false,
        });
        for rule in reserved {
            note(
                Severity::Warning,
                &subject,
                format!(
                    "`egress` allows `{rule}`, which is of this host, a private network or a metadata service; keep it only if the cell is meant to reach it"
                ),
            );
        }
    }
}

/// A rule of `egress` that a cell without a network interface cannot use.
fn unreachable_network(agent: &Agent) -> Option<String> {
    if !matches!(agent.cell, CellKind::Microvm | CellKind::Container) {
        return None;
    }
    let raw = match &agent.egress {
        Egress::List(list) => list
            .iter()
            .find(|a| matches!(a.destination, Destination::Net(..))),
        Egress::None | Egress::Full => None,
    };
    raw.map(|raw| {
        format!(
            "`{raw}` cannot be reached from a {}, which has no network interface and reaches other hosts only by name through the proxy; write the name of the host, or use `cell: sandbox`",
            agent.cell
        )
    })
}

/// Whether the paths of Unix sockets below this state directory stay within the length that the system allows.
pub fn socket_paths_fit(path: &str) -> bool {
    path.len() + SOCKET_SUFFIX <= SOCKET_PATH_MAX
}

fn limits_unenforced(reason: &str, path: &str) -> String {
    format!(
        "its limits cannot be enforced: {reason}; run as root, delegate a cgroup, or accept it with `{path}.waive: [limits]` (`defaults.waive: [limits]` for everything)"
    )
}

/// Budgets in dollars, and providers without prices whose calls they would have to hold.
fn unpriced_money(house: &House) -> Vec<(String, &Slug)> {
    let unpriced = |agent: &Agent| {
        let model = agent.model.as_ref()?;
        let (name, provider) = house.providers.get_key_value(&model.provider)?;
        provider.price.is_none().then_some(name)
    };
    let mut found = BTreeSet::new();
    for agent in house.agents.values() {
        let Some(provider) = unpriced(agent) else {
            continue;
        };
        if house.budget.limits().nano_usd.is_some() {
            found.insert(("house".to_owned(), provider));
        }
        if agent.budget().nano_usd.is_some() {
            found.insert((format!("agent:{}", agent.slug), provider));
        }
    }
    found.into_iter().collect()
}
