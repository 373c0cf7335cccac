//! Cells, wakes and credentials.

use super::case::cases;
use crate::support::{Bench, Done, slug};
use abbey_engine::supervision::History;
use abbey_model::*;
use abbey_store::*;
use serde_json::json;

cases! {
    desired_state_and_supervision_are_kept_apart checks set_cell set_essential_cell cells;
    supervision_of_a_cell_without_a_row_leaves_it_up checks set_cell remove_cell cells;
    a_change_of_desired_state_is_logged_once checks set_cell;
    a_removed_cell_takes_its_wakes_along checks remove_cell cells wakes record_wake;
    the_newest_wake_counts checks record_wake wakes;
    credentials_end_when_they_are_revoked checks add_token tokens revoke_tokens;
    an_expired_credential_is_not_listed checks tokens;
    a_named_token_is_listed_until_it_is_revoked checks add_token named_tokens revoke_named_token;
    a_name_of_a_token_is_given_once checks add_token revoke_named_token;
    the_use_of_a_named_token_is_recorded_and_not_logged checks record_token_use named_tokens;
    revoking_a_principal_keeps_named_tokens checks revoke_tokens tokens;
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
        .set_essential_cell(cell(), desired(DesiredState::Paused))
        .done();
    let rows = bench.store().cells().done();
    let row = &rows[&cell()];
    assert_eq!(
        (row.desired, &row.history, row.since),
        (DesiredState::Paused, &history, since)
    );
}

/// The reconciler may write after a cell was removed, and before a plan that a crash cut off is carried out.
fn supervision_of_a_cell_without_a_row_leaves_it_up(bench: &mut Bench) {
    let stopped = desired(DesiredState::Down);
    bench.store().set_cell(cell(), stopped).done();
    bench.store().remove_cell(cell()).done();
    let change = CellChange {
        history: Some((History::default(), None)),
        ..CellChange::default()
    };
    bench.store().set_cell(cell(), change).done();
    let rows = bench.store().cells().done();
    assert_eq!(rows[&cell()].desired, DesiredState::Up);
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

fn token(hash: &str, expires_at: Option<Timestamp>) -> NewToken {
    NewToken {
        hash: hash.into(),
        principal: Principal::Agent(slug("agent-a")),
        grant: CredentialGrant::Agent,
        name: None,
        expires_at,
        issued_by: Principal::House,
    }
}

fn named(name: &str, hash: &str) -> NewToken {
    NewToken {
        hash: hash.into(),
        principal: Principal::Token(slug(name)),
        grant: "tasks,approve".parse().unwrap(),
        name: Some(slug(name)),
        expires_at: None,
        issued_by: Principal::Operator,
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
    for hash in ["h1", "h2", "h3", "h4"] {
        bench.store().add_token(token(hash, None)).done();
    }
    let principal = Principal::Agent(slug("agent-a"));
    let overlap = Millis(1000);
    let keep = vec!["h2".to_owned(), "h4".to_owned()];
    assert_eq!(
        bench
            .store()
            .revoke_tokens(principal.clone(), keep, overlap)
            .done(),
        2
    );
    assert_eq!(hashes(bench), ["h1", "h2", "h3", "h4"], "they overlap");
    bench.clock.advance(1000);
    assert_eq!(hashes(bench), ["h2", "h4"]);
    let none_kept = Vec::new();
    assert_eq!(
        bench
            .store()
            .revoke_tokens(principal, none_kept, Millis(0))
            .done(),
        2
    );
    assert!(hashes(bench).is_empty());
}

fn an_expired_credential_is_not_listed(bench: &mut Bench) {
    let end = bench.store().now() + Millis(10);
    let new = token("h", Some(end));
    bench.store().add_token(new.clone()).done();
    let row = TokenRow {
        hash: new.hash,
        principal: new.principal,
        grant: new.grant,
        name: None,
        created_at: bench.store().now(),
        last_used_at: None,
        expires_at: new.expires_at,
    };
    assert_eq!(bench.store().tokens().done(), [row]);
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

fn a_named_token_is_listed_until_it_is_revoked(bench: &mut Bench) {
    let end = bench.store().now() + Millis(10);
    let expires = NewToken {
        expires_at: Some(end),
        ..named("ci", "h1")
    };
    bench.store().add_token(expires).done();
    bench.store().add_token(named("board", "h2")).done();
    bench.clock.advance(10);
    let rows = bench.store().named_tokens().done();
    let names: Vec<_> = rows.iter().flat_map(|r| &r.name).collect();
    assert_eq!(names, [&slug("board"), &slug("ci")]);
    assert_eq!(rows[1].expires_at, Some(end));
    assert_eq!(rows[0].grant.to_string(), "tasks,approve");
    assert_eq!(hashes(bench), ["h2"], "an expired token is not valid");
    for name in ["ci", "board"] {
        let by = Principal::Person(slug("ana"));
        bench.store().revoke_named_token(slug(name), by).done();
    }
    assert!(bench.store().named_tokens().done().is_empty());
    assert!(hashes(bench).is_empty());
    let logged = bench.store().audit_entries(0, 10).done();
    let logged: Vec<_> = logged
        .iter()
        .map(|e| format!("{} {} {}", e.actor, e.action, e.entity))
        .collect();
    assert_eq!(
        logged,
        [
            "operator credential.issue token:ci",
            "operator credential.issue token:board",
            "person:ana credential.revoke token:ci",
            "person:ana credential.revoke token:board",
        ]
    );
}

fn a_name_of_a_token_is_given_once(bench: &mut Bench) {
    bench.store().add_token(named("ci", "h1")).done();
    let again = bench.store().add_token(named("ci", "h2")).wait();
    assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
    assert_eq!(hashes(bench), ["h1"]);
    let by = Principal::Operator;
    bench
        .store()
        .revoke_named_token(slug("ci"), by.clone())
        .done();
    bench.store().add_token(named("ci", "h2")).done();
    assert_eq!(hashes(bench), ["h2"]);
    let unknown = bench.store().revoke_named_token(slug("other"), by).wait();
    assert!(matches!(unknown, Err(Error::NotFound { .. })));
}

fn the_use_of_a_named_token_is_recorded_and_not_logged(bench: &mut Bench) {
    bench.store().add_token(named("ci", "h1")).done();
    let head = bench.store().audit_head();
    bench.clock.advance(7);
    bench.store().record_token_use(slug("ci")).done();
    bench.store().record_token_use(slug("revoked")).done();
    let rows = bench.store().named_tokens().done();
    assert_eq!(rows[0].last_used_at, Some(bench.store().now()));
    assert_eq!(rows[0].created_at + Millis(7), bench.store().now());
    assert_eq!(bench.store().audit_head(), head);
}

fn revoking_a_principal_keeps_named_tokens(bench: &mut Bench) {
    let named = NewToken {
        principal: Principal::Operator,
        ..named("root", "h1")
    };
    bench.store().add_token(named).done();
    let own = NewToken {
        principal: Principal::Operator,
        ..token("h2", None)
    };
    bench.store().add_token(own).done();
    let operator = Principal::Operator;
    let revoked = bench.store().revoke_tokens(operator, Vec::new(), Millis(0));
    assert_eq!(revoked.done(), 1);
    assert_eq!(hashes(bench), ["h1"]);
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
