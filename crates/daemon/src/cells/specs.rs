//! Specification of a cell: from the plan to everything that one start of the cell needs.

use crate::cells::agent_credentials::agent_token_file;
use crate::cells::state::CellsState;
use crate::core::error::{Error, Result};
use crate::core::plan::PlanInForce;
use abbey_agents::runtime::{self, CellEnvironment, Layout};
use abbey_api::Problem;
use abbey_cells::microvm::{BootOrigin, MicroVm};
use abbey_cells::{
    Bind, COMMANDS_IN_CELL, CellNetwork, CellProgram, CellSpec, Container, ForwardTarget,
    ListenAddress, PortForward, SKILLS_IN_CELL, Sandbox,
};
use abbey_model::{Bytes, CellKind, CellName, FaultKind, Layer, Limits, Millis, Slug, Subnet};
use abbey_plan::{Agent, ReachableService, Service, ServiceKind};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

/// Time for an orderly stop of a cell without an agent runtime, after which its processes are
/// killed.
const STOP_GRACE: Millis = Millis::from_secs(10);
/// Port of the egress proxy inside a cell, unless another port forward uses it.
const PROXY_PORT: u16 = 3128;
/// Port of DNS inside a cell.
const NAMES_PORT: u16 = 53;

/// The error about a file of an agent that cannot be read: why it was not written, if that is known.
fn unread_file(cells: &CellsState, agent: &Slug, path: &Path, error: std::io::Error) -> Error {
    let why = cells.why_unprepared(agent);
    match why.filter(|_| error.kind() == std::io::ErrorKind::NotFound) {
        None => Error::file("read", path)(error),
        Some(why) => {
            let text = format!("its files could not be prepared: {why}; `abbey up` tries it again");
            Problem::new(FaultKind::Unavailable, text).into()
        }
    }
}

/// Absolute path of the program of a service's command, searched in the control plane's `PATH` and then in the manifest's
/// directory; a name with a slash is a path from there.
///
/// # Errors
/// A sentence that says where it was searched.
pub(crate) fn resolve_program(
    command: &[String],
    base_dir: &str,
) -> std::result::Result<PathBuf, String> {
    let name = command.first().map_or("", String::as_str);
    let search = std::env::var("PATH").unwrap_or_default();
    let beside = Path::new(base_dir).join(name);
    if name.contains('/') {
        return match beside.is_file() {
            true => Ok(beside),
            false => Err(format!("there is no program `{}`", beside.display())),
        };
    }
    let installed = search
        .split(':')
        .filter(|d| d.starts_with('/'))
        .map(|d| Path::new(d).join(name));
    let mut found = installed.chain([beside]).filter(|p| p.is_file());
    found.next().ok_or_else(|| format!("the program `{name}` was found neither in the control plane's PATH nor beside the manifest; install it or name its path"))
}

/// Path of an agent's files inside its cell.
const AGENT_ROOT: &str = "/agent";
/// Path of a service's files inside its cell.
const SERVICE_ROOT: &str = "/service";
/// Host directories that every sandbox contains.
const BASE: [&str; 5] = ["/usr", "/bin", "/sbin", "/lib", "/lib64"];

/// Directory of the house's skills as an agent's cell of this kind sees it, read-only; `host` is its path on the host.
/// A microVM or jail has none: its agent reads files of skills by the agent API.
pub(crate) fn catalogue_in_cell(host: &Path, cell: CellKind) -> Option<PathBuf> {
    match cell {
        CellKind::Process => Some(host.to_owned()),
        CellKind::Sandbox | CellKind::Container => Some(PathBuf::from(SKILLS_IN_CELL)),
        CellKind::Microvm | CellKind::Jail => None,
    }
}

/// Directory of the command `abbey-agent` as an agent's cell of this kind sees it; `host` is its path on the host.
fn commands_in_cell(host: &Path, cell: CellKind) -> PathBuf {
    match cell {
        CellKind::Process => host.to_owned(),
        _ => PathBuf::from(COMMANDS_IN_CELL),
    }
}

/// Bind mounts of an agent's sandbox: home, workspace and the house's skills, with its charter read-only unless it may
/// write it (S2-23).
fn agent_binds(host: &Layout, inside: &Layout, charter: Option<&str>, skills: &Path) -> Vec<Bind> {
    let bind = |source: &Path, path: &Path, writable| Bind {
        source: source.to_owned(),
        path: path.to_owned(),
        writable,
    };
    let mut binds = vec![
        bind(&host.home, &inside.home, true),
        bind(&host.workspace, &inside.workspace, true),
    ];
    if let Some(charter) = charter {
        binds.push(bind(
            &host.workspace.join(charter),
            &inside.workspace.join(charter),
            false,
        ));
    }
    binds.push(bind(skills, Path::new(SKILLS_IN_CELL), false));
    binds
}

