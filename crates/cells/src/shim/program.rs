//! From a specification to a running child: pipes, program, and isolation if it has any.

use super::ShimParts;
use crate::network::wall::CellRules;
use crate::sys::cgroup::ControlGroups;
use crate::sys::programs::{c_arguments, c_environment, c_string, find_program, program_rlimits};
use crate::sys::terminal::Terminal;
use crate::{
    CellProgram, CellSpec, Error, ListenAddress, Result, Sandbox, crash, network, sandbox,
};
use abbey_launch::NetworkNamespace;
use abbey_model::{CellKind, Layer};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Program of a cell that was started.
pub(super) struct LaunchedProgram {
    pub(super) child: abbey_launch::Child,
    /// Channel to the first process of an isolated cell; none for a plain process.
    pub(super) channel: Option<OwnedFd>,
    /// Listeners in the cell's own network.
    pub(super) listeners: Vec<OwnedFd>,
    /// Read ends of the pipes for output, errors and readiness.
    pub(super) pipes: [OwnedFd; 3],
    /// Terminal of the program, if it has one.
    pub(super) terminal: Option<Terminal>,
    /// Isolation layers in force.
    pub(super) layers: BTreeSet<Layer>,
}

/// Starts the program of a cell in its control groups and isolation. `prepare` sets what has to be in place before the program
/// runs, and returns whether limits are in force; an isolated cell builds its walls meanwhile. `beside` are further descriptors
/// that the program gets from number 4 on.
pub(super) fn launch_program(
    spec: &CellSpec,
    parts: ShimParts,
    groups: Option<&ControlGroups>,
    prepare: &mut dyn FnMut() -> Result<bool>,
    beside: Vec<OwnedFd>,
) -> Result<LaunchedProgram> {
    let (mut launch, pipes, terminal) = describe_launch(spec, groups, parts.streams)?;
    launch.fds.extend(beside);
    let limits = |limited: bool| limited.then_some(Layer::Limits);
    let Some(sandbox_spec) = &spec.sandbox else {
        let layers = limits(prepare()?).into_iter().collect();
        let child = abbey_launch::spawn(&launch).map_err(|e| Error::File {
            what: e.stage,
            path: spec.argv.first().map_or_else(Default::default, Into::into),
            source: e.source,
        })?;
        return Ok(LaunchedProgram {
            child,
            channel: None,
            listeners: Vec::new(),
            pipes,
            terminal,
            layers,
        });
    };
    let rootless = !rustix::process::geteuid().is_root();
    let isolation = sandbox::render_isolation(spec, sandbox_spec, rootless)?;
    let mut steps = Steps {
        spec,
        rules: parts.rules.as_ref(),
        prepare: &mut || prepare().map(limits),
        layers: BTreeSet::new(),
        refusal: None,
    };
    let isolated = abbey_launch::spawn_isolated(&launch, &isolation, parts.network, &mut steps);
    let isolated = match (isolated, steps.refusal) {
        (Ok(isolated), _) => isolated,
        (Err(_), Some(refusal)) => return Err(refusal),
        (Err(error), None) => {
            return Err(Error::Isolation {
                cell: spec.cell.clone(),
                why: format!("{error}: {}", error.source),
            });
        }
    };
    let layers = steps.layers;
    // Nobody reads it before the record names the child.
    if let Some(rules) = &parts.rules {
        network::repair::remember_cell_rules(&spec.run_dir, rules);
    }
    Ok(LaunchedProgram {
        child: isolated.child,
        channel: Some(isolated.channel),
        listeners: isolated.listeners,
        pipes,
        terminal,
        layers,
    })
}

/// What the shim does while the first process of a cell builds its isolation.
struct Steps<'a> {
    spec: &'a CellSpec,
    rules: Option<&'a CellRules>,
    prepare: &'a mut dyn FnMut() -> Result<Option<Layer>>,
    /// Isolation layers in force.
    layers: BTreeSet<Layer>,
    /// Why the shim does not let the program run.
    refusal: Option<Error>,
}

impl Steps<'_> {
    /// Keeps an error of this crate's, and gives one for the launch.
    fn refuse(&mut self, error: Error) -> io::Error {
        let text = error.to_string();
        self.refusal = Some(error);
        io::Error::other(text)
    }
}

impl abbey_launch::LaunchSteps for Steps<'_> {
    fn connect(&mut self, namespace: NetworkNamespace<'_>) -> io::Result<()> {
        if let Some(network) = self.spec.network {
            network::connect_cell(network, &slots(self.spec), namespace)?;
        }
        if let Some(rules) = self.rules {
            network::wall::load_cell_rules(namespace, rules, true)?;
        }
        crash::point("shim.connected");
        Ok(())
    }

    fn prepare(&mut self) -> io::Result<()> {
        let limits = (self.prepare)().map_err(|e| self.refuse(e))?;
        self.layers.extend(limits);
        Ok(())
    }

    fn accept(&mut self, in_force: &abbey_launch::IsolationInForce) -> io::Result<()> {
        self.layers.extend(sandbox::layers_in_force(in_force));
        crash::point("shim.isolated");
        sandbox::require_layers(self.spec, &self.layers).map_err(|e| self.refuse(e))
    }
}

