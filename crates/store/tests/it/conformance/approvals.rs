//! Approvals of tasks; those of workflows are in `workflows`.

use super::case::cases;
use crate::support::{Bench, Done, slug};
use abbey_engine::approval::{State, Verdict};
use abbey_model::*;
use abbey_store::*;
use serde_json::{Value, json};

cases! {
    an_approved_action_is_used_once_by_the_holder checks ask_approval decide_approval use_approval;
    an_approval_is_valid_for_its_exact_action checks use_approval;
    a_denial_fails_the_task checks decide_approval task;
    a_revision_resumes_the_task_without_an_approval checks decide_approval use_approval;
    silence_decides_as_agreed checks expire_deadlines approval;
    approvals_are_listed_by_task_and_state checks approvals;
    a_cancelled_task_asks_nothing_any_more checks cancel_task approval;
    a_decision_is_made_once checks decide_approval;
    an_approval_that_is_not_used_in_time_expires checks next_deadline expire_deadlines approval use_approval;
    numbers_of_approvals_are_never_reused checks ask_approval remove_old_records approval;
}

fn ask(bench: &Bench, task: &TaskRef, silence: Verdict) -> ApprovalRow {
    let token = bench.task(task).token;
    let ask = ApprovalRequest {
        task: *task,
        agent: slug("agent-a"),
        token,
        action: "deploy".into(),
        args: json!({ "host": "db" }),
        why: "it is ready".into(),
        within: Millis(60_000),
        silence,
    };
    bench.store().ask_approval(ask).done()
}

fn asked(bench: &Bench) -> (TaskRef, ApprovalRow) {
    let (task, _) = bench.claimed("agent-a");
    let row = ask(bench, &task, Verdict::Deny);
    (task, row)
}

fn decide(bench: &Bench, number: u64, verdict: Verdict) -> Result<(ApprovalRow, Option<TaskRow>)> {
    let note = Some("after lunch".to_owned());
    bench
        .store()
        .decide_approval(number, verdict, note, Principal::Operator)
        .wait()
}

/// The task is admitted and claimed again, as it is after a decision.
fn resume(bench: &Bench, task: &TaskRef) -> LeaseToken {
    bench
        .store()
        .admit_task(*task, crate::support::intake(&["agent-a"]))
        .done();
    bench.claim(task, "agent-a").unwrap().lease.token
}

fn use_it(bench: &Bench, number: u64, token: LeaseToken, args: Value) -> Result<ApprovalRow> {
    let used = ApprovalUse {
        number,
        agent: slug("agent-a"),
        token,
        action: "deploy".into(),
        args,
    };
    bench.store().use_approval(used).wait()
}

fn an_approved_action_is_used_once_by_the_holder(bench: &mut Bench) {
    let (task, row) = asked(bench);
    assert_eq!(bench.task(&task).state(), TaskState::AwaitingApproval);
    assert_eq!((row.number, row.state), (1, State::Pending));
    let (decided, resumed) = decide(bench, 1, Verdict::Approve).unwrap();
    assert_eq!(decided.state, State::Approved);
    assert_eq!(decided.decided_by.as_deref(), Some("operator"));
    assert_eq!(decided.note.as_deref(), Some("after lunch"));
    assert_eq!(resumed.unwrap().state(), TaskState::Pending);
    let token = resume(bench, &task);
    let late = LeaseToken(token.0 - 1);
    assert!(use_it(bench, 1, late, json!({ "host": "db" })).is_err());
    assert_eq!(
        use_it(bench, 1, token, json!({ "host": "db" }))
            .unwrap()
            .state,
        State::Used
    );
    let twice = use_it(bench, 1, token, json!({ "host": "db" }));
    assert!(matches!(twice, Err(Error::Approval(_))));
}

fn an_approval_is_valid_for_its_exact_action(bench: &mut Bench) {
    let (task, _) = asked(bench);
    decide(bench, 1, Verdict::Approve).unwrap();
    let token = resume(bench, &task);
    let other = use_it(bench, 1, token, json!({ "host": "web" }));
    assert!(matches!(other, Err(Error::Approval(_))));
    bench.clock.advance(20_000);
    bench.renew(&task, "agent-a", token.0).unwrap();
    use_it(bench, 1, token, json!({ "host": "db" })).unwrap();
}

fn a_denial_fails_the_task(bench: &mut Bench) {
    let (task, _) = asked(bench);
    let (row, over) = decide(bench, 1, Verdict::Deny).unwrap();
    assert_eq!(row.state, State::Denied);
    assert!(over.unwrap().state().is_terminal());
    let failure = bench.task(&task).failure.unwrap();
    assert_eq!(failure, "APPR-1 was denied: after lunch");
}

fn a_revision_resumes_the_task_without_an_approval(bench: &mut Bench) {
    let (task, _) = asked(bench);
    decide(bench, 1, Verdict::Revise).unwrap();
    let token = resume(bench, &task);
    let refused = use_it(bench, 1, token, json!({ "host": "db" }));
    assert!(matches!(refused, Err(Error::Approval(_))));
}

