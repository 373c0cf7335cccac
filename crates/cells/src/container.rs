//! Containers, by Podman: its program makes and keeps one, and the same first process as in a microVM runs in
//! it, over the same channel. So a container needs no network, no mapped ports, and no second way to run
//! programs or to end.
//!
//! Nothing of the operator's own containers is touched: ours have names and control groups of this house.
//! Source: podman-run(1), version 4.

use crate::guest::CONTAINER_CONFIG as CONFIG;
use crate::microvm::{
    GuestLine, PreparedGuest, SnapshotRole, config_path, ensure_tools_directory,
    guest_instructions, write_config,
};
use crate::sandbox::oci_seccomp_profile;
use crate::spec::{Container, SKILLS_IN_CELL};
use crate::sys::accounts;
use crate::sys::programs::{SYSTEM_PATH, is_installed, open_files_of_cell};
use crate::{CellProgram, CellSpec, Error, Result};
use abbey_model::{Bytes, CellName, Limits, Profile};
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRAM: &str = "podman";
/// What Podman and its monitor need beside the container.
const OVERHEAD: Bytes = Bytes(192 << 20);
const PROCESSES: u32 = 96;
/// Time for a container to be taken away.
const REMOVE_WITHIN_S: u32 = 20;

/// Whether control groups of both versions are mounted, which not every runtime takes.
fn hybrid() -> bool {
    Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists()
}

/// Reason why Podman cannot run containers on this host, with what to install or configure; none if it can.
pub(crate) fn why_unusable() -> Option<String> {
    if !is_installed(PROGRAM) {
        return Some("`podman` is not installed (package podman on Debian)".to_owned());
    }
    if hybrid() && !is_installed("runc") {
        return Some(
            "this host uses cgroup v1 and v2 together, which only the container runtime `runc` supports; install it"
                .to_owned(),
        );
    }
    let user = rustix::process::geteuid().as_raw();
    if user != 0 && !is_installed("newuidmap") {
        return Some("`newuidmap` is not installed (package uidmap on Debian)".to_owned());
    }
    if user != 0 && !has_users(user) {
        return Some(format!(
            "user {user} has no subordinate users in /etc/subuid and /etc/subgid, which Podman needs; give it some (usermod --add-subuids)"
        ));
    }
    None
}

/// Name by which Podman knows the image of a cell: one of this host, which is never fetched.
fn local_image(image: &str) -> String {
    format!("localhost/{image}")
}

/// Those of the images that Podman does not have; none if it cannot be asked.
pub(crate) fn missing_images(images: BTreeSet<String>) -> BTreeSet<String> {
    let is_missing = |image: &String| {
        let asked = Command::new(PROGRAM)
            .args(["image", "exists", &local_image(image)])
            .env_clear()
            .envs(environment())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        // Source: podman-image-exists(1).
        asked.is_ok_and(|status| status.code() == Some(1))
    };
    images.into_iter().filter(is_missing).collect()
}

/// Whether a user was given other users to map. Source: subuid(5).
fn has_users(uid: u32) -> bool {
    let name = accounts::find_account(|a| a.uid == uid).map(|a| a.name);
    ["/etc/subuid", "/etc/subgid"].into_iter().all(|path| {
        let table = std::fs::read_to_string(path).unwrap_or_default();
        let mut names = table.lines().filter_map(|l| l.split(':').next());
        names.any(|n| Some(n) == name.as_deref() || n == uid.to_string())
    })
}

/// What Podman is told of its surroundings: where this user's images are.
fn environment() -> Vec<(String, String)> {
    let uid = rustix::process::geteuid().as_raw();
    let home =
        accounts::find_account(|a| a.uid == uid).map_or_else(|| "/root".to_owned(), |a| a.home);
    let mut env = vec![
        ("PATH".to_owned(), SYSTEM_PATH.to_owned()),
        ("HOME".to_owned(), home),
    ];
    let runtime = format!("/run/user/{uid}");
    if uid != 0 && Path::new(&runtime).is_dir() {
        env.push(("XDG_RUNTIME_DIR".to_owned(), runtime));
    }
    env
}

