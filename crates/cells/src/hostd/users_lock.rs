//! One house of a range of users runs on a host at a time: a house that was restored beside its original has the users,
//! names of interfaces and the firewall table of that one, and each would repair what the other made.

use super::HostdConfig;
use super::house_subnets::publish_subnets;
use crate::sys::host::{HOST_FILES, create_host_files_dir};
use crate::sys::lock;
use crate::{Error, Result, allocation};
use abbey_support::shell::shell_word;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

fn refusal(home: &str) -> String {
    format!(
        "the house in `{home}` runs with the same users and names, since one of both was restored from a backup of the other; take that one down first: `abbey --home {} down`",
        shell_word(home)
    )
}

/// Why the house with this directory of hostd can't start beside another one that runs; none if it can, or if this
/// process is not root. Takes no lock.
pub fn running_twin(hostd_dir: &Path) -> Option<String> {
    let allocations = fs::read(hostd_dir.join("claims.json")).ok()?;
    let allocations: allocation::Allocations = serde_json::from_slice(&allocations).ok()?;
    let mut file = fs::File::open(allocation::file_of_users(allocations.uid_first)).ok()?;
    lock::lock_holder(&file)?;
    let mut home = String::new();
    file.read_to_string(&mut home).ok()?;
    let own = hostd_dir.parent()?;
    (Path::new(&home) != own).then(|| refusal(&home))
}

/// hostd of a house that runs and whose home was this directory when it started, though the house that is here now has other
/// users, or there is none: the directory was moved away meanwhile. None for an ordinary user, whose houses have no users.
pub fn moved_house(home: &Path) -> Option<i32> {
    let own = fs::read(home.join("hostd/claims.json")).ok();
    let own = own.and_then(|bytes| serde_json::from_slice::<allocation::Allocations>(&bytes).ok());
    moved_away(home, own.map(|a| a.uid_first))
}

fn moved_away(home: &Path, own: Option<u32>) -> Option<i32> {
    let entries = fs::read_dir(HOST_FILES).into_iter().flatten().flatten();
    let mut others = entries.filter_map(|entry| {
        let name = entry.file_name();
        let first: u32 = name.to_str()?.strip_prefix("users-")?.parse().ok()?;
        let stated = fs::read_to_string(entry.path()).ok()?;
        // Who has a lock is a question to the kernel, for those alone about which it matters.
        let is_here = own != Some(first) && Path::new(&stated) == home;
        lock::lock_holder(&fs::File::open(entry.path()).ok().filter(|_| is_here)?)
    });
    others.next()
}

/// Why no house can begin in a directory, with the process of hostd whose house was moved away from there.
pub fn refusal_beside_moved(home: &Path, hostd: i32) -> String {
    format!(
        "the house that was started in `{}` still runs (hostd is process {hostd}), and its directory was moved away meanwhile; move it back, or run `abbey --home PLACE down` with its new place",
        home.display()
    )
}

/// Takes the range of users of this house until the file is dropped; none for an ordinary user, who has no other users.
///
/// # Errors
/// [`Error::Hostd`] with the home of the house that has the range, and what to do.
pub(super) fn take_users(config: &HostdConfig) -> Result<Option<fs::File>> {
    if !config.privileged {
        return Ok(None);
    }
    let allocations = allocation::lock_allocations(&config.hostd_dir())?.allocations;
    let first = allocations.uid_first;
    if let Some(pid) = moved_away(&config.home, Some(first)) {
        return Err(Error::Hostd {
            op: super::startup::START,
            why: refusal_beside_moved(&config.home, pid),
        });
    }
    create_host_files_dir()?;
    let path = allocation::file_of_users(first);
    let Some(mut held) = lock::try_lock_file(&path)? else {
        let home = fs::read_to_string(&path).unwrap_or_default();
        return Err(Error::Hostd {
            op: super::startup::START,
            why: refusal(&home),
        });
    };
    // For the message above alone.
    let home = config.home.display().to_string();
    held.set_len(0)
        .and_then(|()| held.write_all(home.as_bytes()))
        .map_err(Error::file("write", &path))?;
    publish_subnets(config, &allocations)?;
    Ok(Some(held))
}
