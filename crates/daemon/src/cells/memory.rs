//! Memory admission: whether another cell fits into the host's memory (S3-07). A cell needs its
//! earlier peak to start, a microVM its whole limit. A cell without enough memory waits, reports
//! why, and starts when memory is free.

use crate::core::plan::PlanInForce;
use abbey_model::{Bytes, CellKind, CellName, Limits};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Memory that a cell is assumed to need before it was ever measured.
const ASSUMED_PEAK: Bytes = Bytes(32 << 20);
/// Time after which granted memory shows in the host's free memory.
const GRANT_LIFETIME: Duration = Duration::from_secs(20);

/// Memory granted to cells that are starting and that does not show in the host's free memory yet.
#[derive(Debug, Default)]
pub(crate) struct MemoryGrants {
    granted: Mutex<BTreeMap<CellName, (Bytes, Instant)>>,
}

/// Memory that a cell needs to start: its limit for a microVM, otherwise its earlier peak.
pub(crate) fn memory_to_start(kind: CellKind, limits: &Limits, peak: Option<Bytes>) -> Bytes {
    match kind {
        CellKind::Microvm => limits.memory,
        _ => peak
            .unwrap_or_default()
            .max(ASSUMED_PEAK)
            .min(limits.memory),
    }
}

impl MemoryGrants {
    /// Grants a cell the memory it needs, leaving `reserve` free. Granting again replaces the
    /// cell's earlier grant.
    ///
    /// # Errors
    /// A sentence that says how much is missing and what to do.
    pub(crate) fn grant(
        &self,
        cell: &CellName,
        need: Bytes,
        reserve: Bytes,
        now: Instant,
    ) -> Result<(), String> {
        let Some(free) = abbey_cells::read_meminfo("MemAvailable:") else {
            return Ok(());
        };
        let mut granted = self.granted.lock();
        granted.retain(|other, (_, at)| other != cell && now.duration_since(*at) < GRANT_LIFETIME);
        let granted_bytes: u64 = granted.values().map(|(bytes, _)| bytes.0).sum();
        let left = free
            .0
            .saturating_sub(granted_bytes)
            .saturating_sub(reserve.0);
        if need.0 > left {
            return Err(format!(
                "it waits for memory: it needs {} to start, and of {} that this host has free, {} are granted to cells that are starting and {} are reserved; stop another cell, lower its `limits.memory`, or lower `admission.memory_reserve`",
                need.human(),
                free.human(),
                Bytes(granted_bytes).human(),
                reserve.human()
            ));
        }
        granted.insert(cell.clone(), (need, now));
        Ok(())
    }
}

/// Grants memory to a cell of the plan, which once needed `peak`.
///
/// # Errors
/// As [`MemoryGrants::grant`].
pub(crate) fn grant_to_planned_cell(
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
    grants.grant(cell, memory_to_start(kind, &limits, peak), reserve, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_granted_is_not_granted_again() {
        let grants = MemoryGrants::default();
        let free = abbey_cells::read_meminfo("MemAvailable:").unwrap();
        let cell = |n: u32| CellName::Agent(format!("a{n}").parse().unwrap());
        let most = Bytes(free.0 / 10 * 6);
        grants
            .grant(&cell(1), most, Bytes(0), Instant::now())
            .unwrap();
        let refusal = grants
            .grant(&cell(2), most, Bytes(0), Instant::now())
            .unwrap_err();
        assert!(refusal.contains("waits for memory"), "{refusal}");
        // A repeated grant replaces the first one.
        grants
            .grant(&cell(1), most, Bytes(0), Instant::now())
            .unwrap();
        assert!(
            grants
                .grant(&cell(3), Bytes(1), free, Instant::now())
                .is_err(),
            "the reserve stays free"
        );
    }

    #[test]
    fn a_machine_needs_all_of_it_and_others_what_they_had() {
        let limits = Limits::default();
        assert_eq!(
            memory_to_start(CellKind::Microvm, &limits, None),
            limits.memory
        );
        assert_eq!(
            memory_to_start(CellKind::Sandbox, &limits, None),
            ASSUMED_PEAK
        );
        let peak = Some(Bytes(100 << 20));
        assert_eq!(
            memory_to_start(CellKind::Sandbox, &limits, peak),
            Bytes(100 << 20)
        );
        let over = Some(Bytes(1 << 40));
        assert_eq!(
            memory_to_start(CellKind::Process, &limits, over),
            limits.memory
        );
    }
}
