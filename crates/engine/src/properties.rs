//! Properties that hold for every sequence of events, and the full table of who may do what.

use crate::budget::{Account, Room};
use crate::task::{self, Admission, Event, Phase, Refusal, Task, Wait};
use abbey_model::*;
use proptest::prelude::*;

fn agent(n: u8) -> Slug {
    format!("agent-{n}").parse().unwrap()
}

fn run(n: u64) -> RunId {
    Id::v7(n, u128::from(n))
}

fn every_phase() -> Vec<Phase> {
    let lease = task::Lease {
        token: LeaseToken(1),
        run: run(1),
        holder: agent(0),
        generation: Generation(1),
        expires_at: Timestamp(30_000),
        wall_ends_at: Timestamp(900_000),
        stood_still: Millis(0),
        waits: None,
    };
    vec![
        Phase::Pending {
            not_before: Timestamp(0),
        },
        Phase::Parked {
            reasons: vec![Wait::without_end(WaitCode::NoModel, "no".into())],
        },
        Phase::Ready {
            candidates: vec![agent(0)],
        },
        Phase::Running { lease },
        Phase::Blocked {
            on: "operator".into(),
            why: "?".into(),
        },
        Phase::AwaitingApproval {
            approval: 1,
            until: Timestamp(9),
        },
        Phase::Done {
            verified: Verified::None,
        },
        Phase::Unverified,
        Phase::Failed {
            reason: EndReason::AgentError,
            quarantined: false,
        },
        Phase::TimedOut,
        Phase::Cancelled,
    ]
}

fn every_event() -> Vec<Event> {
    let token = LeaseToken(1);
    vec![
        Event::Admit(Admission::Offer(vec![agent(0)])),
        Event::Claim {
            run: run(2),
            generation: Generation(1),
            ttl: Millis(30_000),
            wall: Millis(900_000),
        },
        Event::Renew {
            token,
            ttl: Millis(30_000),
        },
        Event::Complete {
            token,
            verified: Some(Verified::Skill),
        },
        Event::Fail {
            token,
            reason: EndReason::AgentError,
        },
        Event::Wait {
            token,
            reason: EndReason::ProviderError,
            reasons: vec![Wait::without_end(WaitCode::Provider, "no".into())],
        },
        Event::Block {
            token,
            on: "operator".into(),
            why: "?".into(),
        },
        Event::Ask {
            token,
            approval: 1,
            until: Timestamp(9),
        },
        Event::Answered { goes_on: true },
        Event::Unblock,
        Event::Edit,
        Event::HolderLost {
            token,
            by_order: false,
        },
        Event::Expire,
        Event::WallTime,
        Event::Overdue,
        Event::Cancel,
        Event::Retry,
    ]
}

