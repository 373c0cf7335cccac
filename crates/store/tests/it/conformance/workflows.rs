//! Runs of workflows.

use super::case::cases;
use crate::support::{Bench, Done, intake, slug};
use abbey_engine::approval::{State as Answer, Verdict};
use abbey_engine::workflow::{
    State, StepAction, StepArguments, Undo, ValueType, Workflow, WorkflowStep,
};
use abbey_model::*;
use abbey_store::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

cases! {
    a_run_follows_its_declaration_to_the_end checks start_workflow advance_workflow workflow workflows_due;
    one_key_starts_one_run checks start_workflow;
    a_step_begins_once_however_often_the_run_is_advanced checks advance_workflow;
    a_failed_step_fails_the_run checks advance_workflow workflow;
    a_cancelled_run_cancels_what_it_began checks advance_workflow;
    an_event_is_accepted_once checks advance_workflow;
    an_event_that_a_step_cannot_use_is_ignored checks advance_workflow;
    a_step_that_cannot_be_undone_is_an_incident checks workflow_incidents;
    a_step_asks_for_an_approval_and_uses_it checks advance_workflow approvals decide_approval;
    an_unanswered_approval_of_a_step_is_decided_by_its_time checks advance_workflow workflows_due approval;
    runs_are_listed_newest_first checks workflows;
    runs_survive_a_restart checks workflow workflows_due;
}

fn step(act: StepAction, needs: &[&str]) -> WorkflowStep {
    WorkflowStep {
        act,
        needs: needs.iter().map(|n| slug(n)).collect(),
        when: Vec::new(),
        each: None,
        with: StepArguments::new(),
        expects: BTreeMap::new(),
        within: None,
        retry: 0,
        retry_after: Millis(0),
        tokens: None,
        may_fail: false,
        undo: None,
    }
}

fn task(text: &str) -> StepAction {
    StepAction::Task {
        agent: Some(slug("agent-a")),
        text: text.into(),
    }
}

fn workflow(steps: Vec<(&str, WorkflowStep)>) -> Workflow {
    Workflow {
        input: BTreeMap::new(),
        steps: steps
            .into_iter()
            .map(|(name, step)| (slug(name), step))
            .collect(),
        output: StepArguments::new(),
        within: None,
        on: BTreeSet::new(),
    }
}

fn two_tasks() -> Workflow {
    workflow(vec![
        ("build", step(task("build"), &[])),
        ("ship", step(task("ship"), &["build"])),
    ])
}

fn new_run(workflow: Workflow, key: Option<&str>) -> NewRun {
    NewRun {
        name: "release".into(),
        workflow,
        digest: "d1".into(),
        input: BTreeMap::from([("version".to_owned(), json!("2"))]),
        by: Principal::Operator,
        key: key.map(str::to_owned),
    }
}

fn start(bench: &Bench, workflow: Workflow) -> u64 {
    let (number, new) = bench.store().start_workflow(new_run(workflow, None)).done();
    assert!(new);
    number
}

fn intakes() -> Intakes {
    Box::new(|_| intake(&["agent-a"]))
}

fn signal(bench: &Bench, number: u64, signal: WorkflowSignal) -> Result<WorkflowRow> {
    bench
        .store()
        .advance_workflow(number, signal, intakes())
        .wait()
}

fn advance(bench: &Bench, number: u64) -> WorkflowRow {
    signal(bench, number, WorkflowSignal::Refresh).unwrap()
}

/// Claims and completes a task of a run.
fn do_task(bench: &Bench, number: u64) {
    let task = TaskRef::Number(number);
    let token = bench.claim(&task, "agent-a").unwrap().lease.token;
    bench
        .complete_with(&task, "agent-a", token.0, json!({ "ok": true }))
        .unwrap();
}

fn due(bench: &Bench) -> Vec<u64> {
    bench.store().workflows_due().done().0
}