/// Podman name of the container of a cell: `GROUP-CELL`, with the name of the house's control groups.
pub(crate) fn container_name(group: &str, cell: &CellName) -> String {
    format!("{group}-{cell}")
}

/// Complete `podman run` command line for the container of a cell. Nothing in it comes from an agent.
pub(super) fn podman_run_arguments(
    spec: &CellSpec,
    container: &Container,
    tools: &Path,
    config: &Path,
    seccomp: &Path,
    hybrid: bool,
    rootless: bool,
) -> Vec<String> {
    let mut all: Vec<String> = vec![PROGRAM.to_owned()];
    let mut add = |arguments: &[&str]| all.extend(arguments.iter().map(|a| (*a).to_owned()));
    // The manager of this host is Abbey: it made the group that the container is put below.
    add(&["--cgroup-manager", "cgroupfs"]);
    if hybrid {
        add(&["--runtime", "runc"]);
    }
    add(&[
        "run",
        "--rm",
        "--replace",
        "--pull",
        "never",
        "--log-driver",
        "none",
    ]);
    add(&["--name", &container_name(&spec.group, &spec.cell)]);
    add(&["--hostname", spec.cell.slug().as_str(), "--network", "none"]);
    // An ordinary user's groups are its own to make only where there is one version of them.
    let limited = !(rootless && hybrid);
    match rootless {
        true => add(&["--userns", "keep-id"]),
        false => add(&["--cgroup-parent", &format!("/{}/{}", spec.group, spec.cell)]),
    }
    if let Some(uid) = spec.uid {
        add(&["--user", &format!("{uid}:{uid}")]);
    }
    add(&["--cap-drop", "all", "--security-opt", "no-new-privileges"]);
    add(&["--security-opt", &format!("seccomp={}", seccomp.display())]);
    add(&["--read-only", "--read-only-tmpfs=false"]);
    let tmp = format!(
        "/tmp:rw,mode=1777,size={}",
        (spec.limits.memory.0 / 4).max(16 << 20)
    );
    add(&["--tmpfs", &tmp]);
    let cpus = format!(
        "{}.{:03}",
        spec.limits.cpu_milli / 1000,
        spec.limits.cpu_milli % 1000
    );
    if limited {
        add(&[
            "--memory",
            &spec.limits.memory.0.to_string(),
            "--cpus",
            &cpus,
        ]);
        // One more: the first process.
        add(&["--pids-limit", &(spec.limits.processes + 1).to_string()]);
    }
    let files = open_files_of_cell(spec.limits.processes);
    let files = format!("nofile={files}:{files}");
    for limit in [files.as_str(), "nproc=4096:4096", "core=0:0"] {
        add(&["--ulimit", limit]);
    }
    // The channel is descriptor 4; 3 is what announces readiness elsewhere.
    add(&["--preserve-fds", "2"]);
    let mut volume = |from: &Path, to: &str, how: &str| {
        add(&["--volume", &format!("{}:{to}:{how}", from.display())]);
    };
    volume(tools, "/abbey", "ro");
    volume(config, CONFIG, "ro");
    volume(
        &container.files.join("home"),
        "/agent/home",
        "rw,nosuid,nodev",
    );
    volume(
        &container.files.join("workspace"),
        "/agent/workspace",
        "rw,nosuid,nodev",
    );
    volume(&container.skills, SKILLS_IN_CELL, "ro,nosuid,nodev");
    add(&["--workdir", "/", "--entrypoint", "/abbey/lib/ld.so"]);
    add(&[&local_image(&container.image)]);
    add(&[
        "--library-path",
        "/abbey/lib",
        "/abbey/abbey",
        "role",
        "guest",
    ]);
    all
}

/// Writes the seccomp profile of a cell's container where only the house's root helper (or the user of a house without
/// one) can change it. Returns its path.
fn write_seccomp_profile(run_dir: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = run_dir.join("seccomp.json");
    let profile = oci_seccomp_profile(Profile::Jit).map_err(|e| Error::Record {
        path: path.clone(),
        why: e.to_string(),
    })?;
    let _left_by_a_crash = std::fs::remove_file(&path);
    std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(profile.as_bytes()))
        .map_err(Error::file("write", &path))?;
    Ok(path)
}

