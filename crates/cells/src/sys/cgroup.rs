//! Control groups: limits that a cell cannot leave, and a kill that misses nobody.
//!
//! Two layouts. Version 2 alone: one directory does everything. Hybrid (controllers bound to
//! version 1): one directory in each controller for limits, and one in the bare version 2 tree,
//! whose `cgroup.kill` works without any controller.
//! Source: kernel documentation, admin-guide/cgroup-v2 and cgroup-v1.

use crate::sys::process;
use crate::{Error, Result};
use abbey_launch::read_kernel_file;
use abbey_model::{Bytes, CellName, Limits};
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ROOT: &str = "/sys/fs/cgroup";
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// Group beside those of the cells for the processes of a delegated group, which may have none once it has limits
/// below it.
const LEAF: &str = "abbey-control";
const PERIOD_US: u64 = 100_000;
/// Longest time for which processes that fork meanwhile are moved into the leaf.
const MOVE_WITHIN: Duration = Duration::from_secs(5);
/// Bounds of version 1 on reading and writing.
const THROTTLES: [&str; 2] = [
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
];

/// Limits on swap, of both versions.
const SWAP_LIMITS: [&str; 2] = ["memory.swap.max", "memory.memsw.limit_in_bytes"];
/// Bound of version 1 on the memory of sockets, which it does not count as memory of the group. It holds for every
/// protocol, whatever the name says; version 2 counts this memory like any other.
const SOCKET_LIMIT: &str = "memory.kmem.tcp.limit_in_bytes";
/// Part of a cell's memory limit that its sockets may have in addition, as a divisor.
const SOCKET_PART: u64 = 4;

/// Number of the whole disk that holds a path; parts of one have no bounds.
fn disk_of(path: &Path) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let device = fs::metadata(path)
        .map_err(Error::file("look at", path))?
        .dev();
    let number = format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    let known = Path::new("/sys/dev/block").join(&number);
    let none = || {
        let text = format!(
            "`{}` is on a file system for which the kernel cannot limit disk I/O",
            path.display()
        );
        Error::Limits(text)
    };
    let place = known.canonicalize().map_err(|_| none())?;
    if !place.join("partition").exists() {
        return Ok(number);
    }
    let whole = place.parent().map(|p| p.join("dev")).ok_or_else(none)?;
    let text = fs::read_to_string(whole).map_err(|_| none())?;
    Ok(text.trim().to_owned())
}

/// Resource use of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupUsage {
    /// Memory in use, bytes.
    pub memory: Bytes,
    /// CPU time since the boot of the cell, microseconds.
    pub cpu_us: u64,
    /// Number of processes.
    pub processes: u64,
}

/// The control groups of one cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlGroups {
    dirs: Vec<PathBuf>,
}

enum Layout {
    V2(PathBuf),
    Hybrid {
        controllers: Vec<PathBuf>,
        unified: Option<PathBuf>,
    },
}

impl Layout {
    /// Directories of the groups of a cell of a house, or of the house itself.
    fn dirs(self, house: &str, cell: Option<&str>) -> Vec<PathBuf> {
        let name = |base: PathBuf| match cell {
            Some(cell) => base.join(house).join(cell),
            None => base.join(house),
        };
        match self {
            Layout::V2(base) => vec![name(base)],
            Layout::Hybrid {
                controllers,
                unified,
            } => controllers.into_iter().chain(unified).map(name).collect(),
        }
    }
}

fn layout() -> std::result::Result<Layout, String> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(Layout::V2(base_v2(root)));
    }
    let mut controllers = Vec::new();
    for name in CONTROLLERS {
        let found = [name.to_owned(), "cpu,cpuacct".to_owned()]
            .into_iter()
            .map(|n| root.join(n))
            .find(|d| d.join("cgroup.procs").exists() && (name == "cpu" || d.ends_with(name)));
        controllers.push(
            found.ok_or_else(|| format!("the `{name}` controller is not mounted under {ROOT}"))?,
        );
    }
    let unified = root.join("unified");
    let unified = unified.join("cgroup.procs").exists().then_some(unified);
    Ok(Layout::Hybrid {
        controllers,
        unified,
    })
}

