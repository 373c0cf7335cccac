//! Random walks over manifests on the fake backend, with crashes of the control plane at any await point.

use crate::api_server::plans;
use crate::boot::control_plane::{ControlPlane, ControlPlaneParts, open_control_plane};
use crate::cells::provision::{planned_allocation, provision_plan};
use crate::cells::reconciler::reconcile_all_cells;
use crate::core::home::{Home, list_slug_dirs};
use crate::core::manual_timers::{ManualClock, ManualTimers};
use crate::core::runtime::{Runtime, System, Timers};
use crate::planning::apply::plan_without_applying;
use abbey_api::{ManifestBody, PlanSeverity, PlanStep};
use abbey_cells::Backend;
use abbey_cells::hostd::{Allocation, HostdApi, HostdOperation, HostdReply};
use abbey_model::{CellName, ExitKind, Observed, Principal, Slug, Timestamp};
use abbey_store::Clock;
use abbey_testkit::fake::FakeBackend;
use abbey_testkit::fleet::{Change, Fleet};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::Duration;

const START: i64 = 1_800_000_000_000;
/// Longest backoff of a cell, and then some.
const AN_HOUR: Duration = Duration::from_secs(3600);

/// One step of a walk: a change, perhaps a second one, what breaks, and after how many polls.
type Step = (Change, Option<Change>, u8, u8);

/// What outlives a crash of the control plane.
struct World {
    dir: PathBuf,
    backend: Arc<FakeBackend>,
    clock: Arc<ManualClock>,
}

/// hostd of an ordinary user who may do what root may: nothing here touches the host's networks or mounts.
#[derive(Debug)]
struct CapableHostd(Arc<dyn HostdApi>);

impl HostdApi for CapableHostd {
    fn call(
        &self,
        operation: HostdOperation,
        fds: &[BorrowedFd<'_>],
    ) -> abbey_cells::Result<HostdReply> {
        match operation {
            HostdOperation::Observe { .. } => Ok(HostdReply::Host {
                facts: Box::default(),
            }),
            other => self.0.call(other, fds),
        }
    }
}

/// One life of the control plane. Its blocking work has ended when this was dropped.
struct Life {
    tokio: tokio::runtime::Runtime,
    timers: Arc<ManualTimers>,
    plane: Arc<ControlPlane>,
}

impl World {
    fn live(&self) -> Life {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let timers = Arc::new(ManualTimers::new());
        let rt = Runtime::new(Arc::clone(&timers) as Arc<dyn Timers>, Arc::new(System));
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let backend = Arc::clone(&self.backend) as Arc<dyn Backend>;
        let plane = tokio.block_on(async {
            let home = Home::new(self.dir.join("h"));
            home.create_directories().unwrap();
            let hostd = Arc::new(CapableHostd(home.inline_helper()));
            let parts = ControlPlaneParts {
                backend,
                rt,
                ..ControlPlaneParts::for_host(&home, hostd, clock)
            };
            let plane = open_control_plane(&home, parts).await.unwrap();
            provision_plan(&plane.cells).await.unwrap();
            plane
        });
        Life {
            tokio,
            timers,
            plane,
        }
    }

    fn advance(&self, life: &Life, time: Duration) {
        let ms = i64::try_from(time.as_millis()).unwrap();
        let before = self.clock.0.fetch_add(ms, Ordering::SeqCst);
        self.backend.set_time(Timestamp(before + ms));
        life.timers.advance(time);
    }
}

fn slug(name: &str) -> Slug {
    name.parse().unwrap()
}

fn body(manifest: &str, renamed: Option<(&str, &str)>) -> ManifestBody {
    ManifestBody {
        render: None,
        manifest: manifest.to_owned(),
        base_dir: "/".to_owned(),
        charters: BTreeMap::new(),
        reason: None,
        environment: BTreeMap::new(),
        consent: Vec::new(),
        renamed: renamed
            .into_iter()
            .map(|(o, n)| (o.to_owned(), n.to_owned()))
            .collect(),
        first_files: BTreeMap::new(),
    }
}

impl Life {
    /// Whether the plan of a manifest is refused.
    async fn refuses(&self, body: ManifestBody) -> bool {
        let planned = plan_without_applying(&self.plane.work, body, None, None);
        let notes = planned.await.unwrap().notes;
        notes.iter().any(|n| n.severity == PlanSeverity::Fatal)
    }

