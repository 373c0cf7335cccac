//! The conformance suite on the fake backend; the real one runs it beside the binary.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test tells by failing, and by what it prints"
)]

use abbey_cells::{CellProgram, CellSpec};
use abbey_model::{CellKind, CellName, Limits};
use abbey_testkit::{conformance, fake::FakeBackend};
use std::path::PathBuf;

#[test]
fn a_fake_cell_with_its_own_uid_no_network_and_only_the_houses_socket_conforms() {
    let spec = CellSpec {
        cell: CellName::Agent("a".parse().unwrap()),
        kind: CellKind::Sandbox,
        digest: "d".into(),
        program: CellProgram::Own,
        argv: vec!["abbey".into()],
        env: Vec::new(),
        cwd: PathBuf::from("/"),
        uid: Some(700_000),
        limits: Limits::default(),
        waived: Default::default(),
        sandbox: None,
        microvm: None,
        container: None,
        network: None,
        forwards: Vec::new(),
        terminal: false,
        ready_within: None,
        run_dir: PathBuf::from("/nonexistent"),
        log_dir: PathBuf::from("/nonexistent"),
        group: "g".into(),
        secrets: Vec::new(),
        asks_root: false,
    };
    conformance::run_conformance_suite(&FakeBackend::default(), &spec);
}
