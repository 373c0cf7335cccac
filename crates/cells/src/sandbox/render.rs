//! What the walls of a cell are: pure, from its specification and the shape of the host's base.

use super::seccomp;
use crate::spec::{AGENT_COMMAND, COMMANDS_IN_CELL};
use crate::sys::process::own_program_path;
use crate::sys::programs::c_string;
use crate::{CellSpec, Error, ListenAddress, Result, Sandbox};
use abbey_launch::{INNER_UID, Isolation, LandlockRules, Mount, MountAttributes};
use abbey_model::Layer;
use std::ffi::CString;
use std::path::Path;

/// Directories of the base beside `/usr`; links on most systems.
const BASE: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Files of `/etc` that programs need and that say nothing about the host.
const ETC: [&str; 10] = [
    "alternatives",
    "ca-certificates",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "protocols",
    "services",
    "ssl",
];
/// Nodes of the host that are harmless in every cell.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];
/// Parts of `/proc` that tell about the host or change it.
const MASKED: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kallsyms",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
];
/// Directory of the root that stays empty.
const EMPTY: &str = "sys";
const SEALED: [&str; 6] = ["bus", "fs", "irq", "sys", "sysrq-trigger", "driver"];

/// Kind of a directory of the host's root.
pub(crate) enum HostDirectory {
    /// A symbolic link with this target.
    Link(String),
    /// A directory.
    Dir,
    /// Does not exist.
    Absent,
}

/// Whether `/NAME` on the host is a symbolic link, a directory, or missing.
pub(crate) fn inspect_host_directory(name: &str) -> HostDirectory {
    let path = Path::new("/").join(name);
    match (std::fs::read_link(&path), path.is_dir()) {
        (Ok(to), _) => HostDirectory::Link(to.to_string_lossy().into_owned()),
        (Err(_), true) => HostDirectory::Dir,
        (Err(_), false) => HostDirectory::Absent,
    }
}

/// Description of the namespaces, mounts, listeners and filters that isolate a cell, for the launch.
pub(crate) fn render_isolation(
    spec: &CellSpec,
    sandbox: &Sandbox,
    rootless: bool,
) -> Result<Isolation> {
    let inside = spec.forwards.iter().filter_map(|f| match f.at {
        ListenAddress::Cell(address) => Some(address),
        ListenAddress::Host(_) => None,
    });
    // By name: the link in `/proc` leads into our own mounts, of which the cell has a copy.
    let own = own_program_path().map_err(Error::file("find", "/proc/self/exe"))?;
    let without = abbey_launch::landlock_version() == 0 && spec.waived.contains(&Layer::Landlock);
    Ok(Isolation {
        rootless,
        outer_uid: spec
            .uid
            .unwrap_or_else(|| rustix::process::geteuid().as_raw()),
        hostname: spec.cell.slug().to_string(),
        mounts: root_mounts(
            spec,
            sandbox,
            &own.to_string_lossy(),
            &inspect_host_directory,
        )?,
        listen: inside.collect(),
        landlock: Some(landlock_rules(sandbox)?).filter(|_| !without),
        filters: seccomp::seccomp_filters(sandbox.profile)?,
    })
}

/// Landlock rules of a sandbox: the paths that it may write.
pub(super) fn landlock_rules(sandbox: &Sandbox) -> Result<LandlockRules> {
    let mut write: Vec<CString> = vec![c_string(b"/tmp")?, c_string(b"/dev/shm")?];
    for bind in sandbox.binds.iter().filter(|b| b.writable) {
        write.push(c_string(bind.path.as_os_str().as_encoded_bytes())?);
    }
    Ok(LandlockRules {
        write,
        probe: c_string(b"/run/probe")?,
    })
}

fn relative(path: &str) -> Result<CString> {
    c_string(path.trim_start_matches('/').as_bytes())
}

