//! The same cells on FreeBSD: a jail with a network of its own, and a microVM under `bhyve`. Pure; rendered and
//! compared on every host, carried out on none yet, so a plan for one is refused.
//!
//! Programs go in by `jexec` with their arguments as they are: nothing is written into a line for a shell.
//! Sources: jail.conf(5), jail(8), jexec(8), rctl(8), nullfs(5), bhyve(8), zfs-clone(8).

use crate::CellSpec;
use abbey_model::{Drives, Slug};
use std::fmt::Write;

/// How the base of a jail comes to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JailBase {
    /// Shared and read-only below every jail, from this directory.
    Thin(String),
    /// A clone of this snapshot for each, on ZFS.
    Thick(String),
}

/// A jail, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jail {
    /// Its entry of `jail.conf`.
    pub conf: String,
    /// Its mounts, as `fstab` has them.
    pub fstab: String,
    /// Its ceilings, for `rctl -a`.
    pub rules: Vec<String>,
    /// Commands from nothing to a running program, as argument vectors.
    pub start: Vec<Vec<String>>,
    /// Commands from there to nothing.
    pub stop: Vec<Vec<String>>,
}

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|w| (*w).to_owned()).collect()
}

/// Renders configuration, mounts, limits and commands of a FreeBSD jail for an agent below `root`. `epair` is the
/// jail's end of its pair of interfaces.
pub fn render_jail(spec: &CellSpec, slug: &Slug, root: &str, epair: &str, base: &JailBase) -> Jail {
    let name = slug.jail_name();
    let (path, conf_path, fstab_path) = (
        format!("{root}/jails/{name}"),
        format!("{root}/run/{name}.conf"),
        format!("{root}/run/{name}.fstab"),
    );
    let mut conf = format!("{name} {{\n");
    for line in [
        format!("path = \"{path}\";"),
        format!("host.hostname = \"{slug}\";"),
        "vnet;".to_owned(),
        format!("vnet.interface = \"{epair}\";"),
        "persist;".to_owned(),
        "exec.clean;".to_owned(),
        "mount.devfs;".to_owned(),
        "devfs_ruleset = 5;".to_owned(),
        format!("mount.fstab = \"{fstab_path}\";"),
        "enforce_statfs = 2;".to_owned(),
        "securelevel = 3;".to_owned(),
        "children.max = 0;".to_owned(),
        "sysvmsg = new;".to_owned(),
        "sysvsem = new;".to_owned(),
        "sysvshm = new;".to_owned(),
        "allow.raw_sockets = 0;".to_owned(),
        "allow.set_hostname = 0;".to_owned(),
    ] {
        let _cannot_fail = writeln!(conf, "    {line}");
    }
    conf.push_str("}\n");
    let files = format!("{root}/agents/{slug}");
    let mut fstab = String::new();
    if let JailBase::Thin(base) = base {
        let _cannot_fail = writeln!(fstab, "{base} {path} nullfs ro,nosuid 0 0");
    }
    for (place, what) in [("home", "home"), ("workspace", "workspace")] {
        let _cannot_fail = writeln!(
            fstab,
            "{files}/{what} {path}/agent/{place} nullfs rw,nosuid 0 0"
        );
    }
    let tmp = (spec.limits.memory.0 / 4).max(16 << 20);
    let _cannot_fail = writeln!(
        fstab,
        "tmpfs {path}/tmp tmpfs rw,nosuid,size={tmp},mode=1777 0 0"
    );
    let limits = &spec.limits;
    let mut rules = vec![
        format!("jail:{name}:memoryuse:deny={}", limits.memory.0),
        format!("jail:{name}:maxproc:deny={}", limits.processes),
        format!("jail:{name}:pcpu:deny={}", limits.cpu_milli / 10),
    ];
    for direction in ["readbps", "writebps"] {
        rules.extend(
            limits
                .io
                .map(|io| format!("jail:{name}:{direction}:throttle={}", io.0)),
        );
    }
    let mut start = Vec::new();
    if let JailBase::Thick(snapshot) = base {
        let pool = snapshot.split_once('/').map_or("zroot", |(pool, _)| pool);
        let target = format!("{pool}/abbey/{name}");
        start.push(words(&[
            "zfs",
            "clone",
            "-o",
            &format!("mountpoint={path}"),
            snapshot,
            &target,
        ]));
    }
    start.extend(rules.iter().map(|r| words(&["rctl", "-a", r])));
    start.push(words(&["jail", "-c", "-f", &conf_path, &name]));
    let user = spec
        .uid
        .map_or_else(|| "agent".to_owned(), |u| u.to_string());
    let mut program = words(&["jexec", "-l", "-U", &user, &name]);
    program.extend(spec.argv.iter().cloned());
    start.push(program);
    let mut stop = vec![words(&["jail", "-r", "-f", &conf_path, &name])];
    stop.push(words(&["rctl", "-r", &format!("jail:{name}")]));
    if let JailBase::Thick(snapshot) = base {
        let pool = snapshot.split_once('/').map_or("zroot", |(pool, _)| pool);
        stop.push(words(&["zfs", "destroy", &format!("{pool}/abbey/{name}")]));
    }
    Jail {
        conf,
        fstab,
        rules,
        start,
        stop,
    }
}

