//! Brings the networks of running cells, and the rules around them, back to what the allocations say, after another
//! program of the host changed something.

use super::wall::CellRules;
use super::{bridge, firewall, reconnect_cell, wall};
use crate::allocation::Allocations;
use crate::sys::process;
use crate::{CellRecord, Error, Result, record};
use abbey_launch::NetworkNamespace;
use std::fs;
use std::path::Path;

/// Name of the file in a cell's records that holds the rules that are loaded inside the cell.
const LOADED: &str = "rules.nft";

/// Records the rules that were loaded inside a cell, so that they are loaded again only when they change.
pub(crate) fn remember_cell_rules(run_dir: &Path, rules: &CellRules) {
    let _loaded_again_otherwise = fs::write(run_dir.join(LOADED), rules.to_string());
}

/// Compares bridge, interfaces and the rules inside every running cell with the allocations, and the firewall table with
/// the one that was applied last, and repairs what differs. Returns what was repaired. The caller holds the lock of the firewall.
///
/// # Errors
/// At the first thing that cannot be repaired.
pub(crate) fn repair_networks(
    dir: &Path,
    records: &Path,
    allocations: &Allocations,
) -> Result<Vec<String>> {
    let tag = allocations.house_tag();
    let mut repaired = Vec::new();
    bridge::update_bridge(tag, &allocations.bridged_subnets())
        .map_err(Error::file("set up", "the bridge"))?;
    if firewall::repair_firewall(dir, tag)? {
        repaired.push("the firewall table".to_owned());
    }
    for owner in allocations.owners.keys() {
        let run_dir = records.join(owner.to_string());
        let Some((network, pid)) = running_network(&run_dir)? else {
            continue;
        };
        let failed = |e| Error::file("connect", format!("the network of {owner}"))(e);
        if reconnect_cell(network, pid).map_err(failed)? {
            repaired.push(format!("the interface of {owner}"));
        }
    }
    refresh_cell_rules(records, allocations)?;
    Ok(repaired)
}

/// Loads the rules inside every running cell whose rules differ from those that its allocation has now.
///
/// # Errors
/// When the kernel refuses the rules of one.
pub(crate) fn refresh_cell_rules(records: &Path, allocations: &Allocations) -> Result<()> {
    let host = wall::host_addresses(allocations)?;
    for (owner, allocation) in &allocations.owners {
        let run_dir = records.join(owner.to_string());
        let Some(rules) = wall::cell_rules(allocation, &host) else {
            continue;
        };
        let Some((_, pid)) = running_network(&run_dir)? else {
            continue;
        };
        if fs::read_to_string(run_dir.join(LOADED)).is_ok_and(|loaded| loaded == rules.to_string())
        {
            continue;
        }
        let failed = |e| Error::file("load", format!("the rules inside {owner}"))(e);
        wall::load_cell_rules(NetworkNamespace::OfProcess(pid), &rules, false).map_err(failed)?;
        remember_cell_rules(&run_dir, &rules);
    }
    Ok(())
}

/// Network and first process of a cell that runs.
fn running_network(run_dir: &Path) -> Result<Option<(crate::CellNetwork, i32)>> {
    let record = record::read_json::<CellRecord>(&run_dir.join("shim.json"))?;
    Ok(record.and_then(|record| {
        let child = record.child.filter(process::is_alive)?;
        Some((record.network?, child.pid))
    }))
}
