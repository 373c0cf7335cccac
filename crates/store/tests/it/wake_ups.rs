//! Commits wake who waits: whatever an operation does, a task that can be claimed because of it is published under
//! `Work`, and a deadline that is nearer because of it under `Deadlines`.

use crate::support::{Bench, Done, claim, intake, new_task, outcome, slug, sqlite};
use abbey_engine::approval::Verdict;
use abbey_model::*;
use abbey_store::*;
use std::collections::BTreeSet;

/// Numbers from a seed (xorshift), so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

const AGENTS: [&str; 2] = ["agent-a", "agent-b"];

/// One random operation; most are refused, many change nothing.
fn operate(bench: &Bench, numbers: &mut Numbers) {
    let agent = AGENTS[numbers.below(2) as usize];
    let task = TaskRef::Number(1 + numbers.below(6));
    let token = numbers.below(3);
    let store = bench.store();
    let proof = || bench.proof(agent, token);
    let asked = || ApprovalRequest {
        task,
        agent: slug(agent),
        token: LeaseToken(token),
        action: "x".into(),
        args: serde_json::json!({}),
        why: "y".into(),
        within: Millis(5_000),
        silence: Verdict::Approve,
    };
    let edit = || TaskEdit {
        text: "other".into(),
        priority: Priority::P0,
        assignee: Some(slug(agent)),
        intake: intake(&[agent]),
    };
    let within = DelegationRequest {
        within: Some(Millis(1 + numbers.below(40_000) as i64)),
        ..DelegationRequest::default()
    };
    match numbers.below(18) {
        0 => drop(store.add_task(new_task(agent, "x")).wait()),
        1 => {
            let delegated = Some(within);
            let new = NewTask {
                delegated,
                ..new_task(agent, "x")
            };
            drop(store.add_task(new).wait());
        }
        2 => {
            let new = NewTask {
                assignee: None,
                intake: intake(&[]),
                ..new_task(agent, "x")
            };
            drop(store.add_task(new).wait());
        }
        3..=5 => drop(store.claim(claim(&task, agent)).wait()),
        6 => drop(store.admit_task(task, intake(&AGENTS)).wait()),
        7 => drop(store.admit_task(task, intake(&[])).wait()),
        8 => drop(store.renew(task, proof(), RunFacts::default()).wait()),
        9 => {
            let result = (outcome(serde_json::Value::Null), EvidenceCheck::NotRun);
            drop(
                store
                    .complete(task, proof(), result, RunFacts::default())
                    .wait(),
            );
        }
        10 => {
            let failure = Failure {
                reason: EndReason::CellLost,
                text: "z".into(),
            };
            drop(
                store
                    .fail(task, proof(), failure, RunFacts::default())
                    .wait(),
            );
        }
        11 => drop(store.ask_approval(asked()).wait()),
        12 => {
            let number = 1 + numbers.below(3);
            drop(
                store
                    .decide_approval(number, Verdict::Approve, None, Principal::Operator)
                    .wait(),
            );
        }
        13 => drop(store.edit_task(task, edit(), Principal::Operator).wait()),
        14 => drop(store.retry_task(task, Principal::Operator).wait()),
        15 => drop(store.revoke_leases(slug(agent), None, false).wait()),
        16 => drop(store.cancel_task(task, Principal::Operator).wait()),
        _ => drop(store.expire_deadlines().wait()),
    }
}

/// Every pair of a task and an agent that may claim it.
fn claimable(bench: &Bench) -> BTreeSet<(u64, &'static str)> {
    let offers = |agent| {
        let offers = bench.store().offers(slug(agent), 100).done();
        offers.into_iter().map(move |t| (t.number, agent))
    };
    AGENTS.into_iter().flat_map(offers).collect()
}

#[test]
fn claimable_tasks_and_nearer_deadlines_wake_their_subscribers() {
    let (mut offered, mut nearer) = (0, 0);
    for seed in 1..=12 {
        let bench = sqlite();
        let mut numbers = Numbers(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15));
        let work = bench.store().subscribe(Topic::Work);
        let deadlines = bench.store().subscribe(Topic::Deadlines);
        for step in 0..120 {
            let before = (claimable(&bench), bench.store().next_deadline().done());
            let versions = (*work.borrow(), *deadlines.borrow());
            operate(&bench, &mut numbers);
            let after = (claimable(&bench), bench.store().next_deadline().done());
            if after.0.difference(&before.0).next().is_some() {
                offered += 1;
                assert!(
                    *work.borrow() > versions.0,
                    "seed {seed}, step {step}: no wake-up for work"
                );
            }
            let is_nearer = match (before.1, after.1) {
                (Some(before), Some(after)) => after < before,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if is_nearer {
                nearer += 1;
                assert!(
                    *deadlines.borrow() > versions.1,
                    "seed {seed}, step {step}: no wake-up for deadlines"
                );
            }
            bench.clock.advance(numbers.below(4_000) as i64);
        }
    }
    // The steps did reach what this test is about.
    assert!(
        offered > 100 && nearer > 25,
        "{offered} offers, {nearer} nearer deadlines"
    );
}

#[test]
fn each_change_is_published_under_its_topic() {
    let bench = sqlite();
    let all = Topic::ALL.map(|topic| (topic, bench.store().subscribe(topic)));
    let versions = || all.each_ref().map(|(_, s)| *s.borrow());
    let published = |operation: &dyn Fn()| -> Vec<Topic> {
        let before = versions();
        operation();
        let after = versions();
        let changed = (0..all.len()).filter(|n| after[*n] > before[*n]);
        changed
            .map(|n| all[n].0)
            .filter(|t| *t != Topic::Audit)
            .collect()
    };
    let store = bench.store();
    let cell = CellName::Agent(slug("agent-a"));
    let up = || CellChange {
        desired: Some((DesiredState::Up, None)),
        ..CellChange::default()
    };
    assert_eq!(
        published(&|| store.set_cell(cell.clone(), up()).done()),
        [Topic::Cells]
    );
    assert_eq!(
        published(&|| store.set_cell(cell.clone(), up()).done()),
        [],
        "no change"
    );
    let document = || NewDocumentVersion {
        name: slug("plan"),
        text: "x".into(),
        author: Principal::Operator,
        based_on: None,
        key: None,
    };
    let write = || drop(store.write_document(document()).done());
    assert_eq!(published(&write), [Topic::Documents]);
    let register = || store.register_schedule("a/b".into(), "d".into()).done();
    assert_eq!(published(&register), [Topic::Schedules]);
    assert_eq!(published(&register), [], "no change");
    let (task, claimed) = bench.claimed("agent-a");
    let asked = ApprovalRequest {
        task,
        agent: slug("agent-a"),
        token: claimed.lease.token,
        action: "x".into(),
        args: serde_json::json!({}),
        why: "y".into(),
        within: Millis(5_000),
        silence: Verdict::Deny,
    };
    let ask = || drop(store.ask_approval(asked.clone()).done());
    assert_eq!(
        published(&ask),
        [Topic::Work, Topic::Deadlines, Topic::Approvals]
    );
    let (task, claimed) = bench.claimed("agent-a");
    let renew = || drop(bench.renew(&task, "agent-a", claimed.lease.token.0));
    assert_eq!(published(&renew), [], "a heartbeat wakes nobody");
}
