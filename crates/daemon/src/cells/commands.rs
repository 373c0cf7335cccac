//! `abbey run`: runs one command in a new cell that is removed with it.
//!
//! The command's resources (a user, files, a subnet if it needs direct network access) are
//! allocated from the upper end of the house's ranges, so that they don't collide with those of a
//! plan, and are released when it has ended for any reason.

use crate::cells::command_request::CommandRequest;
use crate::cells::command_run::{CommandRun, sweep_and_discard};
use crate::cells::command_table::CommandGrant;
use crate::cells::state::CellsState;
use crate::cells::vm_shapes::{VmShape, VmSource};
use crate::core::error::{Error, Result};
use crate::core::hostd;
use crate::core::runtime::Runtime;
use abbey_api::{CommandBody, Problem};
use abbey_cells::hostd::HostdOperation;
use abbey_cells::microvm::BootOrigin;
use abbey_model::{
    CellKind, CellName, Egress, FaultKind, Generation, Limits, Millis, Principal, Slug, Subnet,
};
use axum::body::Body;
use axum::response::Response;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Most commands at once.
const COMMANDS_MAX: usize = 64;
/// Longest boot of a microVM without a command.
const WAITS_WITHIN: Millis = Millis::from_secs(180);
/// An error of kind `Internal` with this explanation.
pub(crate) fn internal_error(why: impl Into<String>) -> Error {
    Problem::new(FaultKind::Internal, why).into()
}

/// Runs a command in a new cell, and streams its output as JSON Lines; the last line has its exit
/// code.
///
/// # Errors
/// If the request is invalid or the cell cannot be started.
pub(crate) async fn run_command(
    cells: &Arc<CellsState>,
    body: CommandBody,
    by: Principal,
) -> Result<Response> {
    let mut wanted = CommandRequest::parse(body, by)?;
    if let Some(current) = cells.core.plan.current() {
        wanted.waived.extend(current.house.waived_by_default());
    }
    let mut source = match wanted.vm_shape() {
        Some(shape) => cells.pool.take_for_command(&shape, cells.core.rt.now()),
        None => VmSource::Cold,
    };
    let waiting = match &source {
        VmSource::Warm { slug, .. } => {
            let lease = cells.commands.assign_waiting_vm(slug, &wanted.egress);
            lease.map(|lease| {
                let egress = wanted.egress.clone();
                cells.net.command_egress.set(slug.clone(), egress);
                (slug.clone(), lease)
            })
        }
        VmSource::Template(_) | VmSource::Cold => None,
    };
    let (slug, lease) = match waiting {
        Some(taken) => taken,
        None => {
            if matches!(source, VmSource::Warm { .. }) {
                source = VmSource::Cold;
            }
            let slug = random_command_name(&cells.core.rt)?;
            let lease = reserve_grant(cells, &slug, &wanted).await?;
            (slug, lease)
        }
    };
    let running = CommandRun::new(cells, slug, source);
    let (lines, stream) = mpsc::channel(64);
    let (ready, begun) = oneshot::channel();
    // A task of its own, so that the cell is removed even if the caller disconnects.
    drop(
        cells
            .core
            .rt
            .spawn(running.run_to_end(lease, wanted, lines, ready)),
    );
    let task_ended = |_| {
        Problem::new(
            FaultKind::Internal,
            "the task that runs the command ended unexpectedly; see the log of the control plane",
        )
    };
    begun.await.map_err(task_ended)??;
    let stream = futures_util::stream::unfold(stream, async |mut s| s.recv().await.map(|l| (l, s)));
    Ok(Response::builder()
        .header("content-type", "application/jsonl")
        .body(Body::from_stream(stream))
        .unwrap_or_default())
}

/// A random name for a command, such as `r3f2a9c1d`.
fn random_command_name(rt: &Runtime) -> Result<Slug> {
    let mut random = [0u8; 4];
    rt.fill_random(&mut random)?;
    let name = format!("r{:08x}", u32::from_be_bytes(random));
    name.parse()
        .map_err(|_| internal_error("could not generate a name for the command"))
}