/// The whole table, written out by hand: legal (state, event, principal) triples. Everything else
/// must be refused and leave the task as it was.
#[test]
fn the_transition_table_is_exactly_this() {
    use PrincipalKind::{Agent, House, Operator};
    use TaskState::{
        Blocked, Cancelled, Failed, Parked, Pending, Ready, Running, TimedOut, Unverified,
    };
    let legal: &[(&str, &[PrincipalKind], &[TaskState])] = &[
        ("admit", &[House], &[Pending, Parked, Ready]),
        ("claim", &[Agent], &[Ready]),
        ("renew", &[Agent], &[Running]),
        ("complete", &[Agent], &[Running]),
        ("fail", &[Agent], &[Running]),
        ("wait", &[Agent], &[Running]),
        ("block", &[Agent], &[Running]),
        ("ask", &[Agent], &[Running]),
        (
            "answered",
            &[Operator, House],
            &[TaskState::AwaitingApproval],
        ),
        ("unblock", &[Operator], &[Blocked]),
        ("edit", &[Operator, House], &[Pending, Parked, Ready]),
        ("holder_lost", &[House], &[Running]),
        ("expire", &[House], &[Running]),
        ("wall_time", &[House], &[Running]),
        (
            "overdue",
            &[House],
            &[
                Pending,
                Parked,
                Ready,
                Running,
                Blocked,
                TaskState::AwaitingApproval,
            ],
        ),
        (
            "cancel",
            &[Operator, Agent, House],
            &[
                Pending,
                Parked,
                Ready,
                Running,
                Blocked,
                TaskState::AwaitingApproval,
            ],
        ),
        (
            "retry",
            &[Operator],
            &[Failed, TimedOut, Cancelled, Unverified],
        ),
    ];
    let principals = [
        Principal::Operator,
        Principal::Agent(agent(0)),
        Principal::House,
    ];
    let mut checked = 0;
    for phase in every_phase() {
        for event in every_event() {
            for who in &principals {
                let before = Task {
                    phase: phase.clone(),
                    token: LeaseToken(1),
                    attempts: 1,
                    author: Principal::Agent(agent(0)),
                };
                // Sweeps are due only after the lease and the wall time; everything else before.
                let now = match event {
                    Event::Expire | Event::WallTime => Timestamp(1_000_000),
                    _ => Timestamp(10),
                };
                let (_, by, from) = legal
                    .iter()
                    .find(|(name, ..)| *name == event.name())
                    .unwrap();
                let expected = by.contains(&who.kind()) && from.contains(&phase.state());
                let outcome = task::step(&before, &event, who, now);
                assert_eq!(
                    outcome.is_ok(),
                    expected,
                    "{} by {who} in {}: {outcome:?}",
                    event.name(),
                    phase.state()
                );
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 11 * 17 * 3);
}

#[test]
fn a_refusal_names_the_holder_of_the_lease() {
    let ready = Task {
        phase: Phase::Ready {
            candidates: vec![agent(0), agent(1)],
        },
        token: LeaseToken(0),
        attempts: 0,
        author: Principal::Operator,
    };
    let claim = |n| Event::Claim {
        run: run(n),
        generation: Generation(1),
        ttl: Millis(100),
        wall: Millis(1000),
    };
    let won = task::step(&ready, &claim(1), &Principal::Agent(agent(0)), Timestamp(0))
        .unwrap()
        .task;
    let lost = task::step(&won, &claim(2), &Principal::Agent(agent(1)), Timestamp(1));
    assert_eq!(
        lost,
        Err(Refusal::Held {
            holder: agent(0),
            until: Timestamp(100)
        })
    );
}

#[test]
fn a_late_holder_cannot_write_even_before_the_sweep() {
    let ready = Task {
        phase: Phase::Ready {
            candidates: vec![agent(0)],
        },
        token: LeaseToken(0),
        attempts: 0,
        author: Principal::Operator,
    };
    let me = Principal::Agent(agent(0));
    let claim = Event::Claim {
        run: run(1),
        generation: Generation(1),
        ttl: Millis(100),
        wall: Millis(1000),
    };
    let held = task::step(&ready, &claim, &me, Timestamp(0)).unwrap().task;
    let done = Event::Complete {
        token: LeaseToken(1),
        verified: Some(Verified::Skill),
    };
    assert!(task::step(&held, &done, &me, Timestamp(99)).is_ok());
    assert_eq!(
        task::step(&held, &done, &me, Timestamp(100)),
        Err(Refusal::LeaseOver { late_ms: 0 })
    );
    let swept = task::step(&held, &Event::Expire, &Principal::House, Timestamp(100))
        .unwrap()
        .task;
    assert_eq!(
        task::step(&swept, &done, &me, Timestamp(101)),
        Err(Refusal::Fenced {
            given: 1,
            current: 1
        })
    );
}

#[derive(Debug, Clone)]
enum Op {
    Claim(u8),
    Complete(u8, u64),
    Fail(u8, u64),
    Wait(u8, u64),
    Renew(u8, u64),
    Expire,
    Lost(u64, bool),
    Admit,
    Cancel,
    Retry,
    Pass(i64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0u8..3).prop_map(Op::Claim),
        (0u8..3, 0u64..6).prop_map(|(a, t)| Op::Complete(a, t)),
        (0u8..3, 0u64..6).prop_map(|(a, t)| Op::Fail(a, t)),
        (0u8..3, 0u64..6).prop_map(|(a, t)| Op::Wait(a, t)),
        (0u8..3, 0u64..6).prop_map(|(a, t)| Op::Renew(a, t)),
        Just(Op::Expire),
        (0u64..6, any::<bool>()).prop_map(|(t, by_order)| Op::Lost(t, by_order)),
        Just(Op::Admit),
        Just(Op::Cancel),
        Just(Op::Retry),
        // Time may stand still but never goes back: the store's clock sees to that.
        (0i64..200).prop_map(Op::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tokens_only_grow_and_only_the_live_holder_writes(ops in prop::collection::vec(op(), 1..60)) {
        let everyone = vec![agent(0), agent(1), agent(2)];
        let mut now = Timestamp(0);
        let mut runs = 0u64;
        let mut task = Task { phase: Phase::Pending { not_before: now }, token: LeaseToken(0), attempts: 0, author: Principal::Operator };
        let mut open: Option<RunId> = None;
        for op in ops {
            let (event, who) = match op {
                Op::Pass(ms) => { now = now + Millis(ms); continue; }
                Op::Claim(a) => {
                    runs += 1;
                    (Event::Claim { run: run(runs), generation: Generation(1), ttl: Millis(100), wall: Millis(400) }, Principal::Agent(agent(a)))
                }
                Op::Complete(a, t) => (Event::Complete { token: LeaseToken(t), verified: Some(Verified::None) }, Principal::Agent(agent(a))),
                Op::Fail(a, t) => (Event::Fail { token: LeaseToken(t), reason: EndReason::ProviderError }, Principal::Agent(agent(a))),
                Op::Wait(a, t) => {
                    let reasons = vec![Wait::without_end(WaitCode::Budget, "no".into())];
                    (Event::Wait { token: LeaseToken(t), reason: EndReason::BudgetExhausted, reasons }, Principal::Agent(agent(a)))
                }
                Op::Renew(a, t) => (Event::Renew { token: LeaseToken(t), ttl: Millis(100) }, Principal::Agent(agent(a))),
                Op::Expire => (Event::Expire, Principal::House),
                Op::Lost(t, by_order) => (Event::HolderLost { token: LeaseToken(t), by_order }, Principal::House),
                Op::Admit => (Event::Admit(Admission::Offer(everyone.clone())), Principal::House),
                Op::Cancel => (Event::Cancel, Principal::Operator),
                Op::Retry => (Event::Retry, Principal::Operator),
            };
            let before = task.clone();
            if let Ok(step) = task::step(&task, &event, &who, now) {
                prop_assert!(step.task.token >= before.token);
                if let Some(end) = step.ends {
                    // A run ends once, and it is the one that was open.
                    prop_assert_eq!(open.take(), Some(end.run));
                }
                if let Some(begun) = step.begins {
                    prop_assert_eq!(open.replace(begun), None);
                }
                if matches!(event, Event::Wait { .. } | Event::HolderLost { by_order: true, .. }) {
                    prop_assert_eq!(step.task.attempts + 1, before.attempts, "waiting costs no attempt");
                    prop_assert!(!step.task.phase.state().is_terminal());
                }
                if matches!(event, Event::Complete { .. } | Event::Fail { .. } | Event::Wait { .. } | Event::Renew { .. }) {
                    let lease = before.phase.lease().expect("only a held task takes a holder's write");
                    prop_assert!(now < lease.expires_at);
                    prop_assert_eq!(who.agent(), Some(&lease.holder));
                }
                task = step.task;
            }
            prop_assert_eq!(task.phase.lease().is_some(), open.is_some());
            prop_assert!(task.phase.lease().is_none_or(|l| l.token == task.token));
        }
    }

    #[test]
    fn reservations_never_pass_the_limit_and_return_to_zero(
        limit in 0u64..1000,
        ops in prop::collection::vec((any::<bool>(), 0u64..400, 0u64..500), 1..80),
    ) {
        let mut account = Account {
            scope: Scope::House, metric: Metric::Tokens, window: Window::Total, limit: Some(limit),
            warn_percent: 80, spent: 0, reserved: 0, period_start: Timestamp(0), resets_at: None,
        };
        let mut open: Vec<u64> = Vec::new();
        let mut settled = 0u64;
        for (reserve, amount, actual) in ops {
            if reserve {
                let fits = account.spent + account.reserved + amount <= limit;
                let room = account.room_for(amount);
                prop_assert_eq!(room == Room::Now, fits);
                // What can never fit does not fit when nothing is reserved; everything else does then.
                let alone = account.spent + amount <= limit;
                prop_assert_eq!(room == Room::Never, !alone);
                prop_assert_eq!(account.wait_for(amount).is_none(), fits);
                prop_assert_eq!(account.reserve(amount).is_ok(), fits);
                if fits { open.push(amount); }
            } else if let Some(held) = open.pop() {
                account.settle(held, actual);
                settled += actual;
            }
            prop_assert_eq!(account.reserved, open.iter().sum::<u64>());
            prop_assert_eq!(account.spent, settled);
        }
        for held in open { account.settle(held, 0); }
        prop_assert_eq!(account.reserved, 0);
    }
}
