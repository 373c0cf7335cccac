//! Where the files of an agent are, and which changes of that a plan refuses.

use crate::key::Shape;
use crate::keys::Agent;
use crate::settings::display;
use abbey_model::{Bytes, CellKind, Drives};
use serde_json::json;
use std::collections::BTreeMap;

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
const SAVE: &str = r#"sh -c 'cd .. && find home workspace -mindepth 1 -maxdepth 1 -user "$(id -u)" ! -name token -print0 | tar -cf - --null -T -'"#;
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

/// Why the drives of all agents do not fit on the file system of the house together; none if they do. `taken` has what the
/// images of an owner take there already, `free` what is left.
pub(crate) fn overcommitted<'a>(
    agents: impl IntoIterator<Item = &'a Agent>,
    taken: &BTreeMap<String, Bytes>,
    free: Option<Bytes>,
) -> Option<String> {
    let open = agents.into_iter().filter_map(|agent| {
        let (Storage::Mounted(drives) | Storage::Microvm(drives)) = Storage::of(agent) else {
            return None;
        };
        let taken = taken.get(&format!("agent:{}", agent.slug));
        let whole = drives.state.0.saturating_add(drives.workspace.0);
        Some(whole.saturating_sub(taken.map_or(0, |t| t.0)))
    });
    let open = Bytes(open.fold(0, u64::saturating_add));
    let free = free.filter(|free| *free < open)?;
    Some(format!(
        "their `drives` can take {} more, and the file system of the house has {} left; once it is full, what is written to a drive is lost: make `drives` smaller, or free some space",
        open.human(),
        free.human()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

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
    fn drives_that_promise_more_than_the_disk_has_are_named() {
        let text = "version: 1\nhouse: h\nagents: { a: { cell: sandbox, drives: { state: 64MiB, workspace: 96MiB } }, b: { cell: microvm, drives: { state: 16MiB, workspace: 24MiB } }, c: { cell: sandbox } }\n";
        let house = parse(text).unwrap();
        let mib = |n: u64| Bytes(n << 20);
        let told = |taken: &[(&str, u64)], free: u64| {
            let taken = taken.iter().map(|(o, n)| ((*o).to_owned(), mib(*n)));
            let taken = taken.collect::<BTreeMap<_, _>>();
            overcommitted(house.agents.values(), &taken, Some(mib(free)))
        };
        assert_eq!(told(&[], 200), None);
        let why = told(&[], 199).unwrap_or_default();
        assert!(
            why.contains("200.0 MiB more") && why.contains("199.0 MiB left"),
            "{why}"
        );
        // What the images have already is theirs; more than their size is no credit for others.
        assert_eq!(told(&[("agent:a", 100)], 100), None);
        assert!(told(&[("agent:a", 999)], 39).is_some());
        assert_eq!(
            overcommitted(house.agents.values(), &BTreeMap::new(), None),
            None
        );
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
