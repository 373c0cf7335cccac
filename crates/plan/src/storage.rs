//! Where the files of an agent are, and which changes of that a plan refuses.

use crate::house::House;
use crate::key::Shape;
use crate::keys::Agent;
use crate::plan::Inventory;
use crate::settings::display;
use abbey_model::{Bytes, CellKind, Drives};
use serde_json::json;

/// Where the files of an agent are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    /// In a directory of the house's disk.
    Directory,
    /// On images that its sandbox mounts.
    Mounted(Drives),
    /// On drives of its microVM.
    Microvm(Drives),
}

impl Storage {
    fn of(agent: &Agent) -> Storage {
        match agent.disks() {
            Some(drives) => Storage::Mounted(drives),
            None if agent.cell == CellKind::Microvm => Storage::Microvm(agent.drives),
            None => Storage::Directory,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Storage::Directory => "in a directory",
            Storage::Mounted(_) => "on the file systems of its sandbox",
            Storage::Microvm(_) => "on the drives of its microVM",
        }
    }
}

/// Command in a cell that writes an archive of what its agent owns in home and workspace. What Abbey writes there itself is
/// left out: the new cell has its own.
const SAVE: &str = r#"sh -c 'cd .. && find home workspace -mindepth 1 -maxdepth 1 -user "$(id -u)" ! -name token ! -path home/services -print0 | tar -cf - --null -T -'"#;
/// Command in a cell that reads such an archive.
const RESTORE: &str = "sh -c 'cd .. && tar -xf -'";

/// Reason why an agent cannot become what a new manifest says without losing its files; none if it can. Files in a
/// directory move onto drives by themselves, and drives grow.
pub(crate) fn refuse_change(old: &Agent, new: &Agent) -> Option<String> {
    let (had, wants) = (Storage::of(old), Storage::of(new));
    let (before, after) = match (had, wants) {
        (Storage::Directory, _) => return None,
        (Storage::Mounted(a), Storage::Mounted(b)) | (Storage::Microvm(a), Storage::Microvm(b)) => {
            (a, b)
        }
        _ => {
            let name = &new.slug;
            return Some(format!(
                "its files are {} and would not be in its new cell; keep `cell` and `drives`, or take the files of home and workspace along: `abbey exec {name} -- {SAVE} > {name}.tar`, remove the agent, add it again, and `abbey exec {name} -- {RESTORE} < {name}.tar`",
                had.name()
            ));
        }
    };
    let text = |bytes: Bytes| display(&Shape::Bytes, &json!(bytes.0));
    let shrinks = |key: &str, old: Bytes, new: Bytes| {
        let (before, after) = (text(old), text(new));
        (new < old).then(|| {
            format!("its `drives.{key}` cannot shrink from {before} to {after}; a drive only grows")
        })
    };
    all_of([
        shrinks("state", before.state, after.state),
        shrinks("workspace", before.workspace, after.workspace),
    ])
}

/// What is said of each drive, as one text.
fn all_of(refusals: [Option<String>; 2]) -> Option<String> {
    let refusals: Vec<String> = refusals.into_iter().flatten().collect();
    (!refusals.is_empty()).then(|| refusals.join("; "))
}

/// Reason why the files of an agent, of these sizes in its home and workspace, do not fit onto the drives that they are to
/// move to; none if they do, or if they stay in directories.
pub(crate) fn refuse_size(agent: &Agent, (home, workspace): (Bytes, Bytes)) -> Option<String> {
    let (Storage::Mounted(drives) | Storage::Microvm(drives)) = Storage::of(agent) else {
        return None;
    };
    let short = |key: &str, place: &str, drive: Bytes, files: Bytes| {
        // What a file system keeps for itself is an eighth where it is small, and less where it is large.
        let needed = (files.0.saturating_mul(8) / 7).div_ceil(1 << 20) << 20;
        (files.0 > drive.0 / 8 * 7).then(|| {
            format!(
                "its files do not fit onto its drive: its {place} has {}, and `drives.{key}` is {}, of which the file system itself may take an eighth; set `drives.{key}` to {} or more, or remove files",
                files.human(),
                display(&Shape::Bytes, &json!(drive.0)),
                display(&Shape::Bytes, &json!(needed))
            )
        })
    };
    all_of([
        short("state", "home", drives.state, home),
        short("workspace", "workspace", drives.workspace, workspace),
    ])
}

/// Space that is needed beside files of this size while they move onto a drive: they are copied before they go, and a file system
/// needs some for itself.
pub fn space_to_move(files: Bytes) -> Bytes {
    Bytes(files.0.saturating_add(files.0 / 8).saturating_add(4 << 20))
}

