//! Cells, wakes and credentials.

use super::case::cases;
use crate::support::{Bench, Done, slug};
use abbey_engine::supervision::History;
use abbey_model::*;
use abbey_store::*;
use serde_json::json;

cases! {
    desired_state_and_supervision_are_kept_apart checks set_cell cells;
    a_change_of_desired_state_is_logged_once checks set_cell;
    a_removed_cell_takes_its_wakes_along checks remove_cell cells wakes record_wake;
    the_newest_wake_counts checks record_wake wakes;
    credentials_end_when_they_are_revoked checks add_token tokens revoke_tokens;
    an_expired_credential_is_not_listed checks tokens;
    a_draining_agent_is_offered_nothing_and_finishes_its_task checks set_draining draining offers;
    draining_survives_a_restart_and_ends_with_the_cell checks set_draining draining remove_cell;
}

fn cell() -> CellName {
    CellName::Agent(slug("agent-a"))
}

fn desired(state: DesiredState) -> CellChange {
    CellChange {
        desired: Some((state, Some(Principal::Operator))),
        ..CellChange::default()
    }
}

fn desired_state_and_supervision_are_kept_apart(bench: &mut Bench) {
    let since = bench.store().now();
    bench
        .store()
        .set_cell(cell(), desired(DesiredState::Up))
        .done();
    bench.clock.advance(1000);
    let history = History {
        failures: 2,
        ..History::default()
    };
    let change = CellChange {
        history: Some((history.clone(), None)),
        ..CellChange::default()
    };
    bench.store().set_cell(cell(), change).done();
    bench
        .store()
        .set_cell(cell(), desired(DesiredState::Paused))
        .done();
    let rows = bench.store().cells().done();
    let row = &rows[&cell()];
    assert_eq!(
        (row.desired, &row.history, row.since),
        (DesiredState::Paused, &history, since)
    );
}

fn a_change_of_desired_state_is_logged_once(bench: &mut Bench) {
    let head = bench.store().audit_head();
    for _ in 0..2 {
        bench
            .store()
            .set_cell(cell(), desired(DesiredState::Up))
            .done();
    }
    assert_eq!(bench.logged_after(head), ["cell.want_up"]);
}

fn a_removed_cell_takes_its_wakes_along(bench: &mut Bench) {
    bench
        .store()
        .set_cell(cell(), desired(DesiredState::Up))
        .done();
    bench.store().record_wake(slug("agent-a"), 3).done();
    bench.store().record_wake(slug("agent-b"), 1).done();
    bench.store().remove_cell(cell()).done();
    assert!(bench.store().cells().done().is_empty());
    let wakes = bench.store().wakes().done();
    assert_eq!(
        wakes.into_iter().collect::<Vec<_>>(),
        [(slug("agent-b"), 1)]
    );
}

fn the_newest_wake_counts(bench: &mut Bench) {
    for number in [2, 5, 4] {
        bench.store().record_wake(slug("agent-a"), number).done();
    }
    assert_eq!(bench.store().wakes().done()[&slug("agent-a")], 5);
}

fn token(hash: &str, expires_at: Option<Timestamp>) -> TokenRow {
    TokenRow {
        hash: hash.into(),
        principal: Principal::Agent(slug("agent-a")),
        scope: "agent".into(),
        expires_at,
    }
}

fn hashes(bench: &Bench) -> Vec<String> {
    bench
        .store()
        .tokens()
        .done()
        .into_iter()
        .map(|t| t.hash)
        .collect()
}

fn credentials_end_when_they_are_revoked(bench: &mut Bench) {
    for hash in ["h1", "h2", "h3"] {
        bench.store().add_token(token(hash, None)).done();
    }
    let principal = Principal::Agent(slug("agent-a"));
    let overlap = Millis(1000);
    let keep = Some("h2".to_owned());
    assert_eq!(
        bench
            .store()
            .revoke_tokens(principal.clone(), keep, overlap)
            .done(),
        2
    );
    assert_eq!(hashes(bench), ["h1", "h2", "h3"], "they overlap");
    bench.clock.advance(1000);
    assert_eq!(hashes(bench), ["h2"]);
    assert_eq!(
        bench
            .store()
            .revoke_tokens(principal, None, Millis(0))
            .done(),
        1
    );
    assert!(hashes(bench).is_empty());
}

fn an_expired_credential_is_not_listed(bench: &mut Bench) {
    let end = bench.store().now() + Millis(10);
    let new = token("h", Some(end));
    bench.store().add_token(new.clone()).done();
    assert_eq!(bench.store().tokens().done(), [new]);
    bench.clock.advance(10);
    assert!(hashes(bench).is_empty());
    let logged = bench.store().audit_entries(0, 10).done();
    assert!(
        logged
            .iter()
            .all(|e| !e.detail.to_string().contains("\"h\"")),
        "{logged:?}"
    );
    assert_eq!(
        logged[0].detail,
        json!({ "principal": "agent:agent-a", "scope": "agent" })
    );
}

fn drain(bench: &Bench, draining: bool) {
    let who = Principal::Operator;
    bench
        .store()
        .set_draining(slug("agent-a"), draining, who)
        .done();
}

fn offers(bench: &Bench) -> usize {
    bench.store().offers(slug("agent-a"), 10).done().len()
}

fn a_draining_agent_is_offered_nothing_and_finishes_its_task(bench: &mut Bench) {
    let (task, claimed) = bench.claimed("agent-a");
    bench.add("agent-a", None);
    bench.add("agent-b", None);
    let head = bench.store().audit_head();
    drain(bench, true);
    drain(bench, true);
    assert_eq!(
        (offers(bench), bench.store().draining().done().len()),
        (0, 1)
    );
    assert_eq!(bench.store().offers(slug("agent-b"), 10).done().len(), 1);
    bench
        .complete(&task, "agent-a", claimed.lease.token.0)
        .unwrap();
    let work = bench.store().subscribe(Topic::Work);
    drain(bench, false);
    assert!(work.has_changed().unwrap(), "its poll looks again");
    assert_eq!(
        (offers(bench), bench.store().draining().done().len()),
        (1, 0)
    );
    let logged = bench.logged_after(head);
    assert_eq!(logged, ["agent.drain", "task.complete", "agent.undrain"]);
}

fn draining_survives_a_restart_and_ends_with_the_cell(bench: &mut Bench) {
    drain(bench, true);
    bench.reopen();
    assert!(bench.store().draining().done().contains(&slug("agent-a")));
    bench.store().remove_cell(cell()).done();
    assert!(bench.store().draining().done().is_empty());
}
