//! Runs as the store drives them, and properties that hold for every run.

use super::*;
use abbey_model::Millis;
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};

fn slug(text: &str) -> Slug {
    text.parse().unwrap()
}

fn step(needs: &[&str]) -> WorkflowStep {
    WorkflowStep {
        act: StepAction::Task {
            agent: None,
            text: "do it".to_owned(),
        },
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

fn undone(mut step: WorkflowStep) -> WorkflowStep {
    step.undo = Some(Undo {
        act: step.act.clone(),
        with: StepArguments::new(),
    });
    step
}

fn workflow(steps: Vec<(&str, WorkflowStep)>) -> Workflow {
    Workflow {
        input: BTreeMap::from([(
            "list".to_owned(),
            InputField {
                of: ValueType::List,
                default: None,
            },
        )]),
        steps: steps.into_iter().map(|(n, s)| (slug(n), s)).collect(),
        output: StepArguments::new(),
        within: None,
        on: BTreeSet::new(),
    }
}

/// Whoever keeps a run: gives numbers, knows the ends, and forgets all but what was written down.
struct Stage {
    workflow: Workflow,
    run: WorkflowRun,
    now: i64,
    next: u64,
    ends: HashMap<u64, WorkOutcome>,
    begun: Vec<(String, usize, u32, bool, u64)>,
    cancelled: Vec<u64>,
}

impl Stage {
    fn new(workflow: Workflow, input: Json) -> Stage {
        let input = serde_json::from_value(input).unwrap();
        Stage {
            workflow,
            run: WorkflowRun::new(input, Timestamp(0)),
            now: 0,
            next: 1,
            ends: HashMap::new(),
            begun: Vec::new(),
            cancelled: Vec::new(),
        }
    }

    fn pass(&mut self) -> Vec<StepStart> {
        // As after a crash: the run is what was written.
        self.run = serde_json::from_value(serde_json::to_value(&self.run).unwrap()).unwrap();
        let ends = self.ends.clone();
        let facts = |handle| match handle {
            WorkHandle::Task(n) | WorkHandle::Approval(n) => {
                ends.get(&n).cloned().unwrap_or(WorkOutcome::Open)
            }
        };
        let mut begun = Vec::new();
        for effect in advance(&self.workflow, &mut self.run, &facts, Timestamp(self.now)) {
            match effect {
                WorkflowEffect::Begin(begin) => {
                    self.run.record_started(&begin, WorkHandle::Task(self.next));
                    let name = begin.step.to_string();
                    self.begun
                        .push((name, begin.index, begin.attempt, begin.undo, self.next));
                    self.next += 1;
                    begun.push(*begin);
                }
                WorkflowEffect::Cancel(WorkHandle::Task(n) | WorkHandle::Approval(n)) => {
                    self.ends
                        .insert(n, WorkOutcome::Failed("cancelled".to_owned()));
                    self.cancelled.push(n);
                }
            }
        }
        begun
    }

    fn end(&mut self, step: &str, index: usize, fact: WorkOutcome) {
        let newest = self.begun.iter().rev();
        let found = newest.clone().find(|(s, i, ..)| s == step && *i == index);
        self.ends.insert(found.unwrap().4, fact);
    }

    fn done(&mut self, step: &str, output: Json) -> Vec<String> {
        self.end(step, 0, WorkOutcome::Done(output));
        self.pass().iter().map(|b| b.step.to_string()).collect()
    }
}

#[test]
fn steps_run_beside_each_other_and_join() {
    let mut gate = step(&["a", "b"]);
    gate.with = StepArguments::from([
        (
            "file".to_owned(),
            ValueSource::Step(slug("a"), "file".into()),
        ),
        ("list".to_owned(), ValueSource::Input("list".into())),
    ]);
    let mut w = workflow(vec![("a", step(&[])), ("b", step(&[])), ("gate", gate)]);
    w.output = StepArguments::from([(
        "told".to_owned(),
        ValueSource::Step(slug("gate"), "text".into()),
    )]);
    let mut stage = Stage::new(w, json!({ "list": [1] }));
    let names: Vec<_> = stage.pass().iter().map(|b| b.step.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(stage.pass().is_empty(), "nothing begins twice");
    assert!(stage.done("a", json!({ "file": "$(reboot)" })).is_empty());
    stage.end("b", 0, WorkOutcome::Done(json!({})));
    let begun = stage.pass();
    assert_eq!(begun[0].data["file"], json!("$(reboot)"), "a value is data");
    assert_eq!(begun[0].data["list"], json!([1]));
    stage.done("gate", json!({ "text": "yes" }));
    assert_eq!(stage.run.state, State::Done);
    assert_eq!(stage.run.output, Some(json!({ "told": "yes" })));
}

#[test]
fn a_branch_is_taken_or_not_and_what_comes_after_both_goes_on() {
    let on = |value: &str| {
        let mut s = step(&["look"]);
        let value = ValueSource::Step(slug("look"), value.into());
        s.when = vec![Condition {
            value,
            test: Comparison::Above(2.0),
        }];
        s
    };
    let w = workflow(vec![
        ("look", step(&[])),
        ("big", on("n")),
        ("small", on("m")),
        ("after-small", step(&["small"])),
        ("join", step(&["big", "small"])),
    ]);
    let mut stage = Stage::new(w, json!({}));
    stage.pass();
    assert_eq!(stage.done("look", json!({ "n": 3, "m": 1 })), ["big"]);
    assert_eq!(
        stage.run.steps[&slug("after-small")][0].at,
        StepProgress::Skipped
    );
    assert_eq!(stage.done("big", json!({})), ["join"]);
}

#[test]
fn a_step_runs_for_each_of_a_list_and_gives_a_list() {
    let mut each = step(&[]);
    each.each = Some(ValueSource::Input("list".into()));
    each.with = StepArguments::from([("host".to_owned(), ValueSource::Item)]);
    let mut after = step(&["each"]);
    after.with = StepArguments::from([(
        "all".to_owned(),
        ValueSource::Step(slug("each"), "size".into()),
    )]);
    let w = workflow(vec![("each", each), ("after", after)]);
    let mut stage = Stage::new(w.clone(), json!({ "list": ["x", "y"] }));
    let begun = stage.pass();
    let hosts: Vec<_> = begun.iter().map(|b| b.data["host"].clone()).collect();
    assert_eq!(hosts, ["x", "y"]);
    stage.end("each", 1, WorkOutcome::Done(json!({ "size": 2 })));
    assert!(stage.pass().is_empty());
    stage.end("each", 0, WorkOutcome::Done(json!({ "size": 1 })));
    assert_eq!(stage.pass()[0].data["all"], json!([1, 2]));
    // An empty list is done at once; one that is none is a failure, not an accident.
    let mut stage = Stage::new(w.clone(), json!({ "list": [] }));
    assert_eq!(stage.pass()[0].step, slug("after"));
    let mut stage = Stage::new(w, json!({ "list": 5 }));
    assert!(stage.pass().is_empty());
    assert_eq!(stage.run.state, State::Failed);
}

#[test]
fn a_result_of_another_shape_is_a_failure_and_is_tried_again() {
    let mut s = step(&[]);
    s.expects = BTreeMap::from([("n".to_owned(), ValueType::Number)]);
    (s.retry, s.retry_after) = (1, Millis(500));
    let mut stage = Stage::new(workflow(vec![("s", s)]), json!({}));
    stage.pass();
    assert!(stage.done("s", json!({ "n": "three" })).is_empty());
    assert_eq!(
        stage.run.next_deadline(&stage.workflow),
        Some(Timestamp(500))
    );
    stage.now = 500;
    assert_eq!(stage.pass()[0].attempt, 2);
    stage.done("s", json!({}));
    assert_eq!(stage.run.state, State::Failed);
    let why = stage.run.failure.as_deref().unwrap();
    assert!(
        why.contains("step `s` failed") && why.contains("it has no `n`"),
        "{why}"
    );
}

#[test]
fn finished_steps_are_undone_newest_first_after_failure_or_cancellation() {
    for cancelled in [false, true] {
        let w = workflow(vec![
            ("a", undone(step(&[]))),
            ("b", undone(step(&["a"]))),
            ("c", step(&["b"])),
            ("side", step(&[])),
        ]);
        let mut stage = Stage::new(w, json!({}));
        stage.pass();
        stage.done("a", json!({}));
        assert_eq!(stage.done("b", json!({})), ["c"]);
        match cancelled {
            true => stage.run.cancel_requested = true,
            false => stage.end("c", 0, WorkOutcome::Failed("no".to_owned())),
        }
        let undo = stage.pass();
        assert!(undo[0].undo && undo[0].step == slug("b"));
        assert!(!stage.cancelled.is_empty(), "a step beside it is cancelled");
        // One that cannot be undone holds up nothing.
        stage.end("b", 0, WorkOutcome::Failed("stuck".to_owned()));
        assert_eq!(stage.pass()[0].step, slug("a"));
        stage.done("a", json!({}));
        let expected = if cancelled {
            State::Cancelled
        } else {
            State::Failed
        };
        assert_eq!(stage.run.state, expected);
    }
}

/// Told before it was its turn to wait: it does not wait for a second time.
#[test]
fn an_event_that_came_early_counts() {
    let waits = WorkflowStep {
        act: StepAction::Event { name: slug("go") },
        ..step(&["a"])
    };
    let mut stage = Stage::new(
        workflow(vec![("a", step(&[])), ("b", waits), ("c", step(&["b"]))]),
        json!({ "list": [] }),
    );
    stage.pass();
    let workflow = stage.workflow.clone();
    stage.run.hear(&workflow, slug("go"), json!({ "at": 1 }));
    stage.pass();
    assert_eq!(stage.done("a", json!({})), ["c"]);
    assert!(
        matches!(&stage.run.steps[&slug("b")][0].at, StepProgress::Done(data) if data["at"] == 1)
    );
}

/// Whoever sends an event without a field ends nothing; the right one brings the run on.
#[test]
fn an_event_without_an_expected_field_is_ignored_with_the_reason() {
    let mut wait = step(&[]);
    wait.act = StepAction::Event { name: slug("go") };
    wait.expects.insert("n".to_owned(), ValueType::Number);
    let mut other = wait.clone();
    other.expects = BTreeMap::from([("name".to_owned(), ValueType::Text)]);
    let w = workflow(vec![("other", other), ("wait", wait)]);
    let mut stage = Stage::new(w, json!({}));
    stage.pass();
    for (data, why) in [
        (json!({}), "it has no `name`"),
        (json!({ "n": "x" }), "it has no `name`"),
        (Json::Null, "it has no `name`"),
    ] {
        let workflow = stage.workflow.clone();
        let verdict = stage.run.hear(&workflow, slug("go"), data);
        assert!(
            matches!(&verdict, EventVerdict::Ignored(w) if w.contains(why)),
            "{verdict:?}"
        );
        assert!(stage.run.ignored[&slug("go")].contains(why));
        stage.pass();
        assert_eq!(stage.run.state, State::Running);
        assert!(stage.run.awaits_event(&workflow, &slug("go")));
    }
    let workflow = stage.workflow.clone();
    let hear = |stage: &mut Stage, data: Json| {
        let verdict = stage.run.hear(&workflow, slug("go"), data);
        stage.pass();
        verdict
    };
    assert_eq!(hear(&mut stage, json!({ "n": 5 })), EventVerdict::Accepted);
    assert!(matches!(
        stage.run.steps[&slug("wait")][0].at,
        StepProgress::Done(_)
    ));
    assert!(stage.run.ignored.is_empty());
    // The other step waits for its own.
    assert_eq!(stage.run.state, State::Running);
    let verdict = hear(&mut stage, json!({ "n": 6 }));
    assert!(matches!(verdict, EventVerdict::Ignored(_)), "{verdict:?}");
    assert_eq!(
        hear(&mut stage, json!({ "name": "x" })),
        EventVerdict::Accepted
    );
    assert_eq!(stage.run.state, State::Done);
}

/// An event that a later step needs is kept when another one comes for another step.
#[test]
fn an_event_for_one_step_does_not_replace_that_of_another() {
    let waits = |needs: &[&str], field: &str| {
        let mut waits = step(needs);
        waits.act = StepAction::Event { name: slug("go") };
        waits.expects.insert(field.to_owned(), ValueType::Number);
        waits
    };
    let steps = vec![
        ("a", step(&[])),
        ("early", waits(&["a"], "n")),
        ("other", waits(&[], "m")),
    ];
    let mut stage = Stage::new(workflow(steps), json!({ "list": [] }));
    stage.pass();
    let workflow = stage.workflow.clone();
    let mut hear = |data: Json| {
        let verdict = stage.run.hear(&workflow, slug("go"), data);
        stage.pass();
        verdict
    };
    // The first one is for a step whose turn has not come.
    assert_eq!(hear(json!({ "n": 1 })), EventVerdict::Accepted);
    assert_eq!(hear(json!({ "m": 2 })), EventVerdict::Accepted);
    assert_eq!(hear(json!({ "n": 3 })), EventVerdict::Known);
    // A run that is read back has both.
    let text = serde_json::to_string(&stage.run).unwrap();
    stage.run = serde_json::from_str(&text).unwrap();
    stage.done("a", json!({}));
    assert_eq!(stage.run.state, State::Done);
    let output = |of: &str| match &stage.run.steps[&slug(of)][0].at {
        StepProgress::Done(data) => data.clone(),
        at => panic!("{at:?}"),
    };
    assert_eq!(output("early"), json!({ "n": 1 }));
    assert_eq!(output("other"), json!({ "m": 2 }));
}

/// A run that an earlier version of Abbey stored has one event for each name.
#[test]
fn an_event_that_an_earlier_version_took_in_counts() {
    let mut waits = step(&["a"]);
    waits.act = StepAction::Event { name: slug("go") };
    let mut stage = Stage::new(
        workflow(vec![("a", step(&[])), ("b", waits)]),
        json!({ "list": [] }),
    );
    stage.pass();
    let mut stored = serde_json::to_value(&stage.run).unwrap();
    stored["heard"] = json!({ "go": [1, 2] });
    stage.run = serde_json::from_value(stored).unwrap();
    stage.done("a", json!({}));
    assert_eq!(stage.run.state, State::Done);
}

/// What could not be undone is named with the failure.
#[test]
fn a_step_that_cannot_be_undone_is_an_incident() {
    let w = workflow(vec![("a", undone(step(&[]))), ("b", step(&["a"]))]);
    let mut stage = Stage::new(w, json!({ "list": [] }));
    stage.pass();
    stage.done("a", json!({}));
    assert_eq!(stage.run.incident(), None);
    stage.end("b", 0, WorkOutcome::Failed("no".to_owned()));
    stage.pass();
    assert_eq!(stage.run.state, State::Undoing);
    stage.end("a", 0, WorkOutcome::Failed("jammed".to_owned()));
    stage.pass();
    assert_eq!(stage.run.state, State::Failed);
    assert_eq!(
        stage.run.incident().as_deref(),
        Some("step `a` could not be undone: jammed")
    );
    let failure = stage.run.failure.unwrap();
    assert!(
        failure.contains("step `b` failed: no; step `a` could not be undone: jammed"),
        "{failure}"
    );
}

#[test]
fn time_and_events() {
    let mut wait = step(&[]);
    wait.act = StepAction::Event {
        name: slug("ready"),
    };
    wait.within = Some(Millis(1000));
    let mut pause = step(&["wait"]);
    pause.act = StepAction::Pause(Millis(300));
    let w = workflow(vec![("wait", wait), ("pause", pause)]);
    let mut stage = Stage::new(w.clone(), json!({}));
    stage.pass();
    stage.now = 900;
    let workflow = stage.workflow.clone();
    stage
        .run
        .hear(&workflow, slug("ready"), json!({ "by": "x" }));
    stage.pass();
    assert_eq!(
        stage.run.next_deadline(&stage.workflow),
        Some(Timestamp(1200))
    );
    stage.now = 1200;
    stage.pass();
    assert_eq!(stage.run.state, State::Done);
    // Nothing heard in time.
    let mut stage = Stage::new(w, json!({}));
    stage.pass();
    stage.now = 1000;
    stage.pass();
    assert!(
        stage
            .run
            .failure
            .unwrap()
            .contains("`ready` did not happen in time")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the shape and whatever happens: nothing begins before what it needs, nothing begins twice, attempts
    /// are bounded, it comes to an end, and what is done when it fails has been undone, the newest first.
    #[test]
    fn any_run_keeps_its_promises(
        edges in proptest::collection::vec((0usize..6, 0usize..6), 0..12),
        outcomes in proptest::collection::vec((0usize..8, any::<bool>()), 1..80),
        retries in proptest::collection::vec(0u32..3, 6),
        call_off in proptest::option::of(0usize..20),
    ) {
        let name = |n: usize| format!("s{n}");
        let mut steps: Vec<WorkflowStep> = (0..6).map(|_| undone(step(&[]))).collect();
        for (a, b) in edges {
            // From lower to higher: no cycles, as the check sees to.
            if a < b { steps[b].needs.insert(slug(&name(a))); }
        }
        for (s, retry) in steps.iter_mut().zip(&retries) { s.retry = *retry; }
        let needs: Vec<BTreeSet<Slug>> = steps.iter().map(|s| s.needs.clone()).collect();
        let names: Vec<String> = (0..6).map(name).collect();
        let w = workflow(names.iter().map(String::as_str).zip(steps).collect());
        let mut stage = Stage::new(w, json!({}));
        let mut undo_order: Vec<u32> = Vec::new();
        let mut rounds = outcomes.iter().cycle();
        for round in 0..200 {
            if call_off == Some(round) { stage.run.cancel_requested = true; }
            for begin in stage.pass() {
                let n: usize = begin.step.as_str()[1..].parse().unwrap();
                prop_assert!(begin.attempt <= retries[n] + 1);
                if begin.undo {
                    undo_order.push(stage.run.steps[&begin.step][0].order);
                } else {
                    for need in &needs[n] { prop_assert!(stage.run.settled(need)); }
                }
            }
            if stage.run.state.is_over() { break; }
            let open: Vec<u64> = stage.run.open_handles().into_iter().map(|h| match h { WorkHandle::Task(n) | WorkHandle::Approval(n) => n }).collect();
            prop_assert!(!open.is_empty(), "it waits for nothing");
            let (pick, good) = rounds.next().unwrap();
            let end = if *good { WorkOutcome::Done(json!({})) } else { WorkOutcome::Failed("no".into()) };
            stage.ends.insert(open[pick % open.len()], end);
        }
        prop_assert!(stage.run.state.is_over());
        let mut seen = BTreeSet::new();
        for (step, index, attempt, undo, _) in &stage.begun {
            prop_assert!(seen.insert((step.clone(), *index, *attempt, *undo)), "begun twice");
        }
        if stage.run.state == State::Done {
            prop_assert!(stage.run.steps.values().flatten().all(|i| matches!(i.at, StepProgress::Done(_))));
        } else {
            prop_assert!(stage.run.steps.values().flatten().all(|i| !matches!(i.at, StepProgress::Done(_)) || i.undo.is_some()));
            prop_assert!(undo_order.windows(2).all(|w| w[0] > w[1]), "{undo_order:?}");
        }
        // Over is over.
        let over = stage.run.clone();
        prop_assert!(stage.pass().is_empty());
        prop_assert_eq!(over, stage.run);
    }
}
