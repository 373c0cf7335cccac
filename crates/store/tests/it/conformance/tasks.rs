//! Adding, reading, editing and admitting tasks.

use super::case::cases;
use crate::support::{Bench, Done, intake, new_task, slug};
use abbey_engine::matcher::{Candidate, Match, NAMED};
use abbey_engine::task::Phase;
use abbey_model::*;
use abbey_store::*;
use serde_json::json;

cases! {
    one_key_adds_one_task checks add_task;
    a_task_is_stored_as_it_was_added checks add_task task;
    keys_of_different_authors_do_not_meet checks add_task;
    a_task_without_an_eligible_agent_is_parked_until_it_is_admitted_again checks add_task admit_task offers;
    the_same_admission_again_changes_nothing checks admit_task;
    offers_are_ordered_by_urgency_and_limited checks offers;
    tasks_are_filtered_by_state_assignee_and_number checks tasks;
    the_work_queue_is_read_at_one_instant checks queue_tasks;
    an_edit_changes_text_priority_and_assignee checks edit_task offers;
    a_running_task_is_not_edited checks edit_task;
    a_finished_task_can_be_retried checks retry_task;
    a_task_that_does_not_exist_is_not_found checks task cancel_task;
    secrets_are_redacted_before_they_are_stored checks add_task task;
}

fn one_key_adds_one_task(bench: &mut Bench) {
    let first = bench.add("agent-a", Some("k"));
    assert_eq!(bench.add("agent-a", Some("k")), first);
    assert!(matches!(
        bench.try_add("agent-a", Some("k"), "other"),
        Err(Error::KeyReused(_))
    ));
}

fn a_task_is_stored_as_it_was_added(bench: &mut Bench) {
    let new = NewTask {
        priority: Priority::P0,
        policy: Some(ToolPolicy {
            turns_max: 3,
            ..ToolPolicy::default()
        }),
        ..new_task("agent-a", "sort the mail")
    };
    let policy = new.policy.clone();
    let added = bench.store().add_task(new).done();
    assert!(added.new);
    let row = bench.store().task(TaskRef::Number(1)).done();
    assert_eq!((row.number, row.id), (1, added.task.id));
    assert_eq!(
        (row.text.as_str(), row.priority),
        ("sort the mail", Priority::P0)
    );
    assert_eq!((row.assignee, row.pinned), (Some(slug("agent-a")), true));
    assert_eq!((row.author, row.policy), (Principal::Operator, policy));
    assert_eq!(row.route.skill.as_deref(), Some("s"));
    assert_eq!(
        (row.created_at, row.updated_at),
        (bench.store().now(), bench.store().now())
    );
    assert!(matches!(row.phase, Phase::Ready { candidates } if candidates == [slug("agent-a")]));
}

fn keys_of_different_authors_do_not_meet(bench: &mut Bench) {
    let by = |author| {
        let idempotency = Some(("k".to_owned(), "d".to_owned()));
        let new = NewTask {
            author,
            idempotency,
            ..new_task("agent-a", "x")
        };
        bench.store().add_task(new).done().task.number
    };
    assert_eq!(by(Principal::Operator), 1);
    assert_eq!(by(Principal::House), 2);
    assert_eq!(by(Principal::Operator), 1);
}

fn a_task_without_an_eligible_agent_is_parked_until_it_is_admitted_again(bench: &mut Bench) {
    let new = NewTask {
        assignee: None,
        intake: intake(&[]),
        ..new_task("agent-a", "x")
    };
    let task = TaskRef::Number(bench.store().add_task(new).done().task.number);
    assert_eq!(bench.task(&task).state(), TaskState::Parked);
    assert!(bench.store().offers(slug("agent-a"), 10).done().is_empty());
    let row = bench
        .store()
        .admit_task(task, intake(&["agent-a", "agent-b"]))
        .done();
    assert_eq!(row.state(), TaskState::Ready);
    for agent in ["agent-a", "agent-b"] {
        assert_eq!(
            bench.store().offers(slug(agent), 10).done().len(),
            1,
            "{agent}"
        );
    }
    assert!(
        bench
            .store()
            .offers(slug("candidates"), 10)
            .done()
            .is_empty()
    );
}

fn the_same_admission_again_changes_nothing(bench: &mut Bench) {
    let task = bench.add("agent-a", None);
    let before = bench.task(&task);
    let head = bench.store().audit_head();
    let after = bench.store().admit_task(task, intake(&["agent-a"])).done();
    assert_eq!(
        (after.version, bench.store().audit_head()),
        (before.version, head)
    );
}

fn offers_are_ordered_by_urgency_and_limited(bench: &mut Bench) {
    for (text, priority) in [
        ("late", Priority::P3),
        ("first", Priority::P0),
        ("second", Priority::P0),
    ] {
        let new = NewTask {
            priority,
            ..new_task("agent-a", text)
        };
        bench.store().add_task(new).done();
        bench.clock.advance(1);
    }
    bench.add("agent-b", None);
    let texts = |limit| -> Vec<String> {
        let offers = bench.store().offers(slug("agent-a"), limit).done();
        offers.into_iter().map(|t| t.text).collect()
    };
    assert_eq!(texts(10), ["first", "second", "late"]);
    assert_eq!(texts(1), ["first"]);
    assert!(texts(0).is_empty());
}

