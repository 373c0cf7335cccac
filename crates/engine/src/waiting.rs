//! Runs that wait for tasks that they gave, and rings of them: agents each of which waits for a task that another one is to
//! do once it has waited to the end.
//!
//! A worker that waits takes no other task unless it asks for one meanwhile. So a subtask is begun when an agent that may
//! claim it is idle, asks for work, or will have ended a run. Where none of that can ever happen, a wait must be ended
//! from outside.

use abbey_model::Slug;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A run, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldTask {
    /// Agent that holds the lease.
    pub agent: Slug,
    /// Number of the subtask for which it waits; none while it works.
    pub waits_for: Option<u64>,
}

/// What is running in a house, as far as waits are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waits {
    /// Every running task by its number.
    pub held: BTreeMap<u64, HeldTask>,
    /// Agents that may claim a task that a run waits for, by its number, where nobody holds it. A task that is in
    /// neither map is moved on by something else, or has ended.
    pub offered: BTreeMap<u64, Vec<Slug>>,
    /// Agents whose workers ask for work now, or will at once: between two requests of a worker there is a pause.
    pub asking: BTreeSet<Slug>,
}

/// A ring of waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    /// Agents, each of which waits for the next one, and the last for the first.
    pub agents: Vec<Slug>,
    /// Task on which the first of them works.
    pub run: u64,
    /// Task that this run waits for, the newest of those that runs of the ring wait for: the one whose end breaks the ring,
    /// whoever of them asks.
    pub newest: u64,
}

impl Waits {
    /// Tasks that can come to an end without a wait being ended from outside.
    fn moving(&self) -> BTreeSet<u64> {
        let mut moving = BTreeSet::new();
        loop {
            let more: Vec<u64> = self
                .held
                .iter()
                .filter(|(number, _)| !moving.contains(*number))
                .filter(|(_, task)| match task.waits_for {
                    None => true,
                    Some(subtask) => self.will_end(subtask, &moving),
                })
                .map(|(number, _)| *number)
                .collect();
            if more.is_empty() {
                return moving;
            }
            moving.extend(more);
        }
    }

    /// Whether a task will end when those in `moving` do.
    fn will_end(&self, task: u64, moving: &BTreeSet<u64>) -> bool {
        if self.held.contains_key(&task) {
            return moving.contains(&task);
        }
        let Some(candidates) = self.offered.get(&task) else {
            return true;
        };
        candidates.iter().any(|agent| {
            let mut own = self.held.iter().filter(|(_, t)| t.agent == *agent);
            // An agent that holds nothing is idle, or will be started.
            self.asking.contains(agent)
                || own.clone().next().is_none()
                || own.any(|(number, _)| moving.contains(number))
        })
    }

    /// The ring of waits that a running task is part of and because of which it waits for ever. None if its wait will end, or
    /// if it waits for a ring of others: once that is broken, its wait ends as well.
    pub fn ring(&self, task: u64) -> Option<Ring> {
        let moving = self.moving();
        if !self.held.contains_key(&task) || moving.contains(&task) {
            return None;
        }
        // Breadth first, so that the shortest ring is the one that is named.
        let mut reached_from: BTreeMap<u64, u64> = BTreeMap::new();
        let mut queue = VecDeque::from([task]);
        while let Some(at) = queue.pop_front() {
            for next in self.blocked_by(at) {
                if next == task {
                    return self.ring_between(task, at, &reached_from);
                }
                if let Entry::Vacant(place) = reached_from.entry(next) {
                    place.insert(at);
                    queue.push_back(next);
                }
            }
        }
        None
    }

    /// The ring of the runs from `first` to `last`, by the steps that a search made.
    fn ring_between(
        &self,
        first: u64,
        last: u64,
        reached_from: &BTreeMap<u64, u64>,
    ) -> Option<Ring> {
        let back = std::iter::successors(Some(last), |at| {
            reached_from.get(at).copied().filter(|_| *at != first)
        });
        let mut runs: Vec<(u64, &HeldTask)> = back
            .filter_map(|task| Some((task, self.held.get(&task)?)))
            .collect();
        runs.reverse();
        let newest = runs
            .iter()
            .enumerate()
            .max_by_key(|(_, (_, t))| t.waits_for)?;
        let newest = newest.0;
        runs.rotate_left(newest);
        let (run, waits) = *runs.first()?;
        let mut agents: Vec<Slug> = runs.iter().map(|(_, t)| t.agent.clone()).collect();
        agents.dedup();
        Some(Ring {
            agents,
            run,
            newest: waits.waits_for?,
        })
    }

