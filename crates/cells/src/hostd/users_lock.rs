//! One house of a range of users runs on a host at a time: a house that was restored beside its original has the users,
//! names of interfaces and the firewall table of that one, and each would repair what the other made.

use super::HostdConfig;
use super::house_subnets::publish_subnets;
use super::moved_home::moved_house;
use crate::sys::host::create_host_files_dir;
use crate::sys::lock;
use crate::{Error, Result, allocation};
use abbey_support::shell::shell_word;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

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

/// How often the lock of a file without a home is tried, and the pause between two tries.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// Takes the lock of a range of users. Who holds it without having written a home is a house that is about to, or one that
/// cleans up after others and removes the file; both are over at once.
fn take_lock(path: &Path, mut pause: impl FnMut()) -> Result<fs::File> {
    let mut home = String::new();
    for _ in 0..TRIES {
        if let Some(held) = lock::try_lock_file(path)? {
            return Ok(held);
        }
        home = fs::read_to_string(path).unwrap_or_default();
        if !home.is_empty() {
            break;
        }
        pause();
    }
    Err(Error::Hostd {
        op: super::startup::START,
        why: refusal(&home),
    })
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
    // A service manager can start hostd alone.
    if let Some(moved) = moved_house(&config.home) {
        let (text, remedy) = (moved.refusal(&config.home), moved.remedy(&config.home));
        return Err(Error::Hostd {
            op: super::startup::START,
            why: format!("{text}; {remedy}"),
        });
    }
    create_host_files_dir()?;
    let path = allocation::file_of_users(first);
    let mut held = take_lock(&path, || std::thread::sleep(PAUSE))?;
    // For the message above alone.
    let home = config.home.display().to_string();
    held.set_len(0)
        .and_then(|()| held.write_all(home.as_bytes()))
        .map_err(Error::file("write", &path))?;
    publish_subnets(config, &allocations)?;
    Ok(Some(held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_house_that_has_the_users_is_named_and_who_looks_at_an_empty_file_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users-1");
        let mut looking = lock::try_lock_file(&path).unwrap();
        assert!(looking.is_some());
        let mut held = take_lock(&path, || looking = None).unwrap();
        held.write_all(b"/srv/abbey").unwrap();
        let refused = take_lock(&path, || panic!("it waits"))
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("the house in `/srv/abbey` runs"),
            "{refused}"
        );
    }
}
