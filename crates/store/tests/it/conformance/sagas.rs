//! Sagas.

use super::case::cases;
use crate::support::{Bench, Done};
use abbey_engine::saga::{Event, State};
use abbey_model::*;

cases! {
    sagas_are_replayed_from_their_log checks begin_saga log_saga_event open_sagas;
    a_finished_saga_is_no_longer_open checks log_saga_event open_sagas;
    a_stuck_saga_ends_with_a_later_one_of_its_subject checks begin_saga log_saga_event open_sagas;
}

fn begin(bench: &Bench) -> SagaId {
    begin_of(bench, 1, "s")
}

fn begin_of(bench: &Bench, number: u128, subject: &str) -> SagaId {
    let id = Id::v7(1, number);
    let steps = vec!["a".into(), "b".into()];
    bench
        .store()
        .begin_saga(id, "k".into(), subject.into(), steps)
        .done();
    id
}

fn a_stuck_saga_ends_with_a_later_one_of_its_subject(bench: &mut Bench) {
    for (number, subject) in [(1, "s"), (2, "other")] {
        let stuck = begin_of(bench, number, subject);
        for event in [Event::StepFailed(0), Event::UndoGaveUp(0)] {
            bench.store().log_saga_event(stuck, event).done();
        }
    }
    let again = begin_of(bench, 3, "s");
    bench
        .store()
        .log_saga_event(again, Event::StepDone(0))
        .done();
    assert_eq!(bench.store().open_sagas().done().len(), 3);
    bench
        .store()
        .log_saga_event(again, Event::StepDone(1))
        .done();
    let open = bench.store().open_sagas().done();
    let open: Vec<&str> = open.iter().map(|s| s.subject.as_str()).collect();
    assert_eq!(open, ["other"]);
}

fn sagas_are_replayed_from_their_log(bench: &mut Bench) {
    let id = begin(bench);
    bench.store().log_saga_event(id, Event::StepDone(0)).done();
    bench.reopen();
    assert_eq!(bench.store().open_sagas().done()[0].state, State::Doing(1));
    assert!(
        bench
            .store()
            .log_saga_event(id, Event::StepDone(0))
            .wait()
            .is_err(),
        "a step is done once"
    );
    assert_eq!(
        bench
            .store()
            .log_saga_event(id, Event::StepFailed(1))
            .done(),
        State::Undoing(1)
    );
}

fn a_finished_saga_is_no_longer_open(bench: &mut Bench) {
    let id = begin(bench);
    let open = bench.store().open_sagas().done();
    assert_eq!(
        (open[0].kind.as_str(), open[0].subject.as_str()),
        ("k", "s")
    );
    assert_eq!(open[0].steps, ["a", "b"]);
    bench.store().log_saga_event(id, Event::StepDone(0)).done();
    assert!(
        bench
            .store()
            .log_saga_event(id, Event::StepDone(1))
            .done()
            .is_over()
    );
    assert!(bench.store().open_sagas().done().is_empty());
    assert!(
        bench
            .store()
            .log_saga_event(Id::v7(1, 2), Event::StepDone(0))
            .wait()
            .is_err()
    );
}