/// Addresses of the cell's own at which it meets services.
fn slots(spec: &CellSpec) -> Vec<Ipv4Addr> {
    let mut slots: Vec<Ipv4Addr> = spec
        .forwards
        .iter()
        .filter_map(|f| match f.at {
            ListenAddress::Cell(at) if !at.ip().is_loopback() => Some(*at.ip()),
            ListenAddress::Cell(_) | ListenAddress::Host(_) => None,
        })
        .collect();
    slots.sort_unstable();
    slots.dedup();
    slots
}

/// The launch and our ends of its pipes: output, errors, readiness.
fn describe_launch(
    spec: &CellSpec,
    groups: Option<&ControlGroups>,
    streams: Option<[OwnedFd; 3]>,
) -> Result<(abbey_launch::LaunchSpec, [OwnedFd; 3], Option<Terminal>)> {
    let pipe = || {
        let flags = rustix::pipe::PipeFlags::CLOEXEC;
        let (reader, writer) =
            rustix::pipe::pipe_with(flags).map_err(|e| Error::file("make", "pipe")(e.into()))?;
        rustix::io::ioctl_fionbio(reader.as_fd(), true)
            .map_err(|e| Error::file("make", "pipe")(e.into()))?;
        Ok((reader, writer))
    };
    let ((out, out_child), (err, err_child), (ready, ready_child)) = (pipe()?, pipe()?, pipe()?);
    if let Some(uid) = spec.uid {
        // The child opens it by its path in /proc, which checks the owner.
        let id = |n| (rustix::fs::Uid::from_raw(n), rustix::fs::Gid::from_raw(n));
        let (user, group) = id(uid);
        rustix::fs::fchown(&ready_child, Some(user), Some(group))
            .map_err(|e| Error::file("hand over", "pipe")(e.into()))?;
    }
    let null = fs::File::open("/dev/null").map_err(Error::file("open", "/dev/null"))?;
    let open = |path: &Path| fs::File::open(path).map(OwnedFd::from);
    let program = match &spec.program {
        CellProgram::Own if spec.sandbox.is_some() => {
            abbey_launch::Executable::Path(c_string(Sandbox::OWN.as_bytes())?, None)
        }
        CellProgram::Own => {
            let own = Path::new("/proc/self/exe");
            abbey_launch::Executable::File(open(own).map_err(Error::file("open", own))?)
        }
        // In an isolated cell a path is one of its own root.
        CellProgram::Path(path) if spec.sandbox.is_some() && path.components().count() > 1 => {
            abbey_launch::Executable::Path(c_string(path.as_os_str().as_encoded_bytes())?, None)
        }
        CellProgram::Path(path) => {
            let search = spec
                .env
                .iter()
                .find(|(k, _)| k == "PATH")
                .map_or("", |(_, v)| v.as_str());
            let found =
                find_program(&path.to_string_lossy(), search, &spec.cwd).ok_or_else(|| {
                    Error::file("find", path)(io::Error::from(io::ErrorKind::NotFound))
                })?;
            // Another user executes only what that user can reach.
            let file = spec.uid.is_none().then(|| open(&found).ok()).flatten();
            abbey_launch::Executable::Path(c_string(found.as_os_str().as_encoded_bytes())?, file)
        }
    };
    let mut env: Vec<(String, String)> = spec.env.clone();
    if spec.terminal {
        env.push(("TERM".to_owned(), "xterm-256color".to_owned()));
    }
    if spec.ready_within.is_some() {
        env.push(("ABBEY_READY_FD".to_owned(), "3".to_owned()));
    }
    // Our ends of unused pipes see the end of them at once.
    let (terminal, slave) = match spec.terminal && streams.is_none() {
        true => Terminal::open(spec.uid).map(|(t, s)| (Some(t), Some(s)))?,
        false => (None, None),
    };
    let copy = |fd: &OwnedFd| fd.try_clone().map_err(Error::file("use", "the terminal"));
    let fds = match (streams, slave) {
        (Some([input, output, errors]), _) => vec![input, output, errors, ready_child],
        (None, Some(slave)) => vec![copy(&slave)?, copy(&slave)?, slave, ready_child],
        (None, None) => vec![OwnedFd::from(null), out_child, err_child, ready_child],
    };
    // Podman gives the processes of a container their limit, which may not exceed its own.
    let processes = (spec.kind != CellKind::Container).then_some(spec.limits.processes);
    let launch = abbey_launch::LaunchSpec {
        program,
        argv: c_arguments(&spec.argv)?,
        env: c_environment(&env)?,
        cwd: c_string(spec.cwd.as_os_str().as_encoded_bytes())?,
        user: spec.uid.filter(|_| spec.sandbox.is_none()),
        groups: groups
            .map(ControlGroups::open_for_launch)
            .transpose()?
            .unwrap_or_default(),
        rlimits: program_rlimits(processes),
        fds,
        new_session: true,
        terminal: terminal.is_some(),
        dies_with_parent: true,
        // Podman of an ordinary user asks programs of root's to map users.
        new_privileges: spec.asks_root,
    };
    Ok((launch, [out, err, ready], terminal))
}
