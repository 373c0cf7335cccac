//! Leases: claiming, keeping, and every way in which a run ends.

use super::case::cases;
use crate::support::{Bench, Done, LEASE_MS, claim, intake, outcome, slug};
use abbey_engine::task::Phase;
use abbey_model::*;
use abbey_store::*;
use serde_json::json;

cases! {
    one_claim_wins_and_late_holders_are_fenced_off checks claim complete expire_deadlines runs;
    a_claim_of_an_older_version_is_stale checks claim;
    an_agent_has_no_more_runs_than_its_limit checks claim;
    a_renewal_extends_the_lease_and_stores_facts checks renew run next_deadline;
    a_renewal_with_another_token_is_refused checks renew;
    a_result_is_stored_with_what_stands_behind_it checks complete task run;
    a_failure_ends_the_run_with_its_reason checks fail run;
    a_blocked_task_waits_until_it_is_unblocked checks block_task unblock_task;
    cancelling_a_running_task_ends_its_run checks cancel_task runs;
    leases_of_earlier_boots_are_revoked checks revoke_leases;
    a_stop_by_order_costs_no_attempt checks revoke_leases;
    wall_time_ends_a_run_that_is_renewed checks expire_deadlines renew;
    the_next_deadline_is_the_nearest checks next_deadline;
    runs_are_listed_with_their_cost checks runs_since runs;
}

fn one_claim_wins_and_late_holders_are_fenced_off(bench: &mut Bench) {
    let task = bench.add("agent-a", None);
    let claimed = bench.claim(&task, "agent-a").unwrap();
    assert!(matches!(bench.claim(&task, "agent-a"), Err(Error::Task(_))));
    bench.clock.advance(LEASE_MS);
    assert!(
        bench
            .complete(&task, "agent-a", claimed.lease.token.0)
            .is_err(),
        "over at its instant"
    );
    assert_eq!(
        bench.store().expire_deadlines().done()[0].state(),
        TaskState::Pending
    );
    bench.clock.advance(10_000);
    let due = bench.store().expire_deadlines().done();
    assert_eq!(due.len(), 1, "its pause is over");
    let runs = bench.store().runs(due[0].id).done();
    assert_eq!(
        (runs.len(), runs[0].state, runs[0].reason),
        (1, RunState::Superseded, Some(EndReason::LeaseExpired))
    );
}

fn a_claim_of_an_older_version_is_stale(bench: &mut Bench) {
    let task = bench.add("agent-a", None);
    let current = bench.task(&task).version;
    let seen = |version| Claim {
        seen: Some(version),
        ..claim(&task, "agent-a")
    };
    let refused = bench.store().claim(seen(current + 1)).wait();
    assert!(matches!(refused, Err(Error::Stale { .. })));
    let claimed = bench.store().claim(seen(current)).done();
    assert_eq!(
        (claimed.lease.token, claimed.lease.ttl),
        (LeaseToken(1), Millis(LEASE_MS))
    );
}

fn an_agent_has_no_more_runs_than_its_limit(bench: &mut Bench) {
    let (first, second) = (bench.add("agent-a", None), bench.add("agent-a", None));
    let one = |task| Claim {
        runs_max: 1,
        ..claim(task, "agent-a")
    };
    bench.store().claim(one(&first)).done();
    let refused = bench.store().claim(one(&second)).wait();
    assert!(matches!(refused, Err(Error::Busy { running: 1, .. })));
    assert_eq!(bench.task(&second).state(), TaskState::Ready);
}