/// Time for an orderly stop of a cell, after which its processes are killed.
pub(crate) fn stop_grace(cells: &CellsState, cell: &CellName) -> Millis {
    let CellName::Agent(slug) = cell else {
        return STOP_GRACE;
    };
    let current = cells.core.plan.current();
    let agent = current.as_ref().and_then(|c| c.house.agents.get(slug));
    agent.map_or(STOP_GRACE, |a| runtime::runtime_spec(a.runtime).stop_grace)
}

/// Bind mounts of a service's sandbox: its directory, and its program if that is not in a base
/// directory.
fn service_binds(dir: &Path, inside: &Path, program: Option<&Path>) -> Vec<Bind> {
    let mut binds = vec![Bind {
        source: dir.to_owned(),
        path: inside.to_owned(),
        writable: true,
    }];
    if let Some(program) = program
        && !BASE.iter().any(|b| program.starts_with(b))
    {
        binds.push(Bind {
            source: program.to_owned(),
            path: program.to_owned(),
            writable: false,
        });
    }
    binds
}

/// Arguments that start a service: its own command, or this binary in a role.
fn service_argv(
    service: &Service,
    port: u16,
    address: Ipv4Addr,
    named: Option<&Path>,
) -> Vec<String> {
    let (port, address) = (port.to_string(), address.to_string());
    let filled = |a: &String| a.replace("{port}", &port).replace("{address}", &address);
    let own = service.command.iter().map(filled);
    if !service.kind.is_stock() {
        return own.collect();
    }
    let kind = service.kind.name();
    let role = ["abbey", "role", "service", kind, "serve", "--address"];
    let mut argv = role.map(str::to_owned).to_vec();
    argv.extend([address.clone(), "--port".to_owned(), port.clone()]);
    if let Some(program) = named {
        argv.extend(["--".to_owned(), program.display().to_string()]);
        argv.extend(own.skip(1));
    }
    argv
}

/// Locale of an agent's programs, if it differs from the default and its cell has it.
fn effective_locale(agent: &Agent) -> Option<String> {
    let locale = agent.locale.system.as_ref().filter(|l| !l.is_plain())?;
    let known = matches!(agent.cell, CellKind::Process | CellKind::Sandbox)
        && abbey_cells::installed_locales().contains(&locale.file_name());
    known.then(|| locale.to_string())
}

/// Environment variables with which clients find the services that an agent uses.
fn service_client_environment(home: &Path, reaches: &[ReachableService]) -> Vec<(String, String)> {
    let mut env = Vec::new();
    let used = |kind| {
        let mut all = reaches.iter().filter(move |r| r.kind == kind);
        all.find_map(|r| Some((r, r.name_in_service.as_ref()?)))
    };
    let services = home.join("services");
    // Source: PostgreSQL, "Environment Variables" of libpq. The first by name, where there are several.
    if let Some((reach, own)) = used(ServiceKind::Postgres) {
        let file = services.join(reach.service.as_str());
        let root = services.join(format!("{}.pem", reach.service));
        for (name, value) in [
            ("PGHOST", reach.address.ip().to_string()),
            ("PGPORT", reach.address.port().to_string()),
            ("PGDATABASE", own.clone()),
            ("PGUSER", own.clone()),
            ("PGPASSFILE", file.display().to_string()),
            ("PGSSLMODE", "verify-ca".to_owned()),
            ("PGSSLROOTCERT", root.display().to_string()),
        ] {
            env.push((name.to_owned(), value));
        }
    }
    // Source: git-config(1), `GIT_CONFIG_COUNT`, and git-credential-store(1).
    let repositories = reaches.iter().filter(|r| r.kind == ServiceKind::Git);
    let repositories = repositories.filter_map(|r| Some((r, r.name_in_service.as_ref()?)));
    let mut count = 0;
    for (reach, own) in repositories {
        let file = services.join(reach.service.as_str());
        let url = format!("http://{}", reach.address);
        let name = reach
            .service
            .as_str()
            .replace('-', "_")
            .to_ascii_uppercase();
        for (name, value) in [
            (format!("ABBEY_GIT_{name}"), format!("{url}/{own}")),
            (
                format!("GIT_CONFIG_KEY_{count}"),
                format!("credential.{url}.helper"),
            ),
            (
                format!("GIT_CONFIG_VALUE_{count}"),
                format!("store --file={}", file.display()),
            ),
        ] {
            env.push((name, value));
        }
        count += 1;
    }
    if count > 0 {
        env.push(("GIT_CONFIG_COUNT".to_owned(), count.to_string()));
    }
    env
}

