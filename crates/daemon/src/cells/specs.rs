//! From the plan to what one boot of a cell needs.

use crate::cells::agent_credentials::own_token;
use crate::cells::state::CellsState;
use crate::core::error::{Error, Result};
use crate::core::plan::PlanInForce;
use abbey_agents::runtime::{self, CellEnvironment, Layout};
use abbey_api::Problem;
use abbey_cells::microvm::{Machine, Origin};
use abbey_cells::{Bind, CellSpec, Container, Forward, Listen, Network, Program, Sandbox, Target};
use abbey_model::{Bytes, CellKind, CellName, FaultKind, Layer, Limits, Millis, Subnet};
use abbey_plan::{Agent, Reach, Service, ServiceKind};
use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

/// Time for an orderly stop of a cell that runs no runtime, after which its processes are killed.
const STOP_GRACE: Millis = Millis::from_secs(10);
/// Where the egress proxy is in the eyes of a cell, unless something else has that port.
const PROXY_PORT: u16 = 3128;
/// Where programs ask for names.
const NAMES_PORT: u16 = 53;

/// The program of a service as an absolute path, and its arguments.
pub(crate) fn find_command(
    command: &[String],
    base_dir: &str,
) -> std::result::Result<PathBuf, String> {
    let name = command.first().map_or("", String::as_str);
    let search = std::env::var("PATH").unwrap_or_default();
    let found = if name.contains('/') {
        Some(Path::new(base_dir).join(name)).filter(|p| p.is_file())
    } else {
        search
            .split(':')
            .filter(|d| d.starts_with('/'))
            .map(|d| Path::new(d).join(name))
            .find(|p| p.is_file())
    };
    found.ok_or_else(|| format!("the program `{name}` was found neither in the control plane's PATH nor beside the manifest; install it or name its path"))
}

/// Where an agent's files are in its own eyes.
const AGENT_ROOT: &str = "/agent";
/// Where a service's files are in its own eyes.
const SERVICE_ROOT: &str = "/service";
/// What of the host is in every sandbox already.
const BASE: [&str; 5] = ["/usr", "/bin", "/sbin", "/lib", "/lib64"];

/// An agent sees its home and workspace, and may not write its own charter (S2-23).
fn agent_binds(host: &Layout, inside: &Layout, charter: Option<&str>) -> Vec<Bind> {
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
    binds
}

/// Time for an orderly stop of a cell.
pub(crate) fn stop_grace(cells: &CellsState, cell: &CellName) -> Millis {
    let CellName::Agent(slug) = cell else {
        return STOP_GRACE;
    };
    let current = cells.core.plan.current();
    let agent = current.as_ref().and_then(|c| c.house.agents.get(slug));
    agent.map_or(STOP_GRACE, |a| runtime::spec(a.runtime).stop_grace)
}

/// A service sees its directory, and its program where that is not of the base.
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

/// What a service is started with: its own command, or this binary in a role.
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

/// The locale of an agent's programs, where it is another than usual and the cell has it.
fn effective_locale(agent: &Agent) -> Option<String> {
    let locale = agent.locale.system.as_ref().filter(|l| !l.is_plain())?;
    let known = matches!(agent.cell, CellKind::Process | CellKind::Sandbox)
        && abbey_cells::locales().contains(&locale.file_name());
    known.then(|| locale.to_string())
}