fn a_renewal_extends_the_lease_and_stores_facts(bench: &mut Bench) {
    let (task, claimed) = bench.claimed("agent-a");
    let (run, head) = (claimed.run, bench.store().audit_head());
    assert_eq!(bench.store().run(run).done().state, RunState::Starting);
    bench.clock.advance(LEASE_MS - 1);
    let facts = RunFacts {
        receipts: Some(2),
        ..RunFacts::default()
    };
    let proof = || bench.proof("agent-a", 1);
    bench.store().renew(task, proof(), facts).done();
    let more = RunFacts {
        flagged: Some(true),
        reported_usage: Some(ReportedUsage {
            input: 7,
            output: 2,
            cached: 1,
        }),
        ..RunFacts::default()
    };
    bench.store().renew(task, proof(), more).done();
    let row = bench.store().run(run).done();
    assert_eq!(row.state, RunState::Running);
    assert_eq!(
        (row.facts.receipts, row.facts.flagged),
        (Some(2), Some(true))
    );
    assert_eq!(row.facts.reported_usage.map(|u| u.input), Some(7));
    let until = bench.store().now() + Millis(LEASE_MS);
    assert_eq!(bench.store().next_deadline().done(), Some(until));
    assert_eq!(
        bench.store().audit_head(),
        head,
        "a heartbeat is not logged"
    );
}

fn a_renewal_with_another_token_is_refused(bench: &mut Bench) {
    let (task, _) = bench.claimed("agent-a");
    assert!(bench.renew(&task, "agent-a", 2).is_err());
    assert!(bench.renew(&task, "agent-b", 1).is_err());
    assert!(bench.renew(&task, "agent-a", 1).is_ok());
}

fn a_result_is_stored_with_what_stands_behind_it(bench: &mut Bench) {
    let (task, claimed) = bench.claimed("agent-a");
    let facts = RunFacts {
        prompt_hash: Some("p".into()),
        ..RunFacts::default()
    };
    let result = (outcome(json!({ "n": 1 })), EvidenceCheck::NotRun);
    let proof = bench.proof("agent-a", 1);
    bench.store().complete(task, proof, result, facts).done();
    let row = bench.task(&task);
    assert!(matches!(
        row.phase,
        Phase::Done {
            verified: Verified::Skill
        }
    ));
    assert_eq!(row.result.unwrap().data, json!({ "n": 1 }));
    let run = bench.store().run(claimed.run).done();
    assert_eq!(
        (run.state, run.facts.prompt_hash.as_deref()),
        (RunState::Succeeded, Some("p"))
    );
    assert_eq!(run.ended_at, Some(bench.store().now()));
}

fn a_failure_ends_the_run_with_its_reason(bench: &mut Bench) {
    let (task, claimed) = bench.claimed("agent-a");
    let failure = Failure {
        reason: EndReason::AgentError,
        text: "no disk".into(),
    };
    let proof = bench.proof("agent-a", 1);
    let row = bench
        .store()
        .fail(task, proof, failure, RunFacts::default())
        .done();
    assert_eq!(row.failure.as_deref(), Some("no disk"));
    let run = bench.store().run(claimed.run).done();
    assert_eq!(
        (run.state, run.reason),
        (RunState::Failed, Some(EndReason::AgentError))
    );
}

fn a_blocked_task_waits_until_it_is_unblocked(bench: &mut Bench) {
    let (task, _) = bench.claimed("agent-a");
    let proof = bench.proof("agent-a", 1);
    let row = bench
        .store()
        .block_task(task, proof, "operator".into(), "which one?".into())
        .done();
    assert!(
        matches!(&row.phase, Phase::Blocked { on, why } if on == "operator" && why == "which one?")
    );
    assert!(
        bench.renew(&task, "agent-a", 1).is_err(),
        "its lease is over"
    );
    let row = bench.store().unblock_task(task, Principal::Operator).done();
    assert_eq!(row.state(), TaskState::Pending);
}

fn cancelling_a_running_task_ends_its_run(bench: &mut Bench) {
    let (task, claimed) = bench.claimed("agent-a");
    bench.store().cancel_task(task, Principal::Operator).done();
    let runs = bench.store().runs(claimed.task.id).done();
    assert_eq!((runs.len(), runs[0].state), (1, RunState::Cancelled));
    assert!(bench.complete(&task, "agent-a", 1).is_err());
}

