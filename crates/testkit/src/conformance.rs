//! Conformance suite of cell backends. Tests of each backend call [`run_conformance_suite`] with
//! the specification of a cell that runs until it is stopped.

use abbey_cells::{Backend, CellSpec};
use abbey_model::{ExitKind, Generation, Millis, Observed};
use std::time::{Duration, Instant};

/// Longest wait for any single change.
const WITHIN: Duration = Duration::from_secs(20);

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + WITHIN;
    while !reached() {
        assert!(Instant::now() < end, "not reached in {WITHIN:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs every case of the suite: start, observation, pause, stop, sweep, and repeated calls.
///
/// # Panics
/// If the backend does not conform.
pub fn run_conformance_suite(backend: &dyn Backend, spec: &CellSpec) {
    let cell = &spec.cell;
    let look = || {
        backend
            .observe(cell)
            .expect("a look never fails on sound records")
    };
    let ready = || matches!(look(), Observed::Running { ready: true, .. });

    // Nothing is there, and looking changes nothing.
    assert_eq!(look(), Observed::Nothing);
    assert_eq!(look(), Observed::Nothing);
    assert!(
        backend.usage(cell).is_err(),
        "what does not run uses nothing"
    );
    backend.sweep(cell).expect("sweeping nothing is no failure");

    // It starts, says which boot it is and from what, and is found by listing.
    backend.start(spec, Generation(1)).expect("it starts");
    until("ready", ready);
    let Observed::Running {
        generation,
        spec: digest,
        stopping,
        ..
    } = look()
    else {
        panic!("it runs")
    };
    assert_eq!(
        (generation, digest.as_str(), stopping),
        (Generation(1), spec.digest.as_str(), false)
    );
    assert!(backend.list().expect("a list").contains(cell));
    assert!(backend.usage(cell).expect("usage").processes >= 1);
    // What was asked is what is in force.
    let record = backend
        .record(cell)
        .expect("a record")
        .expect("it is there");
    assert_eq!(record.in_force, Some(spec.limits), "limits are read back");

    // It is held where it is and goes on again; twice is once.
    let paused = || matches!(look(), Observed::Running { paused: true, .. });
    for pause in [true, true, false, false] {
        backend.pause(cell, pause).expect("it is held");
        assert_eq!(paused(), pause);
    }
    // What is held ends when asked, like any other.
    backend.pause(cell, true).expect("it is held");

    // It stops when asked, asking twice is asking once, and the end is explained.
    backend.stop(cell, Millis(5000)).expect("it can be asked");
    backend.stop(cell, Millis(5000)).expect("and again");
    until("exited", || matches!(look(), Observed::Exited(_)));
    let Observed::Exited(exit) = look() else {
        panic!("it exited")
    };
    assert_eq!(
        (exit.generation, exit.exit),
        (Generation(1), ExitKind::Stopped)
    );

    // Sweeping removes every trace; twice is once.
    backend.sweep(cell).expect("swept");
    backend.sweep(cell).expect("and again");
    assert_eq!(look(), Observed::Nothing);
    assert!(!backend.list().expect("a list").contains(cell));

    // The next boot is a new one.
    backend.start(spec, Generation(2)).expect("it starts again");
    until("ready again", ready);
    backend.sweep(cell).expect("a sweep ends what still runs");
    assert_eq!(look(), Observed::Nothing);
}