/// What clients of a service that an agent uses go by.
fn client_environment(home: &Path, reaches: &[Reach]) -> Vec<(String, String)> {
    let mut env = Vec::new();
    let used = |kind| {
        let mut all = reaches.iter().filter(move |r| r.kind == kind);
        all.find_map(|r| Some((r, r.own.as_ref()?)))
    };
    let services = home.join("services");
    // Source: PostgreSQL, "Environment Variables" of libpq. The first by name, where there are several.
    if let Some((reach, own)) = used(ServiceKind::Postgres) {
        let file = services.join(reach.service.as_str());
        let root = services.join(format!("{}.pem", reach.service));
        for (name, value) in [
            ("PGHOST", reach.at.ip().to_string()),
            ("PGPORT", reach.at.port().to_string()),
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
    let repositories = repositories.filter_map(|r| Some((r, r.own.as_ref()?)));
    let mut count = 0;
    for (reach, own) in repositories {
        let file = services.join(reach.service.as_str());
        let url = format!("http://{}", reach.at);
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

/// Memory files count against the cell's memory; a quarter of it may be `/tmp`.
pub(crate) fn tmp_size(limits: &Limits) -> Bytes {
    Bytes((limits.memory.0 / 4).max(16 << 20))
}

/// How a cell reaches the control plane, services and the internet.
pub(crate) struct Ways {
    /// The house's socket for agents.
    inside: PathBuf,
    /// The egress proxy's.
    egress: PathBuf,
    /// The one for names.
    names: PathBuf,
    walled: bool,
    subnet: Option<Subnet>,
    door: Option<u16>,
    /// Port on which its program listens; 0 when on none.
    own: u16,
    proxy: u16,
    reaches: Vec<Reach>,
}

impl Ways {
    fn of(
        cells: &CellsState,
        current: &PlanInForce,
        owner: &str,
        agent: &Agent,
        door: u16,
    ) -> Ways {
        let subnet = abbey_plan::subnet(&current.registry, owner);
        Ways {
            door: Some(door),
            reaches: abbey_plan::reaches(&current.house, &current.registry, agent, subnet),
            ..Ways::of_service(cells, agent.cell, subnet, 0)
        }
        .with_free_proxy_port()
    }

    /// Of a service, which listens on this port itself.
    fn of_service(cells: &CellsState, cell: CellKind, subnet: Option<Subnet>, port: u16) -> Ways {
        Ways {
            inside: cells.core.home.inside(),
            egress: cells.core.home.egress_socket(),
            names: cells.core.home.names_socket(),
            walled: cell.isolates(),
            subnet,
            door: None,
            own: port,
            proxy: PROXY_PORT,
            reaches: Vec::new(),
        }
        .with_free_proxy_port()
    }

    /// Of a single command, which has no door and meets no service.
    pub(crate) fn of_command(cells: &CellsState, cell: CellKind, subnet: Option<Subnet>) -> Ways {
        Ways::of_service(cells, cell, subnet, 0)
    }

    /// Whether something of the cell has this port.
    fn uses(&self, port: u16) -> bool {
        let met = self.reaches.iter().any(|r| r.at.port() == port);
        met || self.own == port || self.door == Some(port)
    }

    fn with_free_proxy_port(mut self) -> Ways {
        self.proxy = (PROXY_PORT..u16::MAX)
            .find(|p| !self.uses(*p))
            .unwrap_or(PROXY_PORT);
        self
    }

    pub(crate) fn forwards(&self) -> Vec<Forward> {
        let loopback = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let house = || Target::House(self.inside.clone());
        let mut forwards = Vec::new();
        let mut add = |at, to| forwards.push(Forward { at, to });
        if let Some(door) = self.door {
            add(
                match self.walled {
                    true => Listen::Cell(loopback(door)),
                    false => Listen::Host(loopback(door)),
                },
                house(),
            );
            if let Some(subnet) = self.subnet {
                add(
                    Listen::Host(SocketAddrV4::new(subnet.gateway(), door)),
                    house(),
                );
            }
        }
        if self.walled {
            add(
                Listen::Cell(loopback(self.proxy)),
                Target::Egress(self.egress.clone()),
            );
        }
        // Whoever goes out directly asks for names directly; a service on that port comes first.
        if self.walled && self.subnet.is_some() && !self.uses(NAMES_PORT) {
            add(
                Listen::Cell(loopback(NAMES_PORT)),
                Target::Names(self.names.clone()),
            );
        }
        for reach in self.reaches.iter().filter(|_| self.walled) {
            let to = match reach.external {
                true => Target::External {
                    service: reach.service.clone(),
                    record: PathBuf::new(),
                },
                false => Target::Service(reach.to),
            };
            add(Listen::Cell(reach.at), to);
        }
        forwards
    }

    /// What programs go by: the names that `curl` and most libraries know.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let mut env = Vec::new();
        for reach in &self.reaches {
            let name = reach.service.as_str().replace('-', "_");
            let name = format!("ABBEY_SERVICE_{}", name.to_ascii_uppercase());
            env.push((name, reach.at.to_string()));
        }
        if !self.walled {
            return env;
        }
        let proxy = format!("http://127.0.0.1:{}", self.proxy);
        let mut direct = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        direct.extend(self.subnet.map(|s| s.gateway().to_string()));
        direct.extend(self.reaches.iter().map(|r| r.at.ip().to_string()));
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

/// Everything that one boot of a cell needs.
pub(crate) fn cell_spec(
    cells: &CellsState,
    current: &PlanInForce,
    cell: &CellName,
) -> Result<Option<CellSpec>> {
    let run_dir = cells.core.home.cells().join(cell.to_string());
    let log_dir = cells.core.home.cell_logs(&cell.to_string());
    let base =
        |digest: &str, kind: CellKind, limits: Limits, waived: &BTreeSet<Layer>, owner: &str| {
            CellSpec {
                cell: cell.clone(),
                kind,
                digest: digest.to_owned(),
                program: Program::Own,
                argv: Vec::new(),
                env: Vec::new(),
                cwd: PathBuf::from("/"),
                uid: current.uid(owner),
                limits,
                waived: waived.clone(),
                sandbox: None,
                machine: None,
                container: None,
                network: abbey_plan::subnet(&current.registry, owner).map(|subnet| Network {
                    subnet,
                    tag: None,
                    bridged: false,
                }),
                forwards: Vec::new(),
                terminal: false,
                ready_within: None,
                run_dir: run_dir.clone(),
                log_dir: log_dir.clone(),
                group: cells.core.home.group(),
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
            let layout = Layout::under(&cells.core.home.agent(slug.as_str()));
            let Some(door) = current.port(&owner, "door") else {
                return Ok(None);
            };
            let key_path = layout.root.join("key");
            let key = fs::read_to_string(&key_path).map_err(Error::file("read", &key_path))?;
            let token_path = own_token(cells, slug);
            let token =
                fs::read_to_string(&token_path).map_err(Error::file("read", &token_path))?;
            let runtime = runtime::spec(agent.runtime);
            let machine = (agent.cell == CellKind::Microvm).then(|| Machine {
                image: agent.image.clone(),
                vmm: agent.vmm,
                drives: Some(agent.drives),
                origin: Origin::Cold,
                brings: false,
                take: Vec::new(),
                images: PathBuf::new(),
                files: PathBuf::new(),
            });
            let container = (agent.cell == CellKind::Container).then(|| Container {
                image: agent.image.clone(),
                images: PathBuf::new(),
                files: PathBuf::new(),
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
                        ),
                        profile: agent.profile,
                        tmp: tmp_size(&agent.limits),
                    };
                    (inside, Some(sandbox))
                }
            };
            let ways = Ways::of(cells, current, &owner, agent, door);
            let mut env = (runtime.environment)(&CellEnvironment {
                agent: slug.as_str(),
                layout: &inside,
                port: door,
                model_key: &key,
            });
            env.extend(ways.environment());
            env.extend(client_environment(&inside.home, &ways.reaches));
            if let Some(locale) = effective_locale(agent) {
                env.retain(|(name, _)| name != "LANG" && name != "LC_ALL");
                env.extend(["LANG", "LC_ALL"].map(|n| (n.to_owned(), locale.clone())));
            }
            Ok(Some(CellSpec {
                argv: runtime.driver.iter().map(|a| (*a).to_owned()).collect(),
                env,
                cwd: inside.workspace,
                sandbox,
                ready_within: Some(match machine {
                    Some(_) => runtime.readiness.within_microvm,
                    None => runtime.readiness.within,
                }),
                machine,
                container,
                forwards: ways.forwards(),
                terminal: agent.terminal,
                secrets: vec![key, token],
                asks_root: false,
                ..base(digest, agent.cell, agent.limits, &agent.waived, &owner)
            }))
        }
        // Made by whoever runs it, once.
        CellName::Run(_) => Ok(None),
        CellName::Service(slug) => {
            let (Some(service), Some(digest)) = (
                current.house.services.get(slug),
                current.applied.services.get(slug),
            ) else {
                return Ok(None);
            };
            let owner = format!("service:{slug}");
            let port = current.port(&owner, "port").unwrap_or(0);
            let named = match service.kind.has_command() {
                true => Some(
                    find_command(&service.command, &current.base_dir)
                        .map_err(|e| Problem::new(FaultKind::Host, e))?,
                ),
                false => None,
            };
            let program = match (service.kind, &named) {
                (ServiceKind::Command, Some(path)) => Program::Path(path.clone()),
                _ => Program::Own,
            };
            let dir = cells.core.home.service(slug.as_str());
            let (inside, sandbox) = match service.cell {
                CellKind::Process => (dir.clone(), None),
                _ => {
                    let inside = PathBuf::from(SERVICE_ROOT);
                    let sandbox = Sandbox {
                        binds: service_binds(&dir, &inside, named.as_deref()),
                        profile: service.profile,
                        tmp: tmp_size(&service.limits),
                    };
                    (inside, Some(sandbox))
                }
            };
            let own = abbey_plan::endpoint(&current.house, &current.registry, slug);
            let address = own.map_or(Ipv4Addr::LOCALHOST, |a| *a.ip());
            let mut env: Vec<(String, String)> = [
                ("HOME", inside.display().to_string()),
                ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
                ("LANG", "C.UTF-8".to_owned()),
                ("PORT", port.to_string()),
            ]
            .map(|(k, v)| (k.to_owned(), v))
            .to_vec();
            let subnet = abbey_plan::subnet(&current.registry, &owner);
            let ways = Ways::of_service(cells, service.cell, subnet, port);
            env.extend(ways.environment());
            Ok(Some(CellSpec {
                program,
                argv: service_argv(service, port, address, named.as_deref()),
                env,
                forwards: ways.forwards(),
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