fn leases_of_earlier_boots_are_revoked(bench: &mut Bench) {
    let (old, _) = bench.claimed("agent-a");
    let new = bench.add("agent-a", None);
    let second = Claim {
        generation: Generation(2),
        ..claim(&new, "agent-a")
    };
    bench.store().claim(second).done();
    bench.claimed("agent-b");
    let lost = bench
        .store()
        .revoke_leases(slug("agent-a"), Some(Generation(2)), false)
        .done();
    let numbers: Vec<u64> = lost.iter().map(|t| t.number).collect();
    assert_eq!(numbers, [bench.task(&old).number]);
    assert_eq!(bench.task(&new).state(), TaskState::Running);
    assert_eq!(
        bench
            .store()
            .revoke_leases(slug("agent-a"), None, false)
            .done()
            .len(),
        1
    );
    assert!(
        bench
            .store()
            .revoke_leases(slug("agent-a"), None, false)
            .done()
            .is_empty()
    );
}

fn a_stop_by_order_costs_no_attempt(bench: &mut Bench) {
    let (task, _) = bench.claimed("agent-a");
    for _ in 0..5 {
        let store = bench.store();
        let stopped = store.revoke_leases(slug("agent-a"), None, true).done();
        assert_eq!((stopped.len(), stopped[0].attempts), (1, 0));
        assert_eq!(stopped[0].state(), TaskState::Pending);
        let admitted = bench.store().admit_task(task, intake(&["agent-a"])).done();
        assert_eq!(admitted.state(), TaskState::Ready);
        bench.claim(&task, "agent-a").expect("claimed again");
    }
    let runs = bench.store().runs(bench.task(&task).id).done();
    let stopped = runs.iter().filter(|r| r.reason == Some(EndReason::Stopped));
    assert_eq!((runs.len(), stopped.count()), (6, 5));
}

fn wall_time_ends_a_run_that_is_renewed(bench: &mut Bench) {
    let task = bench.add("agent-a", None);
    let short = Claim {
        wall: Millis(40_000),
        ..claim(&task, "agent-a")
    };
    bench.store().claim(short).done();
    bench.clock.advance(20_000);
    bench.renew(&task, "agent-a", 1).unwrap();
    bench.clock.advance(20_000);
    assert_eq!(
        bench.store().expire_deadlines().done()[0].state(),
        TaskState::TimedOut
    );
}

fn the_next_deadline_is_the_nearest(bench: &mut Bench) {
    assert_eq!(bench.store().next_deadline().done(), None);
    let (first, _) = bench.claimed("agent-a");
    let until = bench.store().now() + Millis(LEASE_MS);
    bench.clock.advance(10);
    bench.claimed("agent-a");
    assert_eq!(bench.store().next_deadline().done(), Some(until));
    bench.complete(&first, "agent-a", 1).unwrap();
    assert_eq!(
        bench.store().next_deadline().done(),
        Some(until + Millis(10))
    );
}

fn runs_are_listed_with_their_cost(bench: &mut Bench) {
    let (task, claimed) = bench.claimed("agent-a");
    let since = bench.store().now();
    bench.clock.advance(1500);
    bench.complete(&task, "agent-a", 1).unwrap();
    bench.claimed("agent-a");
    let costs = bench.store().runs_since(since).done();
    assert_eq!(costs.len(), 1, "only runs that ended");
    assert_eq!(
        (costs[0].task, costs[0].time_ms, costs[0].succeeded),
        (1, 1500, true)
    );
    assert_eq!(costs[0].skill.as_deref(), Some("s"));
    assert_eq!(bench.store().runs(claimed.task.id).done().len(), 1);
    assert!(
        bench
            .store()
            .runs_since(since + Millis(1501))
            .done()
            .is_empty()
    );
}