fn a_run_follows_its_declaration_to_the_end(bench: &mut Bench) {
    let run = start(bench, two_tasks());
    assert_eq!(due(bench), [run], "a new run is due at once");
    assert_eq!(advance(bench, run).run.state, State::Running);
    assert!(due(bench).is_empty(), "its first task is open");
    assert_eq!(
        bench
            .task(&TaskRef::Number(1))
            .link
            .unwrap()
            .step
            .as_deref(),
        Some("WF-1/build")
    );
    do_task(bench, 1);
    assert_eq!(due(bench), [run]);
    advance(bench, run);
    do_task(bench, 2);
    assert_eq!(advance(bench, run).run.state, State::Done);
    assert!(due(bench).is_empty());
    assert_eq!(bench.store().workflow(run).done().run.state, State::Done);
}

fn one_key_starts_one_run(bench: &mut Bench) {
    let start = |digest: &str| {
        let new = NewRun {
            digest: digest.into(),
            ..new_run(two_tasks(), Some("k"))
        };
        bench.store().start_workflow(new).wait()
    };
    assert_eq!(start("d1").unwrap(), (1, true));
    assert_eq!(start("d1").unwrap(), (1, false));
    assert!(matches!(start("d2"), Err(Error::KeyReused(_))));
}

fn a_step_begins_once_however_often_the_run_is_advanced(bench: &mut Bench) {
    let run = start(bench, two_tasks());
    for _ in 0..3 {
        advance(bench, run);
    }
    bench.reopen();
    advance(bench, run);
    let all = TaskFilter {
        limit: 10,
        ..TaskFilter::default()
    };
    assert_eq!(bench.store().tasks(all).done().len(), 1);
}

fn a_failed_step_fails_the_run(bench: &mut Bench) {
    let run = start(bench, two_tasks());
    advance(bench, run);
    bench
        .store()
        .cancel_task(TaskRef::Number(1), Principal::Operator)
        .done();
    let row = advance(bench, run);
    assert_eq!(row.run.state, State::Failed);
    let stored = bench.store().workflow(run).done();
    assert_eq!(
        (stored.run.state, stored.run.failure),
        (State::Failed, row.run.failure)
    );
}

fn a_cancelled_run_cancels_what_it_began(bench: &mut Bench) {
    let run = start(bench, two_tasks());
    advance(bench, run);
    let row = signal(bench, run, WorkflowSignal::Cancel(Principal::Operator)).unwrap();
    assert_eq!(row.run.state, State::Cancelled);
    assert_eq!(
        bench.task(&TaskRef::Number(1)).state(),
        TaskState::Cancelled
    );
    let again = signal(bench, run, WorkflowSignal::Cancel(Principal::Operator));
    assert!(matches!(again, Err(Error::WorkflowOver { .. })));
}

fn an_event_is_accepted_once(bench: &mut Bench) {
    let wait = step(StepAction::Event { name: slug("paid") }, &[]);
    let run = start(bench, workflow(vec![("wait", wait)]));
    assert_eq!(advance(bench, run).run.state, State::Running);
    let paid = |amount: u64| WorkflowSignal::Event {
        name: slug("paid"),
        data: json!({ "amount": amount }),
        by: Principal::Operator,
    };
    let row = signal(bench, run, paid(7)).unwrap();
    assert_eq!(row.run.state, State::Done);
    assert!(row.run.events_heard().contains(&slug("paid")));
    assert!(matches!(
        signal(bench, run, paid(8)),
        Err(Error::WorkflowOver { .. })
    ));
}

fn an_event_that_a_step_cannot_use_is_ignored(bench: &mut Bench) {
    let mut wait = step(StepAction::Event { name: slug("paid") }, &[]);
    wait.expects.insert("amount".into(), ValueType::Number);
    let run = start(bench, workflow(vec![("wait", wait)]));
    advance(bench, run);
    let paid = |data| WorkflowSignal::Event {
        name: slug("paid"),
        data,
        by: Principal::Operator,
    };
    let row = signal(bench, run, paid(json!({ "amount": "much" }))).unwrap();
    assert_eq!(row.run.state, State::Running);
    assert!(row.run.ignored[&slug("paid")].contains("`amount` is no number"));
    let row = signal(bench, run, paid(json!({ "amount": 7 }))).unwrap();
    assert_eq!(row.run.state, State::Done);
}