/// Where our groups go in version 2: root makes them at the top; a user inside what was
/// delegated to it.
fn base_v2(root: &Path) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return root.to_owned();
    }
    delegated_group(
        root,
        &fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
    )
}

/// The group that was delegated to a process with this `/proc/PID/cgroup`: its own, or the one above if the process is
/// in the leaf that [`enable_controllers`] made.
fn delegated_group(root: &Path, own: &str) -> PathBuf {
    let path = own.lines().find_map(|l| l.strip_prefix("0::"));
    let own = root.join(path.unwrap_or("/").trim_start_matches('/'));
    match own.parent() {
        Some(above) if own.ends_with(LEAF) => above.to_owned(),
        _ => own,
    }
}

/// Lets the groups below one have these controllers. Where processes are in it, as in a group that was delegated or in
/// that of a container, the kernel refuses: they move into a leaf first.
/// Source: kernel documentation, admin-guide/cgroup-v2, no internal process constraint.
fn enable_controllers(base: &Path, controllers: &str) -> Result<()> {
    let path = base.join("cgroup.subtree_control");
    let until = Instant::now() + MOVE_WITHIN;
    loop {
        match fs::write(&path, controllers) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {}
            other => return other.map_err(Error::file("write", path)),
        }
        let leaf = base.join(LEAF);
        fs::create_dir_all(&leaf).map_err(Error::file("make", &leaf))?;
        let entrance = leaf.join("cgroup.procs");
        let listed = base.join("cgroup.procs");
        let processes = fs::read_to_string(&listed).map_err(Error::file("read", listed))?;
        for pid in processes.lines() {
            match fs::write(&entrance, pid) {
                // It has ended meanwhile.
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                other => other.map_err(Error::file("write", &entrance))?,
            }
        }
    }
}

