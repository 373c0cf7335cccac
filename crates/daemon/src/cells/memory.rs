//! Whether one more cell fits into the host's memory (S3-07). What a cell may use is its limit; what it needs to
//! begin is less, unless it is a machine. A cell without enough memory waits, reports why, and starts when there is some.

use crate::core::plan::PlanInForce;
use abbey_model::{Bytes, CellKind, CellName, Limits};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What an ordinary cell that was never seen is taken to need.
const FIRST: Bytes = Bytes(32 << 20);
/// Time after which what was granted shows in what the host has left.
const SHOWS_AFTER: Duration = Duration::from_secs(20);

/// What was granted and does not show yet.
#[derive(Debug, Default)]
pub(crate) struct MemoryGrants {
    granted: Mutex<BTreeMap<CellName, (Bytes, Instant)>>,
}

/// What a cell needs to begin; `peak` is what it once had.
pub(crate) fn need(kind: CellKind, limits: &Limits, peak: Option<Bytes>) -> Bytes {
    match kind {
        CellKind::Microvm => limits.memory,
        _ => peak.unwrap_or_default().max(FIRST).min(limits.memory),
    }
}

impl MemoryGrants {
    /// Grants a cell what it needs.
    ///
    /// # Errors
    /// The sentence for whoever asks why it does not begin.
    pub(crate) fn take(
        &self,
        cell: &CellName,
        need: Bytes,
        reserve: Bytes,
        now: Instant,
    ) -> Result<(), String> {
        let Some(free) = abbey_cells::memory("MemAvailable:") else {
            return Ok(());
        };
        let mut granted = self.granted.lock();
        granted.retain(|other, (_, at)| other != cell && now.duration_since(*at) < SHOWS_AFTER);
        let promised: u64 = granted.values().map(|(bytes, _)| bytes.0).sum();
        let left = free.0.saturating_sub(promised).saturating_sub(reserve.0);
        if need.0 > left {
            return Err(format!(
                "it waits for memory: it needs {need} to begin, and of {free} that this host has free, {} are promised to cells that begin and {reserve} are kept back; stop another cell, lower its `limits.memory`, or lower `admission.memory_reserve`",
                Bytes(promised)
            ));
        }
        granted.insert(cell.clone(), (need, now));
        Ok(())
    }
}

/// Whether a cell of the plan finds room.
///
/// # Errors
/// As [`MemoryGrants::take`].
pub(crate) fn of_plan(
    grants: &MemoryGrants,
    current: &PlanInForce,
    cell: &CellName,
    peak: Option<Bytes>,
    now: Instant,
) -> Result<(), String> {
    let found = match cell {
        CellName::Agent(slug) => current.house.agents.get(slug).map(|a| (a.cell, a.limits)),
        CellName::Service(slug) => current.house.services.get(slug).map(|s| (s.cell, s.limits)),
        CellName::Run(_) => None,
    };
    let Some((kind, limits)) = found else {
        return Ok(());
    };
    let reserve = current.house.admission.memory_reserve;
    grants.take(cell, need(kind, &limits, peak), reserve, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_granted_is_not_granted_again() {
        let grants = MemoryGrants::default();
        let free = abbey_cells::memory("MemAvailable:").unwrap();
        let cell = |n: u32| CellName::Agent(format!("a{n}").parse().unwrap());
        let most = Bytes(free.0 / 10 * 6);
        grants
            .take(&cell(1), most, Bytes(0), Instant::now())
            .unwrap();
        let told = grants
            .take(&cell(2), most, Bytes(0), Instant::now())
            .unwrap_err();
        assert!(told.contains("waits for memory"), "{told}");
        // Asking again is not asking twice.
        grants
            .take(&cell(1), most, Bytes(0), Instant::now())
            .unwrap();
        assert!(
            grants
                .take(&cell(3), Bytes(1), free, Instant::now())
                .is_err(),
            "kept back"
        );
    }

    #[test]
    fn a_machine_needs_all_of_it_and_others_what_they_had() {
        let limits = Limits::default();
        assert_eq!(need(CellKind::Microvm, &limits, None), limits.memory);
        assert_eq!(need(CellKind::Sandbox, &limits, None), FIRST);
        let peak = Some(Bytes(100 << 20));
        assert_eq!(need(CellKind::Sandbox, &limits, peak), Bytes(100 << 20));
        let over = Some(Bytes(1 << 40));
        assert_eq!(need(CellKind::Process, &limits, over), limits.memory);
    }
}