fn tasks_are_filtered_by_state_assignee_and_number(bench: &mut Bench) {
    bench.claimed("agent-a");
    bench.add("agent-a", None);
    bench.add("agent-b", None);
    let numbers = |filter: TaskFilter| -> Vec<u64> {
        let found = bench
            .store()
            .tasks(TaskFilter {
                limit: 10,
                ..filter
            })
            .done();
        found.into_iter().map(|t| t.number).collect()
    };
    let all = TaskFilter::default;
    assert_eq!(numbers(all()), [3, 2, 1]);
    assert_eq!(
        numbers(TaskFilter {
            states: vec![TaskState::Ready],
            ..all()
        }),
        [3, 2]
    );
    let two = vec![TaskState::Ready, TaskState::Running];
    assert_eq!(
        numbers(TaskFilter {
            states: two,
            assignee: Some(slug("agent-a")),
            ..all()
        }),
        [2, 1]
    );
    assert_eq!(
        numbers(TaskFilter {
            before: Some(2),
            ..all()
        }),
        [1]
    );
    let limited = TaskFilter { limit: 2, ..all() };
    assert_eq!(bench.store().tasks(limited).done().len(), 2);
}

fn the_work_queue_is_read_at_one_instant(bench: &mut Bench) {
    for text in ["1", "2", "3", "4", "5", "6"] {
        bench.try_add("agent-a", None, text).unwrap();
    }
    for number in [1, 3, 5] {
        let task = TaskRef::Number(number);
        bench.store().cancel_task(task, Principal::Operator).done();
    }
    let numbers = |open_max, ended_max, numbers: &[u64]| -> Vec<u64> {
        let filter = QueueFilter {
            open_max,
            ended_max,
            numbers: numbers.to_vec(),
        };
        let found = bench.store().queue_tasks(filter).done();
        found.into_iter().map(|t| t.number).collect()
    };
    assert_eq!(numbers(10, 10, &[]), [6, 5, 4, 3, 2, 1]);
    assert_eq!(numbers(2, 1, &[]), [6, 5, 4]);
    assert_eq!(numbers(0, 1, &[1, 5, 9]), [6, 5, 1]);
}

fn an_edit_changes_text_priority_and_assignee(bench: &mut Bench) {
    let task = bench.add("agent-a", None);
    let edit = TaskEdit {
        text: "do that".into(),
        priority: Priority::P0,
        assignee: Some(slug("agent-b")),
        intake: intake(&["agent-a", "agent-b"]),
    };
    let row = bench
        .store()
        .edit_task(task, edit, Principal::Operator)
        .done();
    assert_eq!((row.text.as_str(), row.priority), ("do that", Priority::P0));
    assert!(bench.store().offers(slug("agent-a"), 10).done().is_empty());
    assert_eq!(bench.store().offers(slug("agent-b"), 10).done().len(), 1);
}

fn a_running_task_is_not_edited(bench: &mut Bench) {
    let (task, _) = bench.claimed("agent-a");
    let edit = TaskEdit {
        text: "other".into(),
        priority: Priority::P2,
        assignee: None,
        intake: intake(&["agent-a"]),
    };
    let refused = bench
        .store()
        .edit_task(task, edit, Principal::Operator)
        .wait();
    assert!(matches!(refused, Err(Error::Task(_))));
    assert_eq!(bench.task(&task).text, "do it");
}

fn a_finished_task_can_be_retried(bench: &mut Bench) {
    let task = bench.add("agent-a", None);
    assert!(
        bench
            .store()
            .retry_task(task, Principal::Operator)
            .wait()
            .is_err()
    );
    bench.store().cancel_task(task, Principal::Operator).done();
    assert_eq!(bench.task(&task).state(), TaskState::Cancelled);
    let row = bench.store().retry_task(task, Principal::Operator).done();
    assert_eq!(row.state(), TaskState::Pending);
}

fn a_task_that_does_not_exist_is_not_found(bench: &mut Bench) {
    let nowhere = TaskRef::Number(99);
    assert!(matches!(
        bench.store().task(nowhere).wait(),
        Err(Error::NotFound { what: "task", .. })
    ));
    let cancelled = bench
        .store()
        .cancel_task(nowhere, Principal::Operator)
        .wait();
    assert!(matches!(cancelled, Err(Error::NotFound { .. })));
}

fn secrets_are_redacted_before_they_are_stored(bench: &mut Bench) {
    let secret = format!("sk-abbey-{}", "A1b2".repeat(8));
    let task = bench
        .try_add("agent-a", None, &format!("log in with {secret}"))
        .unwrap();
    assert_eq!(bench.task(&task).text, "log in with [redacted]");
    // Each argument by itself: as JSON of all of them, a secret would be written otherwise.
    let key =
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----";
    let mut new = new_task("agent-a", "use them");
    let args = [
        ("key", json!(key)),
        ("token", json!([secret])),
        ("n", json!(7)),
    ];
    let args = args.map(|(name, value)| (name.to_owned(), value)).into();
    new.intake.fit = Match::One(Candidate {
        skill: "show".to_owned(),
        score: NAMED,
        args,
    });
    let added = bench.store().add_task(new).done().task;
    let stored = json!(added.route.args);
    assert_eq!(stored["n"], 7, "{stored}");
    assert_eq!(stored["token"], json!(["[redacted]"]), "{stored}");
    assert!(
        !stored["key"].as_str().unwrap().contains("MIIE"),
        "{stored}"
    );
}