/// Writes a file of a group, which must be there: asked to make one, the kernel would report another error.
fn write(path: &Path, text: &str) -> Result<()> {
    let opened = fs::OpenOptions::new().write(true).open(path);
    let mut file = opened.map_err(Error::file("open", path))?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(Error::file("write", path))
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The groups directly below one. A group has dozens of files, so none of them is asked what it is.
fn below(dir: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    // Each directory below one is a link to it (`..`), beside its name and its own `.`.
    if fs::metadata(dir).map_or(true, |m| m.nlink() == 2) {
        return Vec::new();
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    dirs.map(|e| e.path()).collect()
}

/// Removes a group and those below it, as far as they have no process.
fn remove_empty(dir: &Path) {
    for inner in below(dir) {
        remove_empty(&inner);
    }
    let _in_use = fs::remove_dir(dir);
}

impl ControlGroups {
    /// Control groups at these directories, as read from a cell's record.
    pub fn from_paths(dirs: Vec<PathBuf>) -> Self {
        ControlGroups { dirs }
    }

    /// Parent groups of a house in every mounted hierarchy, whether they exist or not. The same directory may be mounted
    /// under two names.
    fn parents(house: &str) -> impl Iterator<Item = PathBuf> {
        let mounted = fs::read_dir(ROOT).into_iter().flatten().flatten();
        let mounted = mounted.map(|e| e.path());
        let root = PathBuf::from(ROOT);
        // Of what was delegated to a user; that of root is not twice among those of a cell.
        let delegated = Some(base_v2(&root)).filter(|base| *base != root);
        let all = mounted.chain([root]).chain(delegated);
        all.map(move |root| root.join(house))
    }

    /// All existing control groups of a cell in every mounted hierarchy, including those that a container runtime
    /// created.
    pub(crate) fn find_existing(house: &str, cell: &str) -> ControlGroups {
        // Twice removed is once.
        let dirs = Self::parents(house).map(|parent| parent.join(cell));
        ControlGroups {
            dirs: dirs.filter(|d| d.is_dir()).collect(),
        }
    }

    /// Reason why limits cannot be enforced by control groups on this host; none if they can.
    pub fn why_unusable(house: &str) -> Option<String> {
        let probe = || -> std::result::Result<(), String> {
            let dirs = Self::dirs(house, None)?;
            for dir in &dirs {
                let existed = dir.exists();
                fs::create_dir_all(dir)
                    .map_err(|e| format!("`{}` cannot be made: {e}", dir.display()))?;
                if !existed {
                    let _still_used = fs::remove_dir(dir);
                }
            }
            if let Layout::V2(base) = layout()? {
                // Of a group that its user may divide these belong to the user; see systemd's `Delegate=`.
                for file in ["cgroup.procs", "cgroup.subtree_control"] {
                    let path = base.join(file);
                    rustix::fs::access(&path, rustix::fs::Access::WRITE_OK).map_err(|e| {
                        let e = io::Error::from(e);
                        format!("`{}` cannot be written: {e}", path.display())
                    })?;
                }
                let have = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
                for name in CONTROLLERS {
                    if !have.split_whitespace().any(|c| c == name) {
                        return Err(format!(
                            "the `{name}` controller is not delegated to `{}`",
                            base.display()
                        ));
                    }
                }
            }
            Ok(())
        };
        probe().err()
    }

    fn dirs(house: &str, cell: Option<&str>) -> std::result::Result<Vec<PathBuf>, String> {
        Ok(layout()?.dirs(house, cell))
    }

    /// Creates the control groups of a cell and sets its memory, CPU and process limits.
    ///
    /// # Errors
    /// As [`ControlGroups::create_unlimited`] and [`ControlGroups::set_limits`].
    pub fn create(house: &str, cell: &str, limits: &Limits) -> Result<ControlGroups> {
        let groups = Self::create_unlimited(house, cell)?;
        groups.set_limits(limits)?;
        Ok(groups)
    }

    /// Creates the control groups of a cell, which have no limits yet.
    ///
    /// # Errors
    /// [`Error::Limits`] when the host has no usable groups, [`Error::File`] when one refuses.
    pub fn create_unlimited(house: &str, cell: &str) -> Result<ControlGroups> {
        let layout = layout().map_err(Error::Limits)?;
        if let Layout::V2(base) = &layout {
            for dir in [base.clone(), base.join(house)] {
                fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
                enable_controllers(&dir, "+memory +cpu +pids")?;
            }
        }
        let dirs = layout.dirs(house, Some(cell));
        for dir in &dirs {
            fs::create_dir_all(dir).map_err(Error::file("make", dir))?;
        }
        Ok(ControlGroups { dirs })
    }

    /// Sets the limits of memory, CPU and processes.
    ///
    /// # Errors
    /// [`Error::File`] when a group refuses.
    pub fn set_limits(&self, limits: &Limits) -> Result<()> {
        let memory = limits.memory.0.to_string();
        let quota = u64::from(limits.cpu_milli) * PERIOD_US / 1000;
        let (quota, period) = (quota.max(1000).to_string(), PERIOD_US.to_string());
        let settings = match self.is_v1() {
            false => vec![
                ("memory.max", memory),
                ("memory.swap.max", "0".to_owned()),
                ("cpu.max", format!("{quota} {period}")),
            ],
            true => vec![
                ("memory.limit_in_bytes", memory.clone()),
                ("memory.memsw.limit_in_bytes", memory),
                (SOCKET_LIMIT, (limits.memory.0 / SOCKET_PART).to_string()),
                ("cpu.cfs_period_us", period),
                ("cpu.cfs_quota_us", quota),
            ],
        };
        let processes = ("pids.max", limits.processes.to_string());
        for (file, value) in settings.into_iter().chain([processes]) {
            let Some(dir) = self.group_with(file) else {
                continue;
            };
            match write(&dir.join(file), &value) {
                // The kernel may have no accounting of swap. With it, a cell could push its excess there.
                Err(_) if SWAP_LIMITS.contains(&file) => {}
                // A controller that is missing is missing in what is read back.
                Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Limits that the kernel applies to the groups; none if a controller is missing, or if sockets may have more memory
    /// than programs.
    pub fn read_limits(&self) -> Option<Limits> {
        let read = |file: &str| number(&self.read(file)?);
        let (memory, quota, period) = match self.is_v1() {
            false => {
                let cpu = self.read("cpu.max")?;
                let (quota, period) = cpu.trim().split_once(' ')?;
                (read("memory.max")?, number(quota)?, number(period)?)
            }
            true => {
                let memory = read("memory.limit_in_bytes")?;
                // A kernel without networks has no such file.
                if read(SOCKET_LIMIT).is_some_and(|sockets| sockets > memory / SOCKET_PART) {
                    return None;
                }
                (
                    memory,
                    read("cpu.cfs_quota_us")?,
                    read("cpu.cfs_period_us")?,
                )
            }
        };
        Some(Limits {
            memory: Bytes(memory),
            cpu_milli: u32::try_from(quota * 1000 / period.max(1)).ok()?,
            processes: u32::try_from(read("pids.max")?).ok()?,
            io: self.io(),
        })
    }

    /// Limits reading and writing to `io` bytes/s each, on the disk that holds `path`.
    ///
    /// # Errors
    /// [`Error::Limits`] when the kernel has no such bound here, [`Error::File`] when it refuses.
    pub fn limit_io(&mut self, house: &str, cell: &str, path: &Path, io: Bytes) -> Result<()> {
        let disk = disk_of(path)?;
        match layout().map_err(Error::Limits)? {
            Layout::V2(base) => {
                for dir in [base.clone(), base.join(house)] {
                    enable_controllers(&dir, "+io")?;
                }
                let dir = base.join(house).join(cell);
                let line = format!("{disk} rbps={0} wbps={0}", io.0);
                write(&dir.join("io.max"), &line)
            }
            Layout::Hybrid { .. } => {
                let root = Path::new(ROOT).join("blkio");
                if !root.join("blkio.throttle.read_bps_device").exists() {
                    let why = "the `blkio` controller is not mounted or does not throttle";
                    return Err(Error::Limits(why.to_owned()));
                }
                let dir = root.join(house).join(cell);
                fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
                self.dirs.push(dir.clone());
                for file in THROTTLES {
                    write(&dir.join(file), &format!("{disk} {}", io.0))?;
                }
                Ok(())
            }
        }
    }

    /// The bound on the disk that the kernel applies in both directions.
    fn io(&self) -> Option<Bytes> {
        if !self.is_v1() {
            let text = self.read("io.max")?;
            let words: Vec<&str> = text.split_whitespace().collect();
            let bound = |name: &str| {
                words
                    .iter()
                    .find_map(|w| w.strip_prefix(name)?.parse().ok())
            };
            let (read, written): (u64, u64) = (bound("rbps=")?, bound("wbps=")?);
            return Some(Bytes(read.max(written)));
        }
        let bound = |file: &str| {
            let text = self.read(file)?;
            text.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        let (read, written) = (bound(THROTTLES[0])?, bound(THROTTLES[1])?);
        Some(Bytes(read.max(written)))
    }

    /// Directories of the groups.
    pub fn paths(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Whether the limits are those of version 1, which has a directory for each controller.
    fn is_v1(&self) -> bool {
        self.dirs.len() > 1
    }

    /// Directory that has this file if any has: of version 1 the one of the file's controller, beside which the one of version
    /// 2 has what belongs to no controller.
    fn group_with(&self, file: &str) -> Option<&PathBuf> {
        if !self.is_v1() {
            return self.dirs.first();
        }
        let controller = match file.split_once('.')?.0 {
            "cgroup" => "unified",
            controller => controller,
        };
        let is_its = |dir: &&PathBuf| {
            let below = dir.strip_prefix(ROOT).ok();
            let hierarchy = below.and_then(|d| d.iter().next()?.to_str());
            hierarchy.is_some_and(|names| names.split(',').any(|name| name == controller))
        };
        self.dirs.iter().find(is_its)
    }

    /// Text of a file of the groups; none if there is no such file.
    fn read(&self, file: &str) -> Option<String> {
        read_kernel_file(self.group_with(file)?.join(file)).ok()
    }

    /// Whether the kernel reports that no process is left in the groups and below; none if it does not report this.
    pub(crate) fn are_empty(&self) -> Option<bool> {
        let events = self.read("cgroup.events")?;
        let populated = events.lines().find_map(|l| l.strip_prefix("populated "));
        populated.map(|number| number == "0")
    }

    /// Opens the groups so that a launched process can be placed in them.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn open_for_launch(&self) -> Result<abbey_launch::CgroupEntrances> {
        let mut groups = abbey_launch::CgroupEntrances::default();
        for dir in &self.dirs {
            let tasks = dir.join("tasks");
            match fs::OpenOptions::new().write(true).open(&tasks) {
                Ok(tasks) => groups.joined.push(tasks.into()),
                // Version 2 has no such file.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let open = rustix::fs::open(dir, flags, Mode::empty());
                    groups.born_in = Some(open.map_err(|e| Error::file("open", dir)(e.into()))?);
                }
                Err(e) => return Err(Error::file("open", tasks)(e)),
            }
        }
        Ok(groups)
    }

    /// Process ids of all processes in the groups and the groups below.
    pub fn processes(&self) -> Vec<i32> {
        let mut dirs = self.dirs.clone();
        let mut pids: Vec<i32> = Vec::new();
        while let Some(dir) = dirs.pop() {
            let text = read_kernel_file(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
            dirs.extend(below(&dir));
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Freezes (`on`) or thaws all processes of the groups, with the cgroup freezer or else by `SIGSTOP` and
    /// `SIGCONT`. Returns whether this succeeded `within` the time.
    pub fn set_frozen(&self, on: bool, within: Duration) -> bool {
        let until = Instant::now() + within;
        let frozen = self.group_with("cgroup.freeze");
        let Some(dir) = frozen.filter(|d| d.join("cgroup.freeze").exists()) else {
            return process::signal_until_stopped(|| self.processes(), on, until);
        };
        if fs::write(dir.join("cgroup.freeze"), if on { "1" } else { "0" }).is_err() {
            return false;
        }
        let wanted = if on { "frozen 1" } else { "frozen 0" };
        loop {
            let events = self.read("cgroup.events").unwrap_or_default();
            if events.lines().any(|l| l == wanted) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills all processes of the groups and waits until none is left.
    ///
    /// # Errors
    /// Ids of the processes that are still there after `within`.
    pub fn kill_all(&self, within: Duration) -> std::result::Result<(), Vec<i32>> {
        let until = Instant::now() + within;
        loop {
            if let Some(dir) = self.group_with("cgroup.kill") {
                let _older_kernel = write(&dir.join("cgroup.kill"), "1");
            }
            let left = self.processes();
            if left.is_empty() {
                return Ok(());
            }
            for pid in &left {
                // Still listed in our group a moment ago, so the number is ours.
                if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
                    let _gone_already =
                        rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            if Instant::now() >= until {
                return Err(left);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes the groups, which must have no processes. The house's parent group stays for the next cell.
    ///
    /// # Errors
    /// When a group stays in use.
    pub fn remove(&self) -> Result<()> {
        for dir in &self.dirs {
            let mut tries = 0;
            loop {
                match fs::remove_dir(dir) {
                    Ok(()) => break,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                    // A process that just died can keep the group busy for a moment.
                    Err(e) if e.kind() == io::ErrorKind::ResourceBusy && tries < 200 => {
                        tries += 1;
                        // What was made below, by whoever runs containers.
                        let below = below(dir);
                        match below.is_empty() {
                            true => std::thread::sleep(Duration::from_millis(5)),
                            false => ControlGroups::from_paths(below).remove()?,
                        }
                    }
                    Err(e) => return Err(Error::file("remove", dir)(e)),
                }
            }
        }
        Ok(())
    }

    /// Removes the groups of cells of a house that have no process and of which `is_cell` does not say that they are of
    /// a cell, and then the parent groups of the house if they have no cell. What is in use stays.
    pub(crate) fn remove_unused(house: &str, is_cell: impl Fn(&CellName) -> bool) {
        for parent in Self::parents(house) {
            for dir in below(&parent) {
                let name = dir.file_name().and_then(|name| name.to_str());
                let cell: Option<CellName> = name.and_then(|name| name.parse().ok());
                if cell.is_some_and(|cell| !is_cell(&cell)) {
                    remove_empty(&dir);
                }
            }
            // The kernel refuses to remove a group that has a process or another group.
            let _none_or_in_use = fs::remove_dir(parent);
        }
    }

    /// Whether the kernel's out-of-memory killer killed a process of the groups.
    pub fn ran_out_of_memory(&self) -> bool {
        let file = match self.is_v1() {
            true => "memory.oom_control",
            false => "memory.events",
        };
        self.read(file).is_some_and(|text| {
            let mut kills = text.lines().filter_map(|l| l.strip_prefix("oom_kill "));
            kills.any(|n| n.trim() != "0")
        })
    }

    /// Highest memory use of the groups so far; 0 if the kernel does not report it.
    pub fn memory_peak(&self) -> Bytes {
        let file = match self.is_v1() {
            true => "memory.max_usage_in_bytes",
            false => "memory.peak",
        };
        Bytes(self.read(file).and_then(|t| number(&t)).unwrap_or(0))
    }

    /// Current memory, CPU time and number of processes of the groups.
    pub fn usage(&self) -> CgroupUsage {
        let file = match self.is_v1() {
            true => "memory.usage_in_bytes",
            false => "memory.current",
        };
        let memory = self.read(file).and_then(|t| number(&t));
        let cpu_us = self.read("cpu.stat").and_then(|t| {
            t.lines()
                .find_map(|l| l.strip_prefix("usage_usec ")?.trim().parse().ok())
        });
        CgroupUsage {
            memory: Bytes(memory.unwrap_or(0)),
            cpu_us: cpu_us.unwrap_or(0),
            processes: self.processes().len() as u64,
        }
    }

    /// Directories of the control groups of all cells of the house; the last part is the name of the cell.
    pub fn list_cells(house: &str) -> Vec<PathBuf> {
        let dirs = Self::dirs(house, None).unwrap_or_default();
        let inner = dirs
            .iter()
            .filter_map(|d| fs::read_dir(d).ok())
            .flatten()
            .flatten();
        inner.map(|e| e.path()).filter(|p| p.is_dir()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_beside_the_leaf_of_a_delegated_group() {
        let group = |own: &str| delegated_group(Path::new(ROOT), own);
        let delegated = Path::new("/sys/fs/cgroup/user.slice/run-1.scope");
        assert_eq!(group("0::/user.slice/run-1.scope\n"), delegated);
        assert_eq!(
            group("0::/user.slice/run-1.scope/abbey-control\n"),
            delegated
        );
        assert_eq!(group("0::/\n"), Path::new(ROOT));
    }

    #[test]
    fn a_file_is_in_the_group_of_its_controller() {
        let group = |hierarchy: &str| Path::new(ROOT).join(hierarchy).join("abbey-1/agent-a");
        let hybrid = ["memory", "cpu,cpuacct", "pids", "unified"].map(group);
        let groups = ControlGroups::from_paths(hybrid.to_vec());
        for (file, expected) in [
            ("memory.limit_in_bytes", Some(&hybrid[0])),
            ("cpu.cfs_quota_us", Some(&hybrid[1])),
            ("pids.max", Some(&hybrid[2])),
            ("cgroup.events", Some(&hybrid[3])),
            ("blkio.throttle.read_bps_device", None),
        ] {
            assert_eq!(groups.group_with(file), expected, "{file}");
        }
        let only = Path::new(ROOT).join("abbey-1/agent-a");
        let groups = ControlGroups::from_paths(vec![only.clone()]);
        for file in ["memory.max", "pids.max", "cgroup.events"] {
            assert_eq!(groups.group_with(file), Some(&only), "{file}");
        }
    }

    #[test]
    fn limits_are_read_back_as_set_and_an_empty_group_is_known_to_be_empty() {
        let house = format!("abbey-test-{}", std::process::id());
        if !rustix::process::geteuid().is_root() || ControlGroups::why_unusable(&house).is_some() {
            return;
        }
        let limits = Limits {
            memory: Bytes(64 << 20),
            cpu_milli: 500,
            processes: 20,
            io: None,
        };
        let groups = ControlGroups::create(&house, "agent-a", &limits).unwrap();
        assert_eq!(groups.read_limits(), Some(limits));
        assert_ne!(groups.are_empty(), Some(false));
        let launch = |seconds: &str| abbey_launch::LaunchSpec {
            program: abbey_launch::Executable::Path(c"/bin/sleep".to_owned(), None),
            argv: vec![
                c"sleep".to_owned(),
                std::ffi::CString::new(seconds).unwrap(),
            ],
            env: Vec::new(),
            cwd: c"/".to_owned(),
            user: None,
            groups: groups.open_for_launch().unwrap(),
            rlimits: Vec::new(),
            fds: Vec::new(),
            new_session: true,
            terminal: false,
            dies_with_parent: true,
            new_privileges: false,
        };
        let child = abbey_launch::spawn(&launch("60")).unwrap();
        assert_ne!(groups.are_empty(), Some(true));
        assert_eq!(groups.processes(), [child.pid]);
        groups.kill_all(Duration::from_secs(10)).unwrap();
        rustix::process::waitpid(
            rustix::process::Pid::from_raw(child.pid),
            rustix::process::WaitOptions::empty(),
        )
        .unwrap();
        assert_ne!(groups.are_empty(), Some(false));
        groups.remove().unwrap();
        assert!(groups.paths().iter().all(|dir| !dir.exists()));
        ControlGroups::remove_unused(&house, |_| false);
    }

    #[test]
    fn groups_without_processes_are_removed_unless_they_are_of_a_cell() {
        let house = format!("abbey-test-unused-{}", std::process::id());
        if !rustix::process::geteuid().is_root() || ControlGroups::why_unusable(&house).is_some() {
            return;
        }
        for cell in ["agent-a", "agent-b"] {
            let groups = ControlGroups::create_unlimited(&house, cell).unwrap();
            fs::create_dir_all(groups.paths()[0].join("inner")).unwrap();
        }
        let left = || {
            let dirs = ControlGroups::list_cells(&house);
            let names = dirs.iter().filter_map(|d| d.file_name()?.to_str());
            let names = names.map(str::to_owned);
            names.collect::<std::collections::BTreeSet<String>>()
        };
        ControlGroups::remove_unused(&house, |cell| cell.to_string() == "agent-a");
        assert_eq!(left(), ["agent-a".to_owned()].into());
        ControlGroups::remove_unused(&house, |_| false);
        assert!(left().is_empty());
        assert!(ControlGroups::parents(&house).all(|dir| !dir.exists()));
    }
}