/// Size limit of a cell's `/tmp`, a quarter of its memory, since files in it count against that
/// memory.
pub(crate) fn tmpfs_size(limits: &Limits) -> Bytes {
    Bytes((limits.memory.0 / 4).max(16 << 20))
}

/// How a cell reaches the control plane, services and the internet.
pub(crate) struct CellConnectivity {
    /// Socket of the agent API.
    agent_api_socket: PathBuf,
    /// Socket of the egress proxy.
    egress_socket: PathBuf,
    /// Socket for DNS queries.
    dns_socket: PathBuf,
    /// Whether the cell has network namespaces of its own.
    isolated: bool,
    /// Subnet of the cell, if it has a network.
    subnet: Option<Subnet>,
    /// Port on which an agent reaches the agent API.
    agent_api_port: Option<u16>,
    /// Port on which the cell's own program listens; 0 for none.
    program_port: u16,
    /// Port of the egress proxy inside the cell.
    proxy_port: u16,
    /// Services that the cell reaches.
    reaches: Vec<ReachableService>,
}

impl CellConnectivity {
    /// Connectivity of an agent, which reaches the agent API on this port.
    fn for_agent(
        cells: &CellsState,
        current: &PlanInForce,
        owner: &str,
        agent: &Agent,
        door: u16,
    ) -> CellConnectivity {
        let subnet = abbey_plan::allocated_subnet(&current.registry, owner);
        CellConnectivity {
            agent_api_port: Some(door),
            reaches: abbey_plan::reachable_services(
                &current.house,
                &current.registry,
                agent,
                subnet,
            ),
            ..CellConnectivity::for_service(cells, agent.cell, subnet, 0)
        }
        .with_free_proxy_port()
    }

    /// Connectivity of a service whose program listens on this port.
    fn for_service(
        cells: &CellsState,
        cell: CellKind,
        subnet: Option<Subnet>,
        port: u16,
    ) -> CellConnectivity {
        CellConnectivity {
            agent_api_socket: cells.core.home.agent_api_socket(),
            egress_socket: cells.core.home.egress_socket(),
            dns_socket: cells.core.home.dns_socket(),
            isolated: cell.isolates(),
            subnet,
            agent_api_port: None,
            program_port: port,
            proxy_port: PROXY_PORT,
            reaches: Vec::new(),
        }
        .with_free_proxy_port()
    }

    /// Connectivity of a single command, which reaches neither the agent API nor services.
    pub(crate) fn for_command(
        cells: &CellsState,
        cell: CellKind,
        subnet: Option<Subnet>,
    ) -> CellConnectivity {
        CellConnectivity::for_service(cells, cell, subnet, 0)
    }

    /// Whether another listener of the cell uses this port.
    fn uses_port(&self, port: u16) -> bool {
        let met = self.reaches.iter().any(|r| r.address.port() == port);
        met || self.program_port == port || self.agent_api_port == Some(port)
    }

    fn with_free_proxy_port(mut self) -> CellConnectivity {
        self.proxy_port = (PROXY_PORT..u16::MAX)
            .find(|p| !self.uses_port(*p))
            .unwrap_or(PROXY_PORT);
        self
    }

    /// Port forwards of the cell's shim: to the agent API, the egress proxy, DNS and services.
    pub(crate) fn port_forwards(&self) -> Vec<PortForward> {
        let loopback = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let house = || ForwardTarget::House(self.agent_api_socket.clone());
        let mut forwards = Vec::new();
        let mut add = |at, to| forwards.push(PortForward { at, to });
        if let Some(door) = self.agent_api_port {
            add(
                match self.isolated {
                    true => ListenAddress::Cell(loopback(door)),
                    false => ListenAddress::Host(loopback(door)),
                },
                house(),
            );
            if let Some(subnet) = self.subnet {
                add(
                    ListenAddress::Host(SocketAddrV4::new(subnet.gateway(), door)),
                    house(),
                );
            }
        }
        if self.isolated {
            add(
                ListenAddress::Cell(loopback(self.proxy_port)),
                ForwardTarget::Egress(self.egress_socket.clone()),
            );
        }
        // A cell with a network gets DNS on port 53, unless a service uses that port.
        if self.isolated && self.subnet.is_some() && !self.uses_port(NAMES_PORT) {
            add(
                ListenAddress::Cell(loopback(NAMES_PORT)),
                ForwardTarget::Names(self.dns_socket.clone()),
            );
        }
        for reach in self.reaches.iter().filter(|_| self.isolated) {
            let to = match reach.external {
                true => ForwardTarget::External {
                    service: reach.service.clone(),
                    record: PathBuf::new(),
                },
                false => ForwardTarget::Service(reach.host_address),
            };
            add(ListenAddress::Cell(reach.address), to);
        }
        forwards
    }

