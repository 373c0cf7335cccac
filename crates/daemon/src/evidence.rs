//! Whether work is done as was declared: looked at by the house, in the cell of whoever says so.

use crate::error::Result;
use crate::exec;
use crate::house::House;
use abbey_api::{EvidenceView, Problem};
use abbey_model::{Evidence, FaultKind, Slug, TaskRef};
use abbey_store::{Delegated, Hold, RunFacts};
use std::sync::Arc;
use std::time::Duration;

/// Longest look at one thing.
const WITHIN: Duration = Duration::from_secs(600);
/// Most things that one task may declare.
const DECLARED_MAX: usize = 8;
/// Statuses of a program that was ended for its time, or never ran, as timeout(1) and container tools have them.
const UNTOLD: std::ops::RangeInclusive<i32> = 124..=127;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// All of it holds.
    Holds,
    /// Something does not.
    Lacks(String),
    /// Something could not be told.
    Unknown(String),
}

/// Looks, and keeps the holder's right while that takes: it waits for the answer and cannot.
///
/// # Errors
/// When the right is gone meanwhile, by a cancellation or the run's wall time.
pub(crate) async fn look_while_held(
    house: &Arc<House>,
    task: TaskRef,
    hold: &Hold,
    evidence: &[Evidence],
) -> Result<Found> {
    let renew = || house.store.renew(task, hold.clone(), RunFacts::default());
    // Only for who holds the work is anything tried.
    renew().await?;
    let every = Duration::from_millis(hold.ttl.0.max(300).unsigned_abs() / 3);
    let mut look = std::pin::pin!(look(house, &hold.agent, evidence));
    loop {
        tokio::select! {
            found = &mut look => return Ok(found),
            () = tokio::time::sleep(every) => drop(renew().await?),
        }
    }
}

/// Looks at one after the other; the first that does not hold is what is told.
async fn look(house: &Arc<House>, agent: &Slug, evidence: &[Evidence]) -> Found {
    for one in evidence {
        let argv = match one {
            Evidence::File(path) => vec!["test".to_owned(), "-s".to_owned(), path.clone()],
            Evidence::Command(argv) => argv.clone(),
        };
        match exec::quietly(house, agent, argv, WITHIN).await {
            Ok((0, _)) => {}
            Ok((code, said)) if UNTOLD.contains(&code) => {
                let why = format!("{one} could not be told ({code}): {}", said.trim());
                return Found::Unknown(why);
            }
            Ok((code, said)) => {
                let text = match one {
                    Evidence::File(_) => format!("{one} is not there, or is empty"),
                    Evidence::Command(_) => {
                        format!("{one} ended with {code}: {}", said.trim())
                    }
                };
                return Found::Lacks(text);
            }
            Err(error) => {
                return Found::Unknown(format!("{one} could not be tried: {}", error.chain()));
            }
        }
    }
    Found::Holds
}

/// What is declared as evidence for a task.
///
/// # Errors
/// When one of it is none.
pub(crate) fn declared(views: &[EvidenceView]) -> Result<Option<Delegated>> {
    if views.is_empty() {
        return Ok(None);
    }
    if views.len() > DECLARED_MAX {
        let text = format!("a task declares at most {DECLARED_MAX} pieces of evidence");
        return Err(Problem::new(FaultKind::Invalid, text).into());
    }
    let one = |view: &EvidenceView| {
        let evidence = match (view.file.clone(), view.command.clone()) {
            (Some(path), None) => Evidence::File(path),
            (None, Some(argv)) => Evidence::Command(argv),
            _ => return Err("evidence is either a `file` or a `command`".to_owned()),
        };
        evidence.check().map(|()| evidence)
    };
    let evidence = views.iter().map(one).collect::<std::result::Result<_, _>>();
    Ok(Some(Delegated {
        evidence: evidence.map_err(|why| Problem::new(FaultKind::Invalid, why))?,
        ..Delegated::default()
    }))
}

/// One as a document.
pub(crate) fn view(one: &Evidence) -> EvidenceView {
    match one.clone() {
        Evidence::File(path) => EvidenceView {
            file: Some(path),
            command: None,
        },
        Evidence::Command(argv) => EvidenceView {
            file: None,
            command: Some(argv),
        },
    }
}