fn silence_decides_as_agreed(bench: &mut Bench) {
    let (denied, _) = asked(bench);
    let (approved, _) = bench.claimed("agent-a");
    ask(bench, &approved, Verdict::Approve);
    bench.clock.advance(59_999);
    assert!(bench.store().expire_deadlines().done().is_empty());
    bench.clock.advance(1);
    assert_eq!(bench.store().expire_deadlines().done().len(), 2);
    let states = [1, 2].map(|n| bench.store().approval(n).done().state);
    assert_eq!(states, [State::Denied, State::Approved]);
    assert!(bench.task(&denied).state().is_terminal());
    assert_eq!(bench.task(&approved).state(), TaskState::Pending);
}

fn approvals_are_listed_by_task_and_state(bench: &mut Bench) {
    asked(bench);
    let (task, _) = asked(bench);
    decide(bench, 1, Verdict::Approve).unwrap();
    let numbers = |task, all| -> Vec<u64> {
        let filter = ApprovalFilter {
            task,
            all,
            ..ApprovalFilter::default()
        };
        let found = bench.store().approvals(filter).done();
        found.into_iter().map(|a| a.number).collect()
    };
    assert_eq!(numbers(None, true), [2, 1]);
    assert_eq!(numbers(None, false), [2]);
    assert_eq!(numbers(Some(bench.task(&task).number), true), [2]);
    assert!(numbers(Some(1), false).is_empty());
    // An agent's own, page by page.
    let own = |agent: &str, before| -> Vec<u64> {
        let filter = ApprovalFilter {
            agent: Some(slug(agent)),
            all: true,
            before,
            limit: Some(1),
            ..ApprovalFilter::default()
        };
        let found = bench.store().approvals(filter).done();
        found.into_iter().map(|a| a.number).collect()
    };
    assert_eq!(own("agent-a", None), [2]);
    assert_eq!(own("agent-a", Some(2)), [1]);
    assert!(own("agent-a", Some(1)).is_empty() && own("agent-b", None).is_empty());
}

fn a_cancelled_task_asks_nothing_any_more(bench: &mut Bench) {
    let (task, _) = asked(bench);
    bench.store().cancel_task(task, Principal::Operator).done();
    let row = bench.store().approval(1).done();
    assert_eq!(row.state, State::Lapsed);
    assert!(
        matches!(&row.asker, ApprovalRequester::Task { task: 1, agent } if *agent == slug("agent-a"))
    );
}

fn a_decision_is_made_once(bench: &mut Bench) {
    asked(bench);
    decide(bench, 1, Verdict::Deny).unwrap();
    assert!(matches!(
        decide(bench, 1, Verdict::Approve),
        Err(Error::Approval(_))
    ));
    assert!(matches!(
        decide(bench, 9, Verdict::Approve),
        Err(Error::NotFound { .. })
    ));
}

fn numbers_of_approvals_are_never_reused(bench: &mut Bench) {
    asked(bench);
    decide(bench, 1, Verdict::Deny).unwrap();
    bench.clock.advance(1000);
    assert_eq!(bench.store().remove_old_records(Millis(1)).done(), 1);
    assert!(bench.store().approval(1).wait().is_err());
    assert_eq!(asked(bench).1.number, 2);
}

fn an_approval_that_is_not_used_in_time_expires(bench: &mut Bench) {
    const DAY: i64 = 24 * 3_600_000;
    let (task, _) = asked(bench);
    let (row, _) = decide(bench, 1, Verdict::Approve).unwrap();
    let until = bench.store().now() + Millis(DAY);
    assert_eq!(row.good_until, Some(until));
    let intake = crate::support::intake(&["agent-a"]);
    bench.store().admit_task(task, intake).done();
    bench.clock.advance(DAY - 1);
    bench.store().expire_deadlines().done();
    assert_eq!(bench.store().approval(1).done().state, State::Approved);
    assert_eq!(bench.store().next_deadline().done(), Some(until));
    bench.reopen();
    bench.clock.advance(1);
    bench.store().expire_deadlines().done();
    let row = bench.store().approval(1).done();
    assert_eq!((row.state, row.good_until), (State::Expired, None));
    let note = "after lunch; it was not used within 24 hours after it was approved";
    assert_eq!(row.note.as_deref(), Some(note));
    assert_eq!(bench.store().next_deadline().done(), None);
    let entries = bench.store().audit_entries(0, 1000).done();
    assert!(
        entries
            .iter()
            .any(|e| e.action == "approval.expire" && e.entity == "APPR-1")
    );
    let token = bench.claim(&task, "agent-a").unwrap().lease.token;
    let late = use_it(bench, 1, token, json!({ "host": "db" }));
    assert!(
        late.unwrap_err()
            .to_string()
            .contains("was not used in time")
    );
}