/// Reason why files of these sizes can't move onto drives on a file system that has `free` left; none if they can, or don't move.
pub(crate) fn refuse_move(
    agent: &Agent,
    (home, workspace): (Bytes, Bytes),
    free: Option<Bytes>,
) -> Option<String> {
    let (Storage::Mounted(_) | Storage::Microvm(_)) = Storage::of(agent) else {
        return None;
    };
    let needed = space_to_move(Bytes(home.0.saturating_add(workspace.0)));
    let free = free.filter(|free| free.0 < needed.0)?;
    Some(format!(
        "its files cannot move onto its drives: they are copied before they go, which takes {}, and the file system of the house has {} left; free some space",
        needed.human(),
        free.human()
    ))
}

/// What the drives of all agents promise, beyond what the file system of the house has left.
#[derive(Debug)]
pub(crate) struct Overcommitment {
    /// Whether this plan adds to it: it can still ask for less.
    pub(crate) is_new: bool,
    /// The numbers and what to do, for people.
    pub(crate) text: String,
}

/// Finds whether the drives of all agents can take more than the file system of the house has left: what is written to a drive
/// is lost once that is full. None where it is unknown.
pub(crate) fn find_overcommitment(house: &House, inventory: &Inventory) -> Option<Overcommitment> {
    let host = &inventory.host;
    let old = inventory.current.as_ref().map(|c| &c.house.agents);
    let mut open = Bytes(0);
    let mut is_new = false;
    for agent in house.agents.values() {
        let promised = promised(agent);
        let owner = format!("agent:{}", agent.slug);
        let images = host.space_of_drives.get(&owner);
        let taken = images.map_or(0, |taken| taken.0);
        // Files that move onto drives leave where they were.
        let files = host.files_off_drives.get(&owner);
        let freed = files.map_or(0, |(home, workspace)| home.0.saturating_add(workspace.0));
        let more = promised.saturating_sub(taken).saturating_sub(freed);
        open = Bytes(open.0.saturating_add(more));
        // One that was disabled, and is enabled again, has the images that it had.
        let before = match old.and_then(|old| old.get(&agent.slug)) {
            Some(before) => self::promised(before),
            None => images.map_or(0, |_| promised),
        };
        is_new |= promised > before;
    }
    let free = host.free_space.filter(|free| *free < open)?;
    let remedy = match is_new {
        true => "give new drives less, or free some space",
        false => "free some space, or move the house to a larger file system",
    };
    let text = format!(
        "their `drives` can take {} more, and the file system of the house has {} left; once it is full, what is written to a drive is lost: {remedy}",
        open.human(),
        free.human()
    );
    Some(Overcommitment { is_new, text })
}