/// Writes the instructions and builds the command line and channel of a cell's container; Podman is not started
/// yet.
pub(crate) fn prepare_container(
    spec: &CellSpec,
    container: &Container,
    boot: u64,
) -> Result<PreparedGuest> {
    let tools = ensure_tools_directory(&container.images)?;
    let config = config_path(spec);
    let mut told = guest_instructions(spec, boot)?;
    told.contained = true;
    write_config(&config, Some(&told), spec.uid)?;
    let seccomp = write_seccomp_profile(&spec.run_dir)?;
    let rootless = !rustix::process::geteuid().is_root();
    let broken = || Error::file("make", "a socket pair");
    let (channel, end) = UnixStream::pair().map_err(broken())?;
    channel.set_nonblocking(true).map_err(broken())?;
    let outer = CellSpec {
        program: CellProgram::Path(PathBuf::from(PROGRAM)),
        argv: podman_run_arguments(
            spec,
            container,
            &tools,
            &config,
            &seccomp,
            hybrid(),
            rootless,
        ),
        env: environment(),
        cwd: PathBuf::from("/"),
        uid: None,
        limits: Limits {
            memory: Bytes(spec.limits.memory.0 + OVERHEAD.0),
            processes: spec.limits.processes + PROCESSES,
            ..spec.limits
        },
        network: None,
        forwards: Vec::new(),
        terminal: false,
        ready_within: None,
        container: None,
        asks_root: rootless,
        ..spec.clone()
    };
    Ok(PreparedGuest {
        outer,
        fds: vec![end.into()],
        line: GuestLine::Open(channel.into()),
        firecracker_setup: None,
        monitor: None,
        held: None,
        aside: SnapshotRole::Nothing,
    })
}

/// Removes the container of a cell with `podman rm --force`. Succeeds if there is none.
pub(crate) fn remove_container(group: &str, cell: &CellName) -> Result<()> {
    let ended = Command::new(PROGRAM)
        .args([
            "--cgroup-manager",
            "cgroupfs",
            "rm",
            "--force",
            "--ignore",
            "--time",
            "0",
        ])
        .arg(container_name(group, cell))
        .env_clear()
        .envs(environment())
        .env("CONTAINERS_TIMEOUT", REMOVE_WITHIN_S.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    match ended {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Error::Monitor {
            socket: PathBuf::from(PROGRAM),
            why: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
        Err(e) => Err(Error::file("run", PROGRAM)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_made_by_this_command() {
        let mut spec = CellSpec::sample();
        spec.uid = Some(70_001);
        spec.group = "abbey-0123".to_owned();
        let container = Container {
            image: "base".to_owned(),
            images: "/h/images".into(),
            files: "/h/agents/a".into(),
            skills: "/h/skills".into(),
        };
        let all = podman_run_arguments(
            &spec,
            &container,
            Path::new("/h/images/.tools/t.d"),
            Path::new("/h/run/cells/agent-a/config"),
            Path::new("/h/run/cells/agent-a/seccomp.json"),
            true,
            false,
        );
        insta::assert_snapshot!(all.join("\n"));
        // An ordinary user keeps its own number in the container, and has no groups to limit it with here.
        spec.uid = None;
        let config = Path::new("/h/run/cells/agent-a/config");
        let tools = Path::new("/h/images/.tools/t.d");
        let seccomp = Path::new("/h/run/cells/agent-a/seccomp.json");
        let theirs = podman_run_arguments(&spec, &container, tools, config, seccomp, true, true);
        assert!(theirs.windows(2).any(|w| w == ["--userns", "keep-id"]));
        assert!(
            !theirs
                .iter()
                .any(|a| a == "--memory" || a == "--cgroup-parent")
        );
        let limited = podman_run_arguments(&spec, &container, tools, config, seccomp, false, true);
        assert!(limited.iter().any(|a| a == "--memory"));
    }
}