/// Starts a microVM that waits for a command or serves as a template, and returns its name.
pub(crate) async fn start_vm_without_command(
    cells: &Arc<CellsState>,
    shape: &VmShape,
    origin: BootOrigin,
) -> Result<Slug> {
    let wanted = CommandRequest {
        argv: Vec::new(),
        cell: CellKind::Microvm,
        image: shape.image.clone(),
        limits: Limits {
            memory: shape.memory,
            cpu_milli: shape.cpu_milli,
            ..Limits::default()
        },
        egress: Egress::None,
        profile: abbey_model::Profile::default(),
        waived: BTreeSet::new(),
        timeout: None,
        stdin: Vec::new(),
        files: None,
        take: Vec::new(),
        requested_by: Principal::House,
    };
    let slug = random_command_name(&cells.core.rt)?;
    let lease = reserve_grant(cells, &slug, &wanted).await?;
    let running = CommandRun::new(cells, slug.clone(), VmSource::Cold);
    let started = async {
        running.claim_resources(&lease).await?;
        let mut spec = running.build_spec(&lease, &wanted);
        spec.ready_within = Some(WAITS_WITHIN);
        if let Some(microvm) = &mut spec.microvm {
            microvm.origin = origin;
        }
        let (spec, generation) = (Box::new(spec), Generation(1));
        hostd::run_operation(
            &cells.core.hostd,
            HostdOperation::Start { generation, spec },
        )
        .await
    };
    match started.await {
        Ok(()) => Ok(slug),
        Err(error) => {
            running.release_everything().await;
            Err(error)
        }
    }
}

/// Stops a pooled microVM and releases its resources.
pub(crate) async fn discard_vm(cells: &Arc<CellsState>, slug: &Slug) {
    CommandRun::new(cells, slug.clone(), VmSource::Cold)
        .release_everything()
        .await;
}

/// Reserves an entry in the command table with a user and a subnet that no other command has.
///
/// # Errors
/// If the limit of commands is reached or no subnet is free.
async fn reserve_grant(
    cells: &Arc<CellsState>,
    slug: &Slug,
    wanted: &CommandRequest,
) -> Result<CommandGrant> {
    let hostd = Arc::clone(&cells.core.hostd);
    let network = wanted.needs_network() && wanted.cell.isolates();
    let (hello, unusable) = hostd::call_blocking(move || {
        let unusable = match network {
            true => hostd.observe_host()?.no_network,
            false => None,
        };
        Ok((hostd.hello()?, unusable))
    })
    .await?;
    let current = cells.core.plan.current();
    let mut leases = cells.commands.lock_grants();
    if leases.len() >= COMMANDS_MAX {
        let text = format!("{COMMANDS_MAX} commands are already running; wait until one has ended");
        return Err(Problem::new(FaultKind::Limit, text).into());
    }
    let uids: BTreeSet<u32> = leases.values().filter_map(|l| l.uid).collect();
    let last = hello.uid_first + 0xffff;
    let uid = hello
        .privileged
        .then(|| (hello.uid_first..=last).rev().find(|u| !uids.contains(u)))
        .flatten();
    let mut subnet = None;
    if network && unusable.is_none() {
        let taken: BTreeSet<Subnet> = leases.values().filter_map(|l| l.subnet).collect();
        let held = |s: &Subnet| {
            let rows = current.iter().flat_map(|c| c.registry.rows());
            rows.filter_map(|r| r.value.parse::<Subnet>().ok())
                .any(|r| r.overlaps(*s))
        };
        let pool = current.as_ref().map(|c| c.house.network.clone());
        let all = pool.into_iter().flat_map(|n| n.subnets_from_the_end());
        subnet = all.take(1024).find(|s| !taken.contains(s) && !held(s));
        if subnet.is_none() {
            return Err(Problem::new(FaultKind::Limit, "no subnet is free for the command; wait until another command has ended, or enlarge `network.pool`").into());
        }
    }
    let lease = CommandGrant {
        uid,
        subnet,
        egress: wanted.egress.clone(),
    };
    let egress = wanted.egress.clone();
    cells.net.command_egress.set(slug.clone(), egress);
    leases.insert(slug.clone(), lease.clone());
    Ok(lease)
}

/// Removes cells and files of commands that a crashed control plane left behind.
pub(crate) async fn discard_leftover_commands(
    cells: &CellsState,
    owners: &[CellName],
) -> Result<()> {
    let on_disk = crate::core::home::list_slug_dirs(&cells.core.home.root().join("runs"))?;
    let holding = owners.iter().filter_map(|o| match o {
        CellName::Run(slug) => Some(slug.clone()),
        CellName::Agent(_) | CellName::Service(_) => None,
    });
    let known: BTreeSet<Slug> = on_disk.into_iter().chain(holding).collect();
    for slug in known.into_iter().filter(|s| !cells.commands.is_running(s)) {
        sweep_and_discard(cells, &CellName::Run(slug)).await?;
    }
    Ok(())
}