/// Space that the images of an agent's drives may take, bytes.
fn promised(agent: &Agent) -> u64 {
    match Storage::of(agent) {
        Storage::Mounted(drives) | Storage::Microvm(drives) => {
            drives.state.0.saturating_add(drives.workspace.0)
        }
        Storage::Directory => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use crate::plan::CurrentHouse;
    use std::collections::BTreeMap;

    fn refusal(old: &str, new: &str) -> Option<String> {
        let agent = |keys: &str| {
            let text = format!("version: 1\nhouse: h\nagents: {{ a: {{ {keys} }} }}\n");
            let house = parse(&text).unwrap();
            house.agents.into_values().next().unwrap()
        };
        refuse_change(&agent(old), &agent(new))
    }

    #[test]
    fn files_move_onto_drives_and_never_off_them() {
        let (plain, process) = ("cell: sandbox", "cell: process");
        let mounted = "cell: sandbox, drives: { state: 64MiB, workspace: 96MiB }";
        let machine = "cell: microvm, drives: { state: 64MiB, workspace: 96MiB }";
        for from in [plain, process] {
            for to in [plain, process, mounted, machine] {
                assert_eq!(refusal(from, to), None, "{from} to {to}");
            }
        }
        for (from, to) in [
            (mounted, plain),
            (mounted, process),
            (mounted, machine),
            (machine, mounted),
            (machine, process),
        ] {
            let why = refusal(from, to).unwrap_or_default();
            assert!(why.contains("its files are on"), "{from} to {to}: {why}");
        }
    }

    #[test]
    fn files_that_do_not_fit_onto_a_drive_are_refused_with_numbers() {
        let agent = |keys: &str| {
            let text = format!("version: 1\nhouse: h\nagents: {{ a: {{ {keys} }} }}\n");
            parse(&text).unwrap().agents.into_values().next().unwrap()
        };
        let mib = |n: u64| Bytes(n << 20);
        let mounted = agent("cell: sandbox, drives: { state: 64MiB, workspace: 96MiB }");
        assert_eq!(refuse_size(&mounted, (mib(50), mib(80))), None);
        let why = refuse_size(&mounted, (mib(1), mib(140))).unwrap_or_default();
        for part in ["140", "`drives.workspace` is 96MiB", "to 160MiB or more"] {
            assert!(why.contains(part), "{part}: {why}");
        }
        assert_eq!(
            refuse_size(&agent("cell: sandbox"), (mib(999), mib(999))),
            None
        );
        assert_eq!(
            refuse_move(&mounted, (mib(10), mib(40)), Some(mib(70))),
            None
        );
        assert_eq!(refuse_move(&mounted, (mib(10), mib(40)), None), None);
        let why = refuse_move(&mounted, (mib(10), mib(40)), Some(mib(55))).unwrap_or_default();
        assert!(
            why.contains("55") && why.contains("free some space"),
            "{why}"
        );
        assert_eq!(
            refuse_move(&agent("cell: sandbox"), (mib(10), mib(40)), Some(mib(1))),
            None
        );
    }

    #[test]
    fn drives_that_promise_more_than_the_disk_has_are_refused_and_later_warned_of() {
        let house = |drives: &str| {
            let text = format!(
                "version: 1\nhouse: h\nagents: {{ a: {{ cell: sandbox, drives: {{ state: 64MiB, workspace: 96MiB }} }}, b: {{ cell: microvm, drives: {{ {drives} }} }}, c: {{ cell: sandbox }} }}\n"
            );
            parse(&text).unwrap()
        };
        let small = "state: 16MiB, workspace: 24MiB";
        let mib = |n: u64| Bytes(n << 20);
        let mut inventory = Inventory::default();
        let mut find = |taken: u64, files: u64, free: u64, drives: &str, before: Option<&str>| {
            let host = &mut inventory.host;
            host.space_of_drives = [("agent:a".to_owned(), mib(taken))].into();
            host.files_off_drives = [("agent:b".to_owned(), (mib(files), mib(0)))].into();
            host.free_space = Some(mib(free));
            inventory.current = before.map(|drives| CurrentHouse {
                house: house(drives),
                charters: BTreeMap::new(),
            });
            find_overcommitment(&house(drives), &inventory)
        };
        assert!(find(0, 0, 200, small, None).is_none());
        let found = find(0, 0, 199, small, None).unwrap();
        assert!(
            found.is_new
                && found.text.contains("200.0 MiB more")
                && found.text.contains("199.0 MiB left")
        );
        // What the images have already is theirs; more than their size is no credit for others. Files that move make space.
        assert!(find(100, 0, 100, small, None).is_none());
        assert!(find(999, 0, 39, small, None).is_some());
        assert!(find(999, 10, 30, small, None).is_none());
        // What was promised before is only said, what is added is refused.
        assert!(!find(0, 0, 10, small, Some(small)).unwrap().is_new);
        // An agent that is enabled again has its images still.
        let mut enabled = Inventory::default();
        enabled.host.free_space = Some(mib(10));
        let whole = house(small);
        enabled.current = Some(CurrentHouse {
            house: House {
                agents: BTreeMap::new(),
                ..whole.clone()
            },
            charters: BTreeMap::new(),
        });
        assert!(find_overcommitment(&whole, &enabled).unwrap().is_new);
        let images = ["a", "b"].map(|agent| (format!("agent:{agent}"), mib(1)));
        enabled.host.space_of_drives = images.into();
        assert!(!find_overcommitment(&whole, &enabled).unwrap().is_new);
        let grown = "state: 16MiB, workspace: 32MiB";
        assert!(find(0, 0, 10, grown, Some(small)).unwrap().is_new);
    }

    #[test]
    fn a_drive_only_grows() {
        let sized = |cell: &str, mib: u32| {
            format!("cell: {cell}, drives: {{ state: 64MiB, workspace: {mib}MiB }}")
        };
        for cell in ["sandbox", "microvm"] {
            assert_eq!(refusal(&sized(cell, 64), &sized(cell, 96)), None);
            assert_eq!(refusal(&sized(cell, 64), &sized(cell, 64)), None);
            assert_eq!(
                refusal(&sized(cell, 96), &sized(cell, 64)).as_deref(),
                Some(
                    "its `drives.workspace` cannot shrink from 96MiB to 64MiB; a drive only grows"
                )
            );
            let smaller = format!("cell: {cell}, drives: {{ state: 32MiB, workspace: 64MiB }}");
            let why = refusal(&sized(cell, 96), &smaller).unwrap_or_default();
            assert!(
                why.contains("drives.state") && why.contains("drives.workspace"),
                "{why}"
            );
        }
    }
}