/// Steps that build the root file system of a cell, in order. `own` is the path of Abbey's binary, `base` inspects
/// the host's directories.
pub(crate) fn root_mounts(
    spec: &CellSpec,
    sandbox: &Sandbox,
    own: &str,
    base: &dyn Fn(&str) -> HostDirectory,
) -> Result<Vec<Mount>> {
    let sealed = MountAttributes {
        read_only: true,
        ..MountAttributes::default()
    };
    let bind = |source: &str, path: &str, attributes, optional| -> Result<Mount> {
        Ok(Mount::Bind {
            source: c_string(source.as_bytes())?,
            path: relative(path)?,
            attributes,
            optional,
        })
    };
    let mut steps = vec![bind("/usr", "usr", sealed, false)?];
    for name in BASE {
        match base(name) {
            HostDirectory::Link(to) => {
                steps.push(Mount::Link(relative(name)?, c_string(to.as_bytes())?))
            }
            HostDirectory::Dir => steps.push(bind(&format!("/{name}"), name, sealed, false)?),
            HostDirectory::Absent => {}
        }
    }
    steps.push(Mount::Dir(relative("etc")?, 0o755));
    for name in ETC {
        let path = format!("/etc/{name}");
        steps.push(bind(&path, &path, sealed, true)?);
    }
    let slug = spec.cell.slug();
    let home = sandbox
        .binds
        .iter()
        .find(|b| b.writable)
        .map_or_else(|| "/tmp".to_owned(), |b| b.path.display().to_string());
    let files = [
        (
            "etc/passwd",
            format!(
                "agent:x:{INNER_UID}:{INNER_UID}:{slug}:{home}:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n"
            ),
        ),
        (
            "etc/group",
            format!("agent:x:{INNER_UID}:\nnogroup:x:65534:\n"),
        ),
        (
            "etc/hosts",
            format!("127.0.0.1 localhost {slug}\n::1 localhost\n"),
        ),
        ("etc/hostname", format!("{slug}\n")),
        (
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n".to_owned(),
        ),
        (
            "etc/resolv.conf",
            "nameserver 127.0.0.1\noptions use-vc timeout:4 attempts:1\n".to_owned(),
        ),
    ];
    for (path, content) in files {
        steps.push(Mount::File(relative(path)?, content.into_bytes(), 0o444));
    }
    let nodes = MountAttributes {
        no_exec: true,
        devices: true,
        ..MountAttributes::default()
    };
    let memory = MountAttributes {
        no_exec: true,
        ..MountAttributes::default()
    };
    steps.push(Mount::Dir(relative("dev")?, 0o755));
    for name in DEVICES {
        let path = format!("/dev/{name}");
        steps.push(bind(&path, &path, nodes, true)?);
    }
    let links = [
        ("dev/fd", "/proc/self/fd"),
        ("dev/stdin", "/proc/self/fd/0"),
        ("dev/stdout", "/proc/self/fd/1"),
        ("dev/stderr", "/proc/self/fd/2"),
        ("dev/ptmx", "pts/ptmx"),
    ];
    for (path, to) in links {
        steps.push(Mount::Link(relative(path)?, c_string(to.as_bytes())?));
    }
    steps.push(Mount::Pts(relative("dev/pts")?));
    let tmp = sandbox.tmp.0;
    steps.extend([
        Mount::Tmpfs(
            relative("dev/shm")?,
            format!("mode=1777,size={}", tmp / 4),
            memory,
        ),
        Mount::Proc(relative("proc")?),
        Mount::Dir(relative(EMPTY)?, 0o555),
    ]);
    for name in MASKED {
        steps.push(Mount::Mask(
            relative(&format!("proc/{name}"))?,
            relative(EMPTY)?,
        ));
    }
    for name in SEALED {
        steps.push(Mount::ReadOnly(relative(&format!("proc/{name}"))?));
    }
    steps.extend([
        Mount::Dir(relative("var")?, 0o755),
        Mount::Link(relative("var/tmp")?, c_string(b"/tmp")?),
        Mount::Tmpfs(
            relative("run")?,
            "mode=755,size=64k,nr_inodes=16".to_owned(),
            memory,
        ),
        Mount::Tmpfs(
            relative("tmp")?,
            format!("mode=1777,size={tmp}"),
            MountAttributes::default(),
        ),
        Mount::Dir(relative("abbey")?, 0o755),
        bind(own, Sandbox::OWN, sealed, false)?,
        Mount::Dir(relative(COMMANDS_IN_CELL)?, 0o755),
        Mount::Link(
            relative(&format!("{COMMANDS_IN_CELL}/{AGENT_COMMAND}"))?,
            c_string(Sandbox::OWN.as_bytes())?,
        ),
    ]);
    // Parents of what is bound; their names are the house's own.
    for bound in &sandbox.binds {
        let parents: Vec<&Path> = bound.path.ancestors().skip(1).collect();
        for parent in parents.iter().rev() {
            let path = parent.display().to_string();
            let made = sandbox.binds.iter().any(|b| parent.starts_with(&b.path));
            if !path.trim_start_matches('/').is_empty() && !made {
                let step = Mount::Dir(relative(&path)?, 0o755);
                if !steps.contains(&step) {
                    steps.push(step);
                }
            }
        }
        steps.push(Mount::Bind {
            source: c_string(bound.source.as_os_str().as_encoded_bytes())?,
            path: relative(&bound.path.display().to_string())?,
            attributes: MountAttributes {
                read_only: !bound.writable,
                devices: bound.path.starts_with("/dev"),
                ..MountAttributes::default()
            },
            optional: false,
        });
    }
    Ok(steps)
}
