//! What a plan would give to the host, as text: firewall rules of this host, and the files and commands of a FreeBSD host.

use crate::cells::provision::planned_allocation;
use crate::core::error::Result;
use abbey_agents::runtime;
use abbey_api::Problem;
use abbey_cells::hostd::Allocations;
use abbey_cells::jail::{JailBase, bhyve_arguments, render_jail};
use abbey_cells::network::freebsd::render_freebsd_network;
use abbey_cells::network::render_firewall;
use abbey_cells::{CellProgram, CellSpec};
use abbey_model::{CellKind, CellName, FaultKind};
use abbey_plan::{Agent, House, Registry};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

/// Outer interface that a rendering for FreeBSD names; the host's own may be another.
const EXTERNAL: &str = "em0";
/// Directory of the house that a rendering for FreeBSD names.
const FREEBSD_HOME: &str = "/var/db/abbey";
/// Base system that jails share in a rendering.
const JAIL_BASE: &str = "/usr/local/share/abbey/base";

/// Renders what the host would be given: `nft`, `pf`, `jail` or `bhyve`.
///
/// # Errors
/// `Invalid` for another kind.
pub(super) fn render_for_host(house: &House, registry: &Registry, kind: &str) -> Result<String> {
    let agents = house.agents.keys().cloned().map(CellName::Agent);
    let services = house.services.keys().cloned().map(CellName::Service);
    let owners: BTreeMap<_, _> = agents
        .chain(services)
        .map(|owner| (owner.clone(), planned_allocation(house, registry, &owner)))
        .collect();
    let allocations = Allocations {
        uid_first: 0,
        tag: None,
        version: 0,
        owners,
        prepared: std::collections::BTreeSet::new(),
        on_drives: std::collections::BTreeSet::new(),
    };
    match kind {
        "nft" => Ok(render_firewall(&allocations)),
        "pf" => Ok(pf(&allocations)),
        "jail" => Ok(jails(house, &allocations)),
        "bhyve" => Ok(microvms(house, &allocations)),
        other => Err(Problem::new(
            FaultKind::Invalid,
            format!("unknown rendering `{other}`; one of: nft, pf, jail, bhyve"),
        )
        .into()),
    }
}

fn pf(allocations: &Allocations) -> String {
    let rendered = render_freebsd_network(allocations.house_tag(), allocations, EXTERNAL, 0);
    let mut text = format!("# anchor \"{}\"\n{}", rendered.anchor, rendered.rules);
    text.push_str("\n# rc.conf\n");
    for (name, value) in &rendered.variables {
        let _to_a_string = writeln!(text, "# {name}=\"{value}\"");
    }
    text
}

fn jails(house: &House, allocations: &Allocations) -> String {
    let mut text = String::new();
    for (n, agent) in house.agents.values().enumerate() {
        let spec = outline(agent, allocations);
        let base = JailBase::Thin(JAIL_BASE.to_owned());
        let jail = render_jail(
            &spec,
            &agent.slug,
            FREEBSD_HOME,
            &format!("epair{n}b"),
            &base,
        );
        let _to_a_string = writeln!(text, "# {}: jail.conf\n{}", agent.slug, jail.conf);
        let _to_a_string = writeln!(text, "# {}: fstab\n{}", agent.slug, jail.fstab);
        for command in jail.start {
            let _to_a_string = writeln!(text, "# {}", command.join(" "));
        }
        text.push('\n');
    }
    text
}

fn microvms(house: &House, allocations: &Allocations) -> String {
    let mut text = String::new();
    for agent in house.agents.values() {
        let spec = outline(agent, allocations);
        let arguments = bhyve_arguments(&spec, &agent.slug, FREEBSD_HOME, Some(&agent.drives));
        let _to_a_string = writeln!(text, "# {}\n{}\n", agent.slug, arguments.join(" "));
    }
    text
}

/// What a rendering needs of a specification.
fn outline(agent: &Agent, allocations: &Allocations) -> CellSpec {
    let cell = CellName::Agent(agent.slug.clone());
    let allocation = allocations.owners.get(&cell);
    let runtime = runtime::runtime_spec(agent.runtime);
    CellSpec {
        kind: CellKind::Jail,
        digest: String::new(),
        program: CellProgram::Own,
        argv: runtime.driver.iter().map(|a| (*a).to_owned()).collect(),
        env: Vec::new(),
        cwd: PathBuf::from("/"),
        uid: allocation.and_then(|a| a.uid),
        limits: agent.limits,
        waived: agent.waived.clone(),
        sandbox: None,
        microvm: None,
        container: None,
        network: None,
        forwards: Vec::new(),
        terminal: false,
        ready_within: None,
        run_dir: PathBuf::new(),
        log_dir: PathBuf::new(),
        group: String::new(),
        secrets: Vec::new(),
        asks_root: false,
        cell,
    }
}
