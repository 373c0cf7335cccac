//! Which agent may delegate to which (S3-23, S3-24): what was declared, and how far it may go. Neither a place in the
//! org chart nor lineage gives a right by itself (S2-01).

use abbey_model::{Authority, Slug};
use serde::{Deserialize, Serialize};

/// Limits of depth and width of a tree of subtasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Most delegations in a row below the root task.
    pub depth: u32,
    /// Most unfinished subtasks of one task.
    pub fan_out: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            depth: 4,
            fan_out: 16,
        }
    }
}

/// Why a delegation or question is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The manifest does not let the agent delegate to the other one.
    #[error("agent {from} may not delegate to agent {to}{}", ask(whom))]
    NotAllowed {
        /// Agent that would delegate or ask.
        from: Slug,
        /// Agent that would get the task.
        to: Slug,
        /// Agents that may delegate to `to`.
        whom: Vec<Slug>,
    },
    /// The manifest does not let the agent ask the other one.
    #[error(
        "agent {from} may not ask agent {to}; add it to `asks` of {from} in the manifest to allow it"
    )]
    MayNotAsk {
        /// Agent that would ask.
        from: Slug,
        /// Agent that would be asked.
        to: Slug,
    },
    /// An agent cannot delegate to itself or ask itself.
    #[error("agent {0} cannot delegate a task to itself")]
    Oneself(Slug),
    /// The chain of delegations would be too long.
    #[error(
        "this task was delegated {depth} times already, which is the limit; finish it, or block it and state what is missing"
    )]
    TooDeep {
        /// Length of the chain.
        depth: u32,
    },
    /// The task would come back to an agent that delegated it.
    #[error(
        "{to} is part of this delegation chain ({}), so the task cannot be delegated back to it",
        arrows(chain)
    )]
    Circle {
        /// Agent that would get the task.
        to: Slug,
        /// Agents that delegated the task so far, in order.
        chain: Vec<Slug>,
    },
    /// The task has as many unfinished subtasks as it may have.
    #[error(
        "{open} subtasks of this task are open, which is the limit; wait until one of them has ended"
    )]
    TooMany {
        /// Number of unfinished subtasks.
        open: u32,
    },
}

fn ask(whom: &[Slug]) -> String {
    match whom {
        [] => String::new(),
        whom => {
            let names: Vec<&str> = whom.iter().map(Slug::as_str).collect();
            format!("; agents that may: {}", names.join(", "))
        }
    }
}

fn arrows(chain: &[Slug]) -> String {
    let names: Vec<&str> = chain.iter().map(Slug::as_str).collect();
    names.join(" → ")
}

/// Checks that the manifest lets agent `from` delegate to agent `to`. `own` are the rights of `from`; `others` are
/// those of all agents, so that a refusal can name the agents that may.
///
/// # Errors
/// [`Refusal::NotAllowed`] or [`Refusal::Oneself`].
pub fn check_delegation_right<'a>(
    from: &Slug,
    to: &Slug,
    own: &Authority,
    others: impl Iterator<Item = (&'a Slug, &'a Authority)>,
) -> Result<(), Refusal> {
    if from == to {
        return Err(Refusal::Oneself(from.clone()));
    }
    if own.includes(to) {
        return Ok(());
    }
    let may =
        |(name, theirs): &(&Slug, &Authority)| *name != from && *name != to && theirs.includes(to);
    let whom = others.filter(may).map(|(name, _)| name.clone());
    Err(Refusal::NotAllowed {
        from: from.clone(),
        to: to.clone(),
        whom: whom.collect(),
    })
}

/// Checks that the manifest lets agent `from` ask agent `to` a question. `own` are the agents that `from` may ask.
///
/// # Errors
/// [`Refusal::MayNotAsk`] or [`Refusal::Oneself`].
pub fn check_ask_right(from: &Slug, to: &Slug, own: &Authority) -> Result<(), Refusal> {
    match (from == to, own.includes(to)) {
        (true, _) => Err(Refusal::Oneself(from.clone())),
        (false, true) => Ok(()),
        (false, false) => Err(Refusal::MayNotAsk {
            from: from.clone(),
            to: to.clone(),
        }),
    }
}

/// Checks that one more subtask for agent `to` stays within the bounds of depth and width and makes no circle. `chain`
/// lists the agents that delegated the task so far, the newest last; `open` counts the unfinished subtasks.
///
/// # Errors
/// The first bound that it would cross.
pub fn check_bounds(to: &Slug, chain: &[Slug], open: u32, bounds: Bounds) -> Result<(), Refusal> {
    let depth = u32::try_from(chain.len()).unwrap_or(u32::MAX);
    if chain.contains(to) {
        return Err(Refusal::Circle {
            to: to.clone(),
            chain: chain.to_vec(),
        });
    }
    if depth > bounds.depth {
        return Err(Refusal::TooDeep {
            depth: depth.saturating_sub(1),
        });
    }
    if open >= bounds.fan_out {
        return Err(Refusal::TooMany { open });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn slug(name: &str) -> Slug {
        name.parse().unwrap()
    }

    /// The matrix of the cluster: the manager may delegate to all, the tech lead to all but the manager, others to none (S3-23).
    #[test]
    fn the_matrix_is_data() {
        let all = ["manager", "tech-lead", "optimizer", "secretary"].map(slug);
        let matrix: BTreeMap<Slug, Authority> = BTreeMap::from([
            (slug("manager"), "all".parse().unwrap()),
            (slug("tech-lead"), "all -manager".parse().unwrap()),
            (slug("optimizer"), Authority::default()),
            (slug("secretary"), Authority::default()),
        ]);
        let mut table = String::new();
        for from in &all {
            for to in &all {
                let refusal = match check_delegation_right(from, to, &matrix[from], matrix.iter()) {
                    Ok(()) => "yes".to_owned(),
                    Err(refusal) => refusal.to_string(),
                };
                table += &format!("{from} → {to}: {refusal}\n");
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn chains_circles_and_crowds_are_bounded() {
        let bounds = Bounds {
            depth: 2,
            fan_out: 3,
        };
        let chain = ["a", "b"].map(slug);
        assert_eq!(check_bounds(&slug("c"), &chain, 2, bounds), Ok(()));
        let deep = ["a", "b", "c"].map(slug);
        assert_eq!(
            check_bounds(&slug("d"), &deep, 0, bounds),
            Err(Refusal::TooDeep { depth: 2 })
        );
        let refusal = check_bounds(&slug("a"), &chain, 0, bounds).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "a is part of this delegation chain (a → b), so the task cannot be delegated back to it"
        );
        assert_eq!(
            check_bounds(&slug("c"), &chain, 3, bounds),
            Err(Refusal::TooMany { open: 3 })
        );
    }
}