fn a_step_that_cannot_be_undone_is_an_incident(bench: &mut Bench) {
    let mut build = step(task("build"), &[]);
    build.undo = Some(Undo {
        act: task("undo"),
        with: StepArguments::new(),
    });
    let run = start(
        bench,
        workflow(vec![
            ("build", build),
            ("ship", step(task("ship"), &["build"])),
        ]),
    );
    advance(bench, run);
    do_task(bench, 1);
    advance(bench, run);
    let cancel = |number| {
        let task = TaskRef::Number(number);
        bench.store().cancel_task(task, Principal::Operator).done();
    };
    cancel(2);
    advance(bench, run);
    let since = bench.store().now();
    assert!(bench.store().workflow_incidents(since).done().is_empty());
    cancel(3);
    assert_eq!(advance(bench, run).run.state, State::Failed);
    let found = bench.store().workflow_incidents(since).done();
    assert_eq!(found.len(), 1);
    assert!(found[0].run.incident().unwrap().contains("step `build`"));
    let later = bench.store().now() + Millis(1);
    assert!(bench.store().workflow_incidents(later).done().is_empty());
}

fn asking(silence: bool) -> Workflow {
    let mut ask = step(
        StepAction::Approval {
            ask: "ship it?".into(),
            silence,
        },
        &[],
    );
    ask.within = Some(Millis(5000));
    workflow(vec![("ask", ask)])
}

fn a_step_asks_for_an_approval_and_uses_it(bench: &mut Bench) {
    let run = start(bench, asking(false));
    advance(bench, run);
    let asked = bench.store().approvals(ApprovalFilter::default()).done();
    assert_eq!(asked.len(), 1);
    assert!(
        matches!(&asked[0].asker, ApprovalRequester::Workflow { run: 1, step } if *step == slug("ask"))
    );
    let (row, task) = bench
        .store()
        .decide_approval(asked[0].number, Verdict::Approve, None, Principal::Operator)
        .done();
    assert_eq!((row.state, task.is_none()), (Answer::Approved, true));
    assert_eq!(due(bench), [run]);
    assert_eq!(advance(bench, run).run.state, State::Done);
    assert_eq!(
        bench
            .store()
            .approvals(ApprovalFilter {
                all: true,
                ..ApprovalFilter::default()
            })
            .done()[0]
            .state,
        Answer::Used
    );
}

fn an_unanswered_approval_of_a_step_is_decided_by_its_time(bench: &mut Bench) {
    let (denied, approved) = (start(bench, asking(false)), start(bench, asking(true)));
    advance(bench, denied);
    let row = advance(bench, approved);
    let until = bench.store().now() + Millis(5000);
    assert_eq!(row.next_at, Some(until));
    assert_eq!(bench.store().workflows_due().done(), (vec![], Some(until)));
    bench.clock.advance(5000);
    assert_eq!(due(bench), [denied, approved]);
    assert_eq!(advance(bench, denied).run.state, State::Failed);
    assert_eq!(advance(bench, approved).run.state, State::Done);
    assert_eq!(bench.store().approval(1).done().state, Answer::Denied);
}

fn runs_are_listed_newest_first(bench: &mut Bench) {
    let (first, second) = (start(bench, two_tasks()), start(bench, two_tasks()));
    signal(bench, first, WorkflowSignal::Cancel(Principal::Operator)).unwrap();
    let numbers = |open, limit| -> Vec<u64> {
        let found = bench.store().workflows(open, limit).done();
        found.into_iter().map(|w| w.number).collect()
    };
    assert_eq!(numbers(false, 10), [second, first]);
    assert_eq!(numbers(true, 10), [second]);
    assert_eq!(numbers(false, 1), [second]);
}

fn runs_survive_a_restart(bench: &mut Bench) {
    let run = start(bench, two_tasks());
    let before = advance(bench, run);
    bench.reopen();
    assert_eq!(bench.store().workflow(run).done(), before);
    do_task(bench, 1);
    assert_eq!(due(bench), [run]);
    assert!(matches!(
        bench.store().workflow(9).wait(),
        Err(Error::NotFound { .. })
    ));
}