    /// The runs one of which must end before a run which waits for ever can go on.
    fn blocked_by(&self, task: u64) -> Vec<u64> {
        let Some(subtask) = self.held.get(&task).and_then(|t| t.waits_for) else {
            return Vec::new();
        };
        if self.held.contains_key(&subtask) {
            return vec![subtask];
        }
        let candidates = self.offered.get(&subtask).map_or(&[][..], Vec::as_slice);
        let of_candidate = |(_, held): &(&u64, &HeldTask)| candidates.contains(&held.agent);
        let runs = self.held.iter().filter(of_candidate);
        runs.map(|(number, _)| *number).collect()
    }
}

/// Why a wait is ended: `ana waits for bor, and bor waits for ana`.
pub fn describe_ring(ring: &[Slug]) -> String {
    let next = ring.iter().cycle().skip(1);
    let clauses: Vec<String> = ring
        .iter()
        .zip(next)
        .map(|(one, other)| format!("{one} waits for {other}"))
        .collect();
    clauses.join(", and ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slug(n: usize) -> Slug {
        format!("a{n}").parse().unwrap()
    }

    fn held(agent: usize, waits_for: Option<u64>) -> HeldTask {
        HeldTask {
            agent: slug(agent),
            waits_for,
        }
    }

    fn names(ring: Option<Ring>) -> Option<String> {
        ring.map(|r| describe_ring(&r.agents))
    }

    #[test]
    fn a_ring_is_named_and_everything_else_moves() {
        let mut waits = Waits {
            held: [(1, held(0, Some(3))), (2, held(1, Some(4)))].into(),
            offered: [(3, vec![slug(1)]), (4, vec![slug(0)])].into(),
            asking: BTreeSet::new(),
        };
        // Whoever of them asks, the newest wait is the one to end.
        let ring = "a1 waits for a0, and a0 waits for a1";
        assert_eq!(names(waits.ring(1)).as_deref(), Some(ring));
        assert_eq!(waits.ring(1), waits.ring(2));
        let broken = waits.ring(1).map(|r| (r.run, r.newest));
        assert_eq!(broken, Some((2, 4)));
        // Whoever asks for work while it waits can take it.
        waits.asking.insert(slug(0));
        assert_eq!(waits.ring(1), None);
        waits.asking.clear();
        // So can another candidate that is idle.
        waits.offered.insert(4, vec![slug(0), slug(7)]);
        assert_eq!((waits.ring(1), waits.ring(2)), (None, None));
        // What waits for money or an approval is moved on by that.
        waits.offered.remove(&4);
        assert_eq!(waits.ring(1), None);
        // A ring of three through a chain of delegations.
        let waits = Waits {
            held: [
                (1, held(0, Some(2))),
                (2, held(1, Some(5))),
                (3, held(2, Some(6))),
            ]
            .into(),
            offered: [(5, vec![slug(2)]), (6, vec![slug(0)])].into(),
            asking: BTreeSet::new(),
        };
        let ring = "a2 waits for a0, and a0 waits for a1, and a1 waits for a2";
        assert_eq!(names(waits.ring(1)).as_deref(), Some(ring));
    }

    /// Who waits for a ring of others goes on when that is broken, so its own wait is left alone.
    #[test]
    fn who_only_waits_for_a_ring_is_not_part_of_it() {
        let waits = Waits {
            held: [
                (1, held(0, Some(4))),
                (2, held(1, Some(5))),
                (3, held(2, Some(6))),
            ]
            .into(),
            offered: [(4, vec![slug(1)]), (5, vec![slug(2)]), (6, vec![slug(1)])].into(),
            asking: BTreeSet::new(),
        };
        assert_eq!(waits.ring(1), None);
        let ring = "a2 waits for a1, and a1 waits for a2";
        assert_eq!(names(waits.ring(2)).as_deref(), Some(ring));
        // An agent with two runs: the ring goes through the one that waits for this task.
        let waits = Waits {
            held: [
                (1, held(1, Some(4))),
                (2, held(1, Some(5))),
                (3, held(2, Some(6))),
                (7, held(3, Some(8))),
            ]
            .into(),
            offered: [
                (4, vec![slug(2)]),
                (5, vec![slug(3)]),
                (6, vec![slug(1)]),
                (8, vec![slug(1)]),
            ]
            .into(),
            asking: BTreeSet::new(),
        };
        let ring = "a3 waits for a1, and a1 waits for a3";
        assert_eq!(names(waits.ring(7)).as_deref(), Some(ring));
    }

    /// Agents with one worker each that delegate at random, and wait. `offered` are subtasks and roots that nobody holds.
    #[derive(Debug, Default)]
    struct House {
        next: u64,
        waits: Waits,
        parents: BTreeMap<u64, u64>,
        broken: u32,
    }

    impl House {
        fn add(&mut self, to: usize, parent: Option<u64>) -> u64 {
            self.next += 1;
            self.waits.offered.insert(self.next, vec![slug(to)]);
            self.parents.extend(parent.map(|p| (self.next, p)));
            self.next
        }

        fn claimable(&self) -> Vec<(u64, Slug)> {
            let idle = |agent: &Slug| self.waits.held.values().all(|t| t.agent != *agent);
            let offered = self.waits.offered.iter();
            offered
                .filter(|(_, to)| idle(&to[0]))
                .map(|(task, to)| (*task, to[0].clone()))
                .collect()
        }

        fn working(&self) -> Vec<u64> {
            let held = self.waits.held.iter();
            held.filter(|(_, t)| t.waits_for.is_none())
                .map(|(task, _)| *task)
                .collect()
        }

        /// The task has ended; whoever waits for it goes on.
        fn end(&mut self, task: u64) {
            self.waits.held.remove(&task);
            self.waits.offered.remove(&task);
            for other in self.waits.held.values_mut() {
                if other.waits_for == Some(task) {
                    other.waits_for = None;
                }
            }
        }

        /// Delegates and waits; a wait that would never end is refused.
        fn delegate(&mut self, task: u64, to: usize) {
            let mut above = Some(task);
            while let Some(at) = above {
                if self.waits.held[&at].agent == slug(to) {
                    return;
                }
                above = self.parents.get(&at).copied();
            }
            let subtask = self.add(to, Some(task));
            self.waits.held.get_mut(&task).unwrap().waits_for = Some(subtask);
            if let Some(ring) = self.waits.ring(task) {
                assert!(ring.agents.len() > 1, "{ring:?}");
                assert_eq!((ring.run, ring.newest), (task, subtask));
                self.broken += 1;
                self.end(subtask);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// However agents delegate to each other: as long as there is a task, somebody works or can begin.
        #[test]
        fn there_is_never_a_state_in_which_everybody_waits(
            agents in 1usize..5,
            moves in proptest::collection::vec((0usize..4, 0usize..64, 0usize..5), 1..120),
        ) {
            let mut house = House::default();
            for (kind, which, to) in moves {
                let to = to % agents;
                let (working, claimable) = (house.working(), house.claimable());
                match kind {
                    0 => drop(house.add(to, None)),
                    1 if !claimable.is_empty() => {
                        let (task, agent) = claimable[which % claimable.len()].clone();
                        house.waits.offered.remove(&task);
                        house.waits.held.insert(task, HeldTask { agent, waits_for: None });
                    }
                    2 if !working.is_empty() => house.delegate(working[which % working.len()], to),
                    3 if !working.is_empty() => house.end(working[which % working.len()]),
                    _ => {}
                }
                let tasks = !house.waits.held.is_empty() || !house.waits.offered.is_empty();
                let moves = !house.working().is_empty() || !house.claimable().is_empty();
                prop_assert!(!tasks || moves, "everybody waits: {house:?}");
                for task in house.waits.held.keys() {
                    prop_assert_eq!(house.waits.ring(*task), None, "{:?}", &house);
                }
            }
            // Once nobody delegates any more, all of it comes to an end.
            loop {
                if let Some(task) = house.working().first().copied() {
                    house.end(task);
                } else if let Some((task, agent)) = house.claimable().first().cloned() {
                    house.waits.offered.remove(&task);
                    house.waits.held.insert(task, HeldTask { agent, waits_for: None });
                } else {
                    break;
                }
            }
            prop_assert!(house.waits.held.is_empty() && house.waits.offered.is_empty());
        }
    }
}