/// Command line of a microVM under FreeBSD's `bhyve`, with the drives and guest port that QEMU would give it.
pub fn bhyve_arguments(
    spec: &CellSpec,
    slug: &Slug,
    root: &str,
    drives: Option<&Drives>,
) -> Vec<String> {
    let name = slug.jail_name();
    let run = format!("{root}/run/{name}");
    let cpus = spec.limits.cpu_milli.div_ceil(1000).max(1).to_string();
    let memory = format!("{}M", spec.limits.memory.0 >> 20);
    let mut all = words(&["bhyve", "-H", "-S", "-c", &cpus, "-m", &memory]);
    let mut slot = 0;
    let mut device = |what: String| {
        all.push("-s".to_owned());
        all.push(format!("{slot},{what}"));
        slot += 1;
    };
    device("hostbridge".to_owned());
    device(format!("virtio-console,abbey.guest={run}.channel"));
    device("virtio-rnd".to_owned());
    for part in ["base", "tools", "config"] {
        device(format!("virtio-blk,{root}/images/{part},ro,ser={part}"));
    }
    let lasting = drives.map_or(&[][..], |_| &["scratch", "state", "workspace"]);
    for drive in lasting {
        device(format!(
            "virtio-blk,{root}/agents/{slug}/drives/{drive}.ext4,ser={drive}"
        ));
    }
    all.extend(words(&[
        "-l",
        "com1,stdio",
        "-l",
        "bootrom,/usr/local/share/uefi-firmware/BHYVE_UEFI.fd",
    ]));
    all.push(name);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use abbey_model::Bytes;

    fn spec() -> CellSpec {
        let mut spec = CellSpec::sample();
        spec.uid = Some(70_001);
        spec.limits.io = Some(Bytes(20 << 20));
        // Nothing of this is read by a shell.
        spec.argv = words(&["abbey", "role", "native; $(id)", "a \"b\"\n"]);
        spec
    }

    fn told(jail: &Jail) -> String {
        let lines =
            |all: &[Vec<String>]| all.iter().map(|c| format!("{c:?}\n")).collect::<String>();
        format!(
            "{}\n{}\n{}\n\nstart\n{}\nstop\n{}",
            jail.conf,
            jail.fstab,
            jail.rules.join("\n"),
            lines(&jail.start),
            lines(&jail.stop)
        )
    }

    #[test]
    fn a_thin_jail_is_this() {
        let slug: Slug = "git-admin".parse().unwrap();
        let base = JailBase::Thin("/usr/local/abbey/base".to_owned());
        insta::assert_snapshot!(told(&render_jail(
            &spec(),
            &slug,
            "/var/db/abbey",
            "epair3b",
            &base
        )));
    }

    #[test]
    fn a_thick_jail_is_a_clone() {
        let slug: Slug = "a".parse().unwrap();
        let base = JailBase::Thick("tank/abbey/base@1".to_owned());
        insta::assert_snapshot!(told(&render_jail(
            &spec(),
            &slug,
            "/var/db/abbey",
            "epair3b",
            &base
        )));
    }

    #[test]
    fn a_machine_under_bhyve_has_the_same_drives() {
        let slug: Slug = "a".parse().unwrap();
        let all = bhyve_arguments(&spec(), &slug, "/var/db/abbey", Some(&Drives::default()));
        insta::assert_snapshot!(all.join(" "));
    }
}
