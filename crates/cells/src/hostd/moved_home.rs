//! A house that runs and whose home was moved away: another house at its old path would have its names and control groups, and
//! end its cells.

use super::config::control_group_of;
use crate::allocation::is_user_of_control_plane;
use crate::sys::cgroup::ControlGroups;
use crate::sys::{accounts, process};
use abbey_model::CellName;
use abbey_support::shell::shell_path;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files that a control plane and a hostd keep open, in the home.
const LOCKS: [&str; 2] = ["run/serve.lock", "hostd/hostd.lock"];

/// A process of a house that is no cell.
#[derive(Debug, Clone)]
pub(super) struct RoleProcess {
    pub(super) pid: i32,
    /// `control plane` or `hostd`.
    name: &'static str,
    /// Home that it was started with.
    pub(super) home: PathBuf,
}

/// A house that runs and whose home was moved away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedHouse {
    /// What runs, for people.
    pub running: String,
    /// Where the home is now; none if that cannot be told.
    pub now: Option<PathBuf>,
}

impl MovedHouse {
    /// Why nothing is started or stopped in `home`, from which the house was moved away.
    pub fn refusal(&self, home: &Path) -> String {
        let to = match &self.now {
            Some(now) => format!(" to `{}`", now.display()),
            None => String::new(),
        };
        format!(
            "the house that was started in `{}` still runs ({}), and its directory was moved away meanwhile{to}",
            home.display(),
            self.running
        )
    }

    /// What to do about it.
    pub fn remedy(&self, home: &Path) -> String {
        let place = Path::new("PLACE");
        let back = remedy_of_move(self.now.as_deref().unwrap_or(place), home);
        match self.now {
            Some(_) => back,
            None => format!("{back}; PLACE is where it is now"),
        }
    }
}

/// How a home that was moved from `home` to `now` while its house runs is put back, also if there is something at `home`.
pub fn remedy_of_move(now: &Path, home: &Path) -> String {
    let (from, to) = (shell_path(now), shell_path(home));
    let goes_on = "puts the home back, and the house goes on; to move a house, first stop it with `abbey down`";
    // As `mv` moves into a directory that exists.
    match fs::read_dir(home).map(|mut entries| entries.next().is_some()) {
        Ok(false) => format!("`rmdir {to} && mv {from} {to}` {goes_on}"),
        Ok(true) => {
            let aside = shell_path(&free_name_beside(home));
            format!(
                "`{}` has files of its own now: remove them or move them away, and then put the home back: `mv {to} {aside} && mv {from} {to}` {goes_on}",
                home.display()
            )
        }
        Err(_) => format!("`mv {from} {to}` {goes_on}"),
    }
}

/// Path beside a directory at which nothing is.
fn free_name_beside(home: &Path) -> PathBuf {
    let name = |number: u32| {
        let mut name = home.file_name().unwrap_or_default().to_owned();
        name.push(match number {
            0 => ".other".to_owned(),
            n => format!(".other-{n}"),
        });
        home.with_file_name(name)
    };
    let mut names = (0..1000).map(name);
    let free = names.find(|path| fs::symlink_metadata(path).is_err());
    free.unwrap_or_else(|| name(1000))
}

/// The house that runs and whose home was this directory when it started, if it was moved away meanwhile.
pub fn moved_house(home: &Path) -> Option<MovedHouse> {
    let roles = role_processes();
    let mut here = roles.iter().filter(|role| role.home == home);
    let of_role = here.find_map(|role| {
        let now = LOCKS
            .iter()
            .find_map(|lock| moved_lock(role.pid, home, lock))?;
        Some(MovedHouse {
            running: format!("its {} is process {}", role.name, role.pid),
            now,
        })
    });
    of_role.or_else(|| moved_cell(home))
}

/// Processes of control planes and of hostd on this host, as far as this process may know them.
pub(super) fn role_processes() -> Vec<RoleProcess> {
    let own = rustix::process::geteuid().as_raw();
    let account = accounts::find_account(|a| a.name == super::config::USER).map(|a| a.uid);
    let is_trusted = |pid: i32| {
        // An agent can call its programs what it likes.
        process::user_of(pid).is_some_and(|user| {
            user == 0 || user == own || Some(user) == account || is_user_of_control_plane(user)
        })
    };
    let found = process::all().filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0).skip(1);
        words.next().filter(|word| *word == b"role")?;
        let name = match words.next()? {
            b"serve" => "control plane",
            b"hostd" => "hostd",
            _ => return None,
        };
        words.find(|word| *word == b"--home")?;
        let home = PathBuf::from(OsStr::from_bytes(words.next()?));
        is_trusted(pid).then_some(RoleProcess { pid, name, home })
    });
    found.collect()
}

/// Whether a process has a lock file of a home open that is not where it was: the home in which it is now, or none if that is
/// out of sight. None if the file was not moved: it is in place, it was deleted, or the process does not have it open.
fn moved_lock(pid: i32, home: &Path, lock: &str) -> Option<Option<PathBuf>> {
    let (file, path) = open_file(pid, |path| path.ends_with(lock))?;
    // In its own mounts, which can be others than those of this process.
    let below = home.strip_prefix("/").unwrap_or(home).join(lock);
    let in_place = fs::metadata(Path::new(&format!("/proc/{pid}/root")).join(below));
    if in_place.is_ok_and(|found| identity(&found) == identity(&file)) {
        return None;
    }
    let seen = fs::metadata(&path);
    let is_seen = seen.is_ok_and(|found| identity(&found) == identity(&file));
    let now = path.ancestors().nth(Path::new(lock).iter().count());
    let now = now.filter(|now| is_seen && *now != home);
    // A lock file at its path that another has replaced is no move.
    match path.starts_with(home) {
        true => None,
        false => Some(now.map(Path::to_owned)),
    }
}

/// A cell whose shim has files open of a home that is elsewhere now. Its control groups are named by the old path.
fn moved_cell(home: &Path) -> Option<MovedHouse> {
    let group = control_group_of(home);
    let cells = ControlGroups::list_cells(&group);
    let cells = cells.iter().filter_map(|dir| dir.file_name()?.to_str());
    let mut cells = cells.filter(|cell| cell.parse::<CellName>().is_ok());
    cells.find_map(|cell| {
        let record = Path::new("run/cells").join(cell);
        if home.join(&record).exists() {
            return None;
        }
        let programs = ControlGroups::find_existing(&group, cell).processes();
        // The shim is in none of the groups; what a program has open says nothing.
        let parents = programs.iter().filter_map(|pid| process::parent(*pid));
        let mut parents = parents.filter(|parent| !programs.contains(parent));
        let of_record = |path: &Path| path.parent().is_some_and(|dir| dir.ends_with(&record));
        let (shim, path) =
            parents.find_map(|parent| Some((parent, open_file(parent, of_record)?.1)))?;
        let now = path.ancestors().nth(4)?;
        (now != home).then(|| MovedHouse {
            running: format!("the shim of {cell} is process {shim}"),
            now: Some(now.to_owned()),
        })
    })
}

/// A file that a process has open and that was not deleted, by its path, with that path.
fn open_file(pid: i32, wanted: impl Fn(&Path) -> bool) -> Option<(fs::Metadata, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut found = entries.flatten().filter_map(|entry| {
        let path = fs::read_link(entry.path()).ok()?;
        // What the kernel adds to the path of a deleted file keeps it from matching.
        let file = fs::metadata(entry.path()).ok().filter(|_| wanted(&path))?;
        Some((file, path))
    });
    found.next()
}

fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