    /// Applies a manifest with consent to everything that its plan removes. A plan that is not refused is applied.
    async fn apply(&self, mut body: ManifestBody) {
        let doc = plan_without_applying(&self.plane.work, body.clone(), None, None)
            .await
            .unwrap();
        body.consent = doc.steps.iter().map(PlanStep::subject).collect();
        plans::apply_manifest(&self.plane.api, body, None, Principal::Operator)
            .await
            .unwrap();
    }

    /// As [`Life::apply`], and the control plane crashes at the await point that comes after this many.
    fn crash_while_applying(self, body: ManifestBody, polls: u8) {
        let mut left = polls;
        self.tokio.block_on(async {
            let mut applying = pin!(self.apply(body));
            std::future::poll_fn(|context| {
                if applying.as_mut().poll(context).is_ready() || left == 0 {
                    return Poll::Ready(());
                }
                left -= 1;
                Poll::Pending
            })
            .await;
        });
    }

    /// Passes of the reconciler until every cell of the plan runs and no other exists.
    fn settle(&self, world: &World) {
        let mut histories = BTreeMap::new();
        for _ in 0..20 {
            let pause = self
                .tokio
                .block_on(reconcile_all_cells(&self.plane.cells, &mut histories));
            if pause.unwrap() >= Duration::from_secs(30) && self.running(world) == self.planned() {
                return;
            }
            world.advance(self, AN_HOUR);
        }
    }

    fn running(&self, world: &World) -> BTreeSet<CellName> {
        let cells = world.backend.list().unwrap().into_iter();
        cells
            .filter(|c| matches!(world.backend.observe(c), Ok(Observed::Running { .. })))
            .collect()
    }

    fn planned(&self) -> BTreeSet<CellName> {
        let house = &self.plane.core.plan.current().unwrap().house;
        let agents = house.agents.keys().cloned().map(CellName::Agent);
        let services = house.services.keys().cloned().map(CellName::Service);
        agents.chain(services).collect()
    }

