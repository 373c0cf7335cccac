//! Waiting until agents and services are ready.

use crate::exit::{self, Failure, Outcome};
use crate::output::{Progress, print_message, print_notice};
use crate::text::{Text, Tone};
use abbey_api::client::Client;
use abbey_api::{AgentView, FleetDoc, FleetQuery, ServiceView, ServicesQuery};
use abbey_model::Presence;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest wait until the agents and services are ready.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Time for which a program that serves no known port has to run, to be called started.
const SURVIVES: Duration = Duration::from_secs(1);

/// Agents and services after the wait, and what is not ready.
pub(crate) struct Readiness {
    /// Every agent.
    pub(crate) fleet: FleetDoc,
    /// Every service.
    pub(crate) services: Vec<ServiceView>,
    late: Vec<String>,
    silent: Vec<String>,
}

impl Readiness {
    /// Prints what is not ready and which command says why; returns the exit code, 7 if there is something.
    pub(crate) fn conclude(&self) -> u8 {
        for line in &self.silent {
            print_notice(
                &Text::toned(Tone::Attention, "note:").and(Tone::Plain, &format!(" {line}")),
            );
        }
        for late in &self.late {
            print_message(late);
        }
        match self.late.is_empty() {
            true => exit::OK,
            false => exit::DEGRADED,
        }
    }
}

/// What a command waits for.
#[derive(Clone, Copy)]
pub(crate) enum WaitFor<'a> {
    /// Every agent and service that is to run.
    Everything,
    /// One agent.
    Agent(&'a str),
    /// Nothing.
    Nothing,
}

/// Waits at most 90 seconds until what the command waits for is ready.
pub(crate) async fn wait_until_ready(
    client: &Client,
    progress: &mut Progress,
    what: WaitFor<'_>,
) -> Result<Readiness, Failure> {
    let until = Instant::now() + READY_WITHIN;
    let mut running = Running::default();
    loop {
        let fleet = client.agents().list(&FleetQuery::default()).await?;
        let doc = client.services().list(&ServicesQuery::default()).await?;
        let agents = fleet.agents.iter().filter(|a| match what {
            WaitFor::Everything => is_agent_late(a),
            WaitFor::Agent(name) => a.name == name && is_agent_late(a),
            WaitFor::Nothing => false,
        });
        let all = matches!(what, WaitFor::Everything);
        let now = Instant::now();
        let services = doc.services.iter();
        let services = services.filter(|s| all && is_service_late(s, running.since(s, now)));
        let agents: Vec<&AgentView> = agents.collect();
        let services: Vec<&ServiceView> = services.collect();
        // A degraded cell was given up for now: waiting longer says nothing new.
        let moving = agents.iter().any(|a| a.presence != Presence::Degraded)
            || services.iter().any(|s| s.presence != Presence::Degraded);
        if !moving || now >= until {
            let agents = agents
                .iter()
                .map(|a| late_line("agent", &a.name, a.presence));
            let services = services.iter().map(|s| service_line(s));
            let late = agents.chain(services).collect();
            let silent = doc.services.iter().filter(|s| all && is_silent(s));
            let silent = silent.map(service_line).collect();
            return Ok(Readiness {
                fleet,
                services: doc.services,
                late,
                silent,
            });
        }
        let names = agents.iter().map(|a| a.name.as_str());
        let names: Vec<&str> = names
            .chain(services.iter().map(|s| s.name.as_str()))
            .collect();
        progress.show(&format!("waiting for {}", names.join(", ")));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Since when each service was seen running in its current boot.
#[derive(Default)]
struct Running(BTreeMap<String, (u64, Instant)>);

impl Running {
    /// How long a service that runs was seen running without a restart.
    fn since(&mut self, service: &ServiceView, now: Instant) -> Duration {
        if service.pid.is_none() {
            self.0.remove(&service.name);
            return Duration::ZERO;
        }
        let seen = self.0.entry(service.name.clone());
        let (boot, since) = seen.or_insert((service.generation, now));
        if *boot != service.generation {
            (*boot, *since) = (service.generation, now);
        }
        now.duration_since(*since)
    }
}

/// Waits until the agent `name` is ready, and says why it is not. Exit code 7 if it is not.
pub(crate) async fn wait_for_agent(client: &Client, name: &str) -> Outcome {
    let mut progress = Progress::new();
    let readiness = wait_until_ready(client, &mut progress, WaitFor::Agent(name)).await?;
    progress.end();
    Ok(readiness.conclude())
}

/// Whether an agent that is to run is not ready; those that were stopped or paused on purpose are not to run.
fn is_agent_late(agent: &AgentView) -> bool {
    !matches!(
        agent.presence,
        Presence::Ready | Presence::Paused | Presence::Stopped | Presence::Idle
    )
}

/// Whether a service that is to run is not ready, after it was seen running for some time. One outside the house is not
/// ours to wait for.
fn is_service_late(service: &ServiceView, runs: Duration) -> bool {
    match service.presence {
        Presence::Paused | Presence::Stopped | Presence::Idle => false,
        Presence::Ready => !service.external && !service.pending.is_empty(),
        Presence::WorkerOnly if is_silent(service) => runs < SURVIVES,
        _ => !service.external,
    }
}

/// Whether a service runs and answers nobody, and its entry names no port at which it would. Nothing says that waiting
/// would help, so it is reported.
fn is_silent(service: &ServiceView) -> bool {
    service.presence == Presence::WorkerOnly && !service.external && !service.serves_port
}

fn service_line(service: &ServiceView) -> String {
    let name = &service.name;
    match service.presence {
        Presence::Ready => {
            let agents = service.pending.join(", ");
            format!(
                "service `{name}` has not set up access for {agents} yet; `abbey service list` shows why"
            )
        }
        Presence::WorkerOnly => {
            format!(
                "service `{name}` runs and does not answer at its port; `abbey service logs {name}` shows its output, and `probe: none` is for a program that serves no port"
            )
        }
        presence => late_line("service", name, presence),
    }
}

fn late_line(kind: &str, name: &str, presence: Presence) -> String {
    match kind {
        "agent" => format!("agent `{name}` is {presence}; `abbey why {name}` says why"),
        _ => {
            format!("service `{name}` is {presence}; `abbey service logs {name}` shows its output")
        }
    }
}