    /// Environment variables with the addresses of services and the proxy (`HTTP_PROXY`,
    /// `NO_PROXY`).
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let mut env = Vec::new();
        for reach in &self.reaches {
            let name = reach.service.as_str().replace('-', "_");
            let name = format!("ABBEY_SERVICE_{}", name.to_ascii_uppercase());
            env.push((name, reach.address.to_string()));
        }
        if !self.isolated {
            return env;
        }
        let proxy = format!("http://127.0.0.1:{}", self.proxy_port);
        let mut direct = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        direct.extend(self.subnet.map(|s| s.gateway().to_string()));
        direct.extend(self.reaches.iter().map(|r| r.address.ip().to_string()));
        direct.sort();
        direct.dedup();
        let direct = direct.join(",");
        for name in ["HTTP_PROXY", "HTTPS_PROXY"] {
            env.push((name.to_owned(), proxy.clone()));
            env.push((name.to_ascii_lowercase(), proxy.clone()));
        }
        for name in ["NO_PROXY", "no_proxy"] {
            env.push((name.to_owned(), direct.clone()));
        }
        env
    }
}

/// Builds the specification that one start of a cell needs; `None` for a single command or a cell
/// that is not in the plan.
///
/// # Errors
/// If credentials of the agent or the program of the service cannot be found.
pub(crate) fn cell_spec(
    cells: &CellsState,
    current: &PlanInForce,
    cell: &CellName,
) -> Result<Option<CellSpec>> {
    let run_dir = cells.core.home.cell_records_dir().join(cell.to_string());
    let log_dir = cells.core.home.cell_log_dir(&cell.to_string());
    let base =
        |digest: &str, kind: CellKind, limits: Limits, waived: &BTreeSet<Layer>, owner: &str| {
            CellSpec {
                cell: cell.clone(),
                kind,
                digest: digest.to_owned(),
                program: CellProgram::Own,
                argv: Vec::new(),
                env: Vec::new(),
                cwd: PathBuf::from("/"),
                uid: current.uid_of(owner),
                limits,
                waived: waived.clone(),
                sandbox: None,
                microvm: None,
                container: None,
                network: abbey_plan::allocated_subnet(&current.registry, owner).map(|subnet| {
                    CellNetwork {
                        subnet,
                        tag: None,
                        bridged: false,
                    }
                }),
                forwards: Vec::new(),
                terminal: false,
                ready_within: None,
                run_dir: run_dir.clone(),
                log_dir: log_dir.clone(),
                group: cells.core.home.cgroup_name(),
                secrets: Vec::new(),
                asks_root: false,
            }
        };
    match cell {
        CellName::Agent(slug) => {
            let (Some(agent), Some((digest, _))) = (
                current.house.agents.get(slug),
                current.applied.agents.get(slug),
            ) else {
                return Ok(None);
            };
            let owner = format!("agent:{slug}");
            let layout = Layout::under(&cells.core.home.agent_dir(slug.as_str()));
            let Some(door) = current.port_of(&owner, "door") else {
                return Ok(None);
            };
            let key_path = layout.root.join("key");
            let home = &cells.core.home;
            let key = home.read_text(&key_path);
            let unread = |path: &Path, error| unread_file(cells, slug, path, error);
            let key = key.map_err(|e| unread(&key_path, e))?;
            let token_path = agent_token_file(cells, slug);
            let token = home.read_text(&token_path);
            let token = token.map_err(|e| unread(&token_path, e))?;
            let runtime = runtime::runtime_spec(agent.runtime);
            let microvm = (agent.cell == CellKind::Microvm).then(|| MicroVm {
                image: agent.image.clone(),
                vmm: agent.vmm,
                drives: Some(agent.drives),
                origin: BootOrigin::Cold,
                brings: false,
                take: Vec::new(),
                images: PathBuf::new(),
                files: PathBuf::new(),
            });
            let container = (agent.cell == CellKind::Container).then(|| Container {
                image: agent.image.clone(),
                images: PathBuf::new(),
                files: PathBuf::new(),
                skills: PathBuf::new(),
            });
            let (inside, sandbox) = match agent.cell {
                CellKind::Process => (layout.clone(), None),
                CellKind::Microvm | CellKind::Container => {
                    (Layout::under(Path::new(AGENT_ROOT)), None)
                }
                _ => {
                    let inside = Layout::under(Path::new(AGENT_ROOT));
                    let sandbox = Sandbox {
                        binds: agent_binds(
                            &layout,
                            &inside,
                            (!agent.charter_writable).then_some(runtime.files.charter),
                            &home.skills_dir(),
                        ),
                        profile: agent.profile,
                        tmp: tmpfs_size(&agent.limits),
                    };
                    (inside, Some(sandbox))
                }
            };
            let connectivity = CellConnectivity::for_agent(cells, current, &owner, agent, door);
            let mut env = (runtime.environment)(&CellEnvironment {
                agent: slug.as_str(),
                layout: &inside,
                commands: &commands_in_cell(&home.commands_dir(), agent.cell),
                port: door,
                model_key: &key,
            });
            if let Some(skills) = catalogue_in_cell(&home.skills_dir(), agent.cell) {
                env.push(("ABBEY_SKILLS".to_owned(), skills.display().to_string()));
            }
            env.extend(connectivity.environment());
            env.extend(service_client_environment(
                &inside.home,
                &connectivity.reaches,
            ));
            if let Some(locale) = effective_locale(agent) {
                env.retain(|(name, _)| name != "LANG" && name != "LC_ALL");
                env.extend(["LANG", "LC_ALL"].map(|n| (n.to_owned(), locale.clone())));
            }
            Ok(Some(CellSpec {
                argv: runtime.driver.iter().map(|a| (*a).to_owned()).collect(),
                env,
                cwd: inside.workspace,
                sandbox,
                ready_within: Some(match microvm {
                    Some(_) => runtime.readiness.within_microvm,
                    None => runtime.readiness.within,
                }),
                microvm,
                container,
                forwards: connectivity.port_forwards(),
                terminal: agent.terminal,
                secrets: vec![key, token],
                asks_root: false,
                ..base(digest, agent.cell, agent.limits, &agent.waived, &owner)
            }))
        }
        // The task that runs a command builds its specification.
        CellName::Run(_) => Ok(None),
        CellName::Service(slug) => {
            let (Some(service), Some(digest)) = (
                current.house.services.get(slug),
                current.applied.services.get(slug),
            ) else {
                return Ok(None);
            };
            let owner = format!("service:{slug}");
            let port = current.port_of(&owner, "port").unwrap_or(0);
            let named = match service.kind.has_command() {
                true => Some(
                    resolve_program(&service.command, &current.base_dir)
                        .map_err(|e| Problem::new(FaultKind::Host, e))?,
                ),
                false => None,
            };
            let program = match (service.kind, &named) {
                (ServiceKind::Command, Some(path)) => CellProgram::Path(path.clone()),
                _ => CellProgram::Own,
            };
            let dir = cells.core.home.service_dir(slug.as_str());
            let (inside, sandbox) = match service.cell {
                CellKind::Process => (dir.clone(), None),
                _ => {
                    let inside = PathBuf::from(SERVICE_ROOT);
                    let sandbox = Sandbox {
                        binds: service_binds(&dir, &inside, named.as_deref()),
                        profile: service.profile,
                        tmp: tmpfs_size(&service.limits),
                    };
                    (inside, Some(sandbox))
                }
            };
            let own = abbey_plan::host_endpoint(&current.house, &current.registry, slug);
            let address = own.map_or(Ipv4Addr::LOCALHOST, |a| *a.ip());
            let mut env: Vec<(String, String)> = [
                ("HOME", inside.display().to_string()),
                ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
                ("LANG", "C.UTF-8".to_owned()),
                ("PORT", port.to_string()),
            ]
            .map(|(k, v)| (k.to_owned(), v))
            .to_vec();
            let subnet = abbey_plan::allocated_subnet(&current.registry, &owner);
            let connectivity = CellConnectivity::for_service(cells, service.cell, subnet, port);
            env.extend(connectivity.environment());
            let exposed = service.expose.zip(own).map(|(port, to)| PortForward {
                at: ListenAddress::Host(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)),
                to: ForwardTarget::Service(to),
            });
            let mut forwards = connectivity.port_forwards();
            forwards.extend(exposed);
            Ok(Some(CellSpec {
                program,
                argv: service_argv(service, port, address, named.as_deref()),
                env,
                forwards,
                cwd: inside,
                sandbox,
                terminal: service.terminal,
                ..base(
                    digest,
                    service.cell,
                    service.limits,
                    &service.waived,
                    &owner,
                )
            }))
        }
    }
}