    /// Fails unless the house has what the fleet says, and nothing else.
    fn require(&self, world: &World, fleet: &Fleet, manifest: &str) {
        let agent = |n: &&str| CellName::Agent(slug(n));
        let agents: BTreeSet<_> = fleet.agents.keys().map(agent).collect();
        let enabled = fleet.services.iter().filter(|(_, s)| s.enabled);
        let services = enabled.map(|(n, _)| CellName::Service(slug(n)));
        let wanted: BTreeSet<_> = agents.iter().cloned().chain(services).collect();
        assert_eq!(self.planned(), wanted, "{manifest}");
        let found: BTreeSet<_> = world.backend.list().unwrap().into_iter().collect();
        let seen = self.plane.cells.observations.snapshot();
        let missing: Vec<_> = wanted.difference(&found).map(|c| seen.get(c)).collect();
        assert_eq!(found, wanted, "{missing:?}: {manifest}");
        assert_eq!(self.running(world), wanted, "{manifest}");

        let plane = &self.plane;
        let current = plane.core.plan.current().unwrap();
        let mut claimed = BTreeSet::new();
        for (owner, has) in plane.core.hostd.owners().unwrap() {
            let planned = match wanted.contains(&owner) {
                true => planned_allocation(&current.house, &current.registry, &owner),
                false => Allocation::default(),
            };
            // The user and the files of a service that is away wait for it.
            let of_service = matches!(owner, CellName::Service(_));
            let uid = if of_service { has.uid } else { planned.uid };
            assert_eq!(has, Allocation { uid, ..planned }, "{owner}: {manifest}");
            assert!(of_service || agents.contains(&owner), "{owner}: {manifest}");
            let unique = [
                has.uid.map(|u| format!("uid {u}")),
                has.subnet.map(|s| format!("subnet {s:?}")),
                // In a network of its own it may be that of another, too.
                has.port
                    .filter(|_| has.subnet.is_none())
                    .map(|p| format!("port {p}")),
            ];
            for one in unique.into_iter().flatten() {
                assert!(claimed.insert(one.clone()), "{one} twice: {manifest}");
            }
        }
        let on_disk = list_slug_dirs(&plane.core.home.root().join("agents")).unwrap();
        let on_disk: BTreeSet<_> = on_disk.into_iter().map(CellName::Agent).collect();
        assert_eq!(on_disk, agents, "{manifest}");

        self.tokio.block_on(async {
            let store = &plane.core.store;
            assert!(store.open_sagas().await.unwrap().is_empty(), "{manifest}");
            assert!(
                store.pending_renames().await.unwrap().is_empty(),
                "{manifest}"
            );
            let valid = store.tokens().await.unwrap().into_iter();
            let holders: BTreeSet<_> = valid
                .filter(|t| t.expires_at.is_none())
                .filter_map(|t| match t.principal {
                    Principal::Agent(slug) => Some(CellName::Agent(slug)),
                    _ => None,
                })
                .collect();
            assert_eq!(holders, agents, "{manifest}");
            let again = plan_without_applying(&plane.work, body(manifest, None), None, None);
            let steps = again.await.unwrap().steps;
            assert!(steps.is_empty(), "{steps:?}: {manifest}");
        });
    }
}

fn manifest_of(fleet: &Fleet) -> String {
    format!(
        "version: 1\nlisten: {{ address: 127.0.0.1:0 }}\ndefaults: {{ waive: [limits] }}\n{}",
        fleet.manifest("[python3, server.py, \"{port}\"]")
    )
}

fn walk(steps: &[Step]) {
    let dir = tempfile::tempdir_in(memory()).unwrap();
    let world = World {
        dir: dir.path().to_owned(),
        backend: Arc::new(FakeBackend::default()),
        clock: Arc::new(ManualClock(AtomicI64::new(START))),
    };
    world.backend.set_time(Timestamp(START));
    let mut fleet = Fleet::new(18_800);
    let mut life = world.live();
    life.tokio
        .block_on(life.apply(body(&manifest_of(&fleet), None)));
    life.settle(&world);
    for (first, second, what, polls) in steps {
        let before = fleet.clone();
        let renamed = fleet.change(*first).filter(|_| second.is_none());
        second.and_then(|c| fleet.change(c));
        fleet.keep_drives_of(&before);
        let asked = body(
            &manifest_of(&fleet),
            renamed.filter(|_| polls.is_multiple_of(2)),
        );
        // Services that are to have one port: the house stays as it is.
        if life.tokio.block_on(life.refuses(asked)) {
            fleet = before;
            continue;
        }
        let manifest = manifest_of(&fleet);
        world.advance(&life, Duration::from_secs(1));
        // Every other new name is a rename, the others put one agent in the place of another.
        let body = body(&manifest, renamed.filter(|_| polls % 2 == 0));
        let cells = world.backend.list().unwrap();
        let cell = cells.get(usize::from(*polls) % cells.len().max(1));
        match (what % 6, cell) {
            (0, _) => {
                life.crash_while_applying(body.clone(), *polls);
                life = world.live();
            }
            (1, Some(cell)) => world.backend.crash(cell, ExitKind::Code { code: 1 }),
            (2, Some(cell)) => world.backend.orphan(cell),
            (3, _) => {
                drop(life);
                life = world.live();
            }
            (4, _) => world.backend.fail_starts(true),
            _ => {}
        }
        let already = life.plane.core.plan.current().is_some_and(|p| {
            renamed.is_some_and(|(_, new)| p.house.agents.contains_key(&slug(new)))
        });
        let body = ManifestBody {
            renamed: if already {
                BTreeMap::new()
            } else {
                body.renamed
            },
            ..body
        };
        life.tokio.block_on(life.apply(body));
        if what % 6 == 4 {
            life.settle(&world);
            world.backend.fail_starts(false);
        }
        life.settle(&world);
        life.require(&world, &fleet, &manifest);
    }
}

/// Directory of a file system in memory, if the host has one: nothing here tests durability.
fn memory() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() {
        shm
    } else {
        std::env::temp_dir()
    }
}

/// Walks of twelve manifests, each from a seed.
fn walk_seeds(seeds: RangeInclusive<u16>) {
    let change = || (any::<u8>(), any::<u8>(), any::<u8>());
    let second = proptest::option::weighted(0.25, change());
    let step = (change(), second, any::<u8>(), any::<u8>());
    let steps = proptest::collection::vec(step, 12);
    for seed in seeds {
        println!("seed {seed}");
        let [low, high] = seed.to_le_bytes();
        let mut bytes = [high; 32];
        bytes[0] = low;
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        walk(&steps.new_tree(&mut runner).unwrap().current());
    }
}

#[test]
fn any_manifest_is_reached_from_any_other_by_the_first_quarter_of_500_walks() {
    walk_seeds(1..=125);
}

#[test]
fn any_manifest_is_reached_from_any_other_by_the_second_quarter_of_500_walks() {
    walk_seeds(126..=250);
}

#[test]
fn any_manifest_is_reached_from_any_other_by_the_third_quarter_of_500_walks() {
    walk_seeds(251..=375);
}

#[test]
fn any_manifest_is_reached_from_any_other_by_the_last_quarter_of_500_walks() {
    walk_seeds(376..=500);
}
