//! Consumers of a stock service: names, digests of their credentials, and their limits.

use crate::ask::{ConsumerState, ServiceReply, ServiceRequest};
use crate::lost_data;
use crate::{Error, Result};
use abbey_support::digest::sha256_hex;
use abbey_support::file;
use abbey_support::space::shortage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;

/// Consumer of a service: credential and limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Consumer {
    /// SHA-256 of its credential, hexadecimal; none if it is closed.
    pub(crate) hash: Option<String>,
    /// Time at which it was closed, milliseconds since 1970.
    pub(crate) closed_ms: Option<i64>,
    /// Maximum number of concurrent requests.
    pub(crate) connections: u32,
    /// Maximum number of requests per minute.
    pub(crate) rate: u32,
    /// Maximum size of its data, bytes.
    pub(crate) bytes: u64,
}

/// Consumers of a service, in its file `consumers.json`.
#[derive(Debug, Clone)]
pub(crate) struct ConsumerRegistry {
    home: PathBuf,
}

impl ConsumerRegistry {
    /// Registry of the service in the directory `home`, in `consumers.json`.
    pub(crate) fn new(home: &Path) -> ConsumerRegistry {
        ConsumerRegistry {
            home: home.to_owned(),
        }
    }

    fn path(&self) -> PathBuf {
        self.home.join("consumers.json")
    }

    /// As [`lost_data::check_data_not_lost`].
    pub(crate) fn check_data_not_lost(&self) -> Result<()> {
        lost_data::check_data_not_lost(&self.home)
    }

    /// Directory with the data of a consumer.
    pub(crate) fn data_dir(&self, name: &str) -> PathBuf {
        self.home.join("data").join(name)
    }

    /// Makes a backup of a consumer's data below `backups/`: `fill` writes it, in about the space that the data has, into an empty
    /// directory, which gets the name of a backup once everything in it is on the disk. It stays until somebody deletes it: it
    /// may be the only copy.
    ///
    /// # Errors
    /// Those of `fill` and of the file system; nothing is left then. If the disk has no room for it above its reserve.
    pub(crate) fn back_up(
        &self,
        name: &str,
        at_ms: i64,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<ServiceReply> {
        let relative = format!("backups/{name}@{at_ms:015}");
        let path = self.home.join(&relative);
        let new = self.home.join(format!("{relative}.new"));
        let backups = self.home.join("backups");
        remove_unfinished(&backups, name)?;
        fs::create_dir_all(&backups).map_err(Error::file("make", &backups))?;
        let needed = directory_size(&self.data_dir(name));
        fs::File::open(&backups)
            .and_then(|dir| require_space(&dir, needed))
            .map_err(Error::file("write a copy into", &backups))?;
        fs::create_dir_all(&new).map_err(Error::file("make", &new))?;
        let sync = || {
            let dir = fs::File::open(&new)?;
            rustix::fs::syncfs(&dir)?;
            Ok(())
        };
        let written = fill(&new).and_then(|()| sync().map_err(Error::file("write", &new)));
        if let Err(error) = written {
            let _removed_by_the_next = remove_tree(&new);
            return Err(error);
        }
        // One of the same instant is of a request that is repeated.
        remove_tree(&path)?;
        file::publish_finished(&new, &path, file::Sync::Entry)
            .map_err(Error::file("publish", &path))?;
        Ok(ServiceReply::Done {
            backup: Some(relative),
            bytes: directory_size(&path),
        })
    }

    /// Reads all consumers by name; empty if there is no registry yet.
    pub(crate) fn read_all(&self) -> Result<BTreeMap<String, Consumer>> {
        let path = self.path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(e) => return Err(Error::file("read", path)(e)),
        };
        serde_json::from_slice(&text).map_err(|e| Error::file("read", path)(e.into()))
    }

    fn write(&self, all: &BTreeMap<String, Consumer>) -> Result<()> {
        let path = self.path();
        let text = serde_json::to_vec_pretty(all).unwrap_or_default();
        file::publish(&path, text, 0o600, file::Sync::Content).map_err(Error::file("write", path))
    }

    /// Consumer with this name, if `secret` is its credential; none otherwise.
    pub(crate) fn authenticate(&self, name: &str, secret: &str) -> Result<Option<Consumer>> {
        let known = self.read_all()?.remove(name);
        let given = sha256_hex(secret);
        let fits = |c: &Consumer| {
            let hash = c.hash.as_deref().unwrap_or_default();
            bool::from(hash.as_bytes().ct_eq(given.as_bytes()))
        };
        Ok(known.filter(fits))
    }

    /// State of every consumer, for the control plane.
    pub(crate) fn consumer_states(&self) -> Result<Vec<ConsumerState>> {
        let holding = |(name, c): (String, Consumer)| ConsumerState {
            name,
            open: c.hash.is_some(),
            closed_ms: c.closed_ms,
            connections: c.connections.into(),
        };
        Ok(self.read_all()?.into_iter().map(holding).collect())
    }

    /// Revokes the credential of a consumer. It is marked as closed later, when its backup exists.
    pub(crate) fn revoke_credential(&self, name: &str) -> Result<()> {
        let mut all = self.read_all()?;
        if let Some(consumer) = all.get_mut(name) {
            consumer.hash = None;
        }
        self.write(&all)
    }

    /// Opens, closes or drops a consumer as requested. The caller has made the backup that closing and dropping
    /// need.
    pub(crate) fn apply_request(&self, question: &ServiceRequest) -> Result<()> {
        let mut all = self.read_all()?;
        match question {
            ServiceRequest::Open {
                name,
                secret,
                connections,
                rate,
                bytes,
            } => {
                lost_data::make_data_dir(&self.home)?;
                // Only this one: what is above it is there, or it was lost a moment ago.
                let place = self.data_dir(name);
                match fs::create_dir(&place) {
                    Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                        return Err(Error::file("make", place)(e));
                    }
                    Ok(()) | Err(_) => {}
                }
                all.insert(
                    name.clone(),
                    Consumer {
                        hash: Some(sha256_hex(secret)),
                        closed_ms: None,
                        connections: *connections,
                        rate: *rate,
                        bytes: *bytes,
                    },
                );
            }
            ServiceRequest::Close { name, at_ms } => {
                if let Some(consumer) = all.get_mut(name) {
                    consumer.hash = None;
                    consumer.closed_ms.get_or_insert(*at_ms);
                }
            }
            ServiceRequest::Drop { name, .. } => {
                if all.get(name).is_some_and(|c| c.hash.is_some()) {
                    return Err(Error::InvalidRequest(format!(
                        "`{name}` is open; close it first"
                    )));
                }
                match fs::remove_dir_all(self.data_dir(name)) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::file("remove", self.data_dir(name))(e));
                    }
                    _ => {}
                }
                all.remove(name);
            }
            ServiceRequest::State {} => return Ok(()),
        }
        self.write(&all)
    }
}

/// Entries of a directory; none if it does not exist.
///
/// # Errors
/// If it cannot be read whole: what it has must not be taken for nothing.
pub(crate) fn entries_of(dir: &Path) -> Result<Vec<fs::DirEntry>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect),
    };
    entries.map_err(Error::file("read", dir))
}

/// Removes what attempts at a backup of a consumer left that were cut off.
pub(crate) fn remove_unfinished(backups: &Path, name: &str) -> Result<()> {
    for entry in entries_of(backups)? {
        let file = entry.file_name();
        let attempt = file.to_str().and_then(|f| f.strip_prefix(name));
        let attempt = attempt.and_then(|f| f.strip_prefix('@'));
        if !attempt.is_some_and(|f| f.ends_with(".new")) {
            continue;
        }
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => remove_tree(&path)?,
            _ => fs::remove_file(&path).map_err(Error::file("remove", &path))?,
        }
    }
    Ok(())
}

/// Requires that `more` bytes fit onto the file system of `file` above its reserve.
///
/// # Errors
/// `StorageFull` if they do not.
pub(crate) fn require_space(file: &fs::File, more: u64) -> std::io::Result<()> {
    let Some(short) = shortage(file, more)? else {
        return Ok(());
    };
    let mib = |bytes: u64| bytes >> 20;
    let text = format!(
        "the disk has {} MiB left, and {} MiB must stay free beside the copy; free some space",
        mib(short.free),
        mib(short.reserve) + 1
    );
    Err(std::io::Error::new(std::io::ErrorKind::StorageFull, text))
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", dir)(e)),
        _ => Ok(()),
    }
}

/// Total size in bytes of all files below a directory.
pub(crate) fn directory_size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |e: fs::DirEntry| match e.file_type() {
        Ok(kind) if kind.is_dir() => directory_size(&e.path()),
        Ok(kind) if kind.is_file() => e.metadata().map_or(0, |m| m.len()),
        _ => 0,
    };
    entries.map(of).sum()
}

/// Current and recent requests of each consumer.
#[derive(Debug, Default)]
pub(crate) struct RequestLimiter {
    by_name: BTreeMap<String, ConsumerLoad>,
}

#[derive(Debug)]
struct ConsumerLoad {
    inside: u32,
    since: Instant,
    count: u32,
}

/// Limit that a consumer's request exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExceededLimit {
    /// Concurrent requests.
    Crowd,
    /// Requests per minute.
    Rate,
}

impl RequestLimiter {
    /// Counts a new request of a consumer, or returns the limit that it exceeds.
    pub(crate) fn begin_request(
        &mut self,
        name: &str,
        consumer: &Consumer,
        now: Instant,
    ) -> std::result::Result<(), ExceededLimit> {
        let fresh = || ConsumerLoad {
            inside: 0,
            since: now,
            count: 0,
        };
        let gone = self.by_name.entry(name.to_owned()).or_insert_with(fresh);
        if now.saturating_duration_since(gone.since) >= Duration::from_secs(60) {
            (gone.since, gone.count) = (now, 0);
        }
        if gone.inside >= consumer.connections {
            return Err(ExceededLimit::Crowd);
        }
        if gone.count >= consumer.rate {
            return Err(ExceededLimit::Rate);
        }
        gone.inside += 1;
        gone.count += 1;
        Ok(())
    }

    /// Counts a request of a consumer as finished.
    pub(crate) fn end_request(&mut self, name: &str) {
        if let Some(gone) = self.by_name.get_mut(name) {
            gone.inside = gone.inside.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_crowd_and_its_own_minute() {
        let consumer = Consumer {
            connections: 2,
            rate: 3,
            ..Consumer::default()
        };
        let (mut turnstile, now) = (RequestLimiter::default(), Instant::now());
        let enter = |t: &mut RequestLimiter, name, after| {
            t.begin_request(name, &consumer, now + Duration::from_secs(after))
        };
        assert_eq!(enter(&mut turnstile, "a", 0), Ok(()));
        assert_eq!(enter(&mut turnstile, "a", 0), Ok(()));
        assert_eq!(enter(&mut turnstile, "a", 0), Err(ExceededLimit::Crowd));
        assert_eq!(enter(&mut turnstile, "b", 0), Ok(()), "another is another");
        turnstile.end_request("a");
        assert_eq!(enter(&mut turnstile, "a", 1), Ok(()));
        turnstile.end_request("a");
        turnstile.end_request("a");
        assert_eq!(enter(&mut turnstile, "a", 59), Err(ExceededLimit::Rate));
        assert_eq!(enter(&mut turnstile, "a", 60), Ok(()));
    }

    #[test]
    fn data_that_was_lost_is_not_made_anew_by_a_request() {
        let dir = tempfile::tempdir().unwrap();
        let registry = ConsumerRegistry::new(dir.path());
        let open = ServiceRequest::Open {
            name: "iris".to_owned(),
            secret: "s".to_owned(),
            connections: 1,
            rate: 1,
            bytes: 1,
        };
        registry.apply_request(&open).unwrap();
        registry.apply_request(&open).unwrap();
        let data = dir.path().join("data");
        fs::remove_dir_all(&data).unwrap();
        assert!(registry.apply_request(&open).is_err());
        assert!(!data.exists());
    }

    #[test]
    fn only_a_whole_backup_has_the_name_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let registry = ConsumerRegistry::new(dir.path());
        let names = || {
            let entries = entries_of(&dir.path().join("backups")).unwrap();
            entries
                .into_iter()
                .map(|e| e.file_name().into_string().unwrap())
        };
        let write = |to: &Path, text: &str| {
            fs::write(to.join("page"), text).map_err(Error::file("write", to))
        };
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let failed = registry.back_up("a", 7, |to| {
            write(to, "half")?;
            Err(Error::file("write", to)(full()))
        });
        assert!(failed.is_err());
        assert_eq!(names().count(), 0);
        // What a crash left of any request is no part of the next one, and goes.
        for left in ["a@000000000000007.new", "a@000000000000006.new"] {
            fs::create_dir_all(dir.path().join("backups").join(left).join("old")).unwrap();
        }
        fs::write(dir.path().join("backups/a@000000000000005.new"), "old").unwrap();
        for text in ["whole", "whole again"] {
            let made = registry.back_up("a", 7, |to| write(to, text)).unwrap();
            let bytes = u64::try_from(text.len()).unwrap();
            let backup = Some("backups/a@000000000000007".to_owned());
            assert_eq!(made, ServiceReply::Done { backup, bytes });
            assert_eq!(names().collect::<Vec<_>>(), ["a@000000000000007"]);
        }
    }

    #[test]
    fn a_credential_is_good_until_its_holder_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let registry = ConsumerRegistry::new(dir.path());
        let open = ServiceRequest::Open {
            name: "iris".to_owned(),
            secret: "abbey_sv_0123456789".to_owned(),
            connections: 1,
            rate: 1,
            bytes: 1,
        };
        registry.apply_request(&open).unwrap();
        assert!(
            registry
                .authenticate("iris", "abbey_sv_0123456789")
                .unwrap()
                .is_some()
        );
        assert!(
            registry
                .authenticate("iris", "abbey_sv_other")
                .unwrap()
                .is_none()
        );
        assert!(
            registry
                .authenticate("otto", "abbey_sv_0123456789")
                .unwrap()
                .is_none()
        );
        let drop = ServiceRequest::Drop {
            name: "iris".to_owned(),
            at_ms: 2,
        };
        assert!(registry.apply_request(&drop).is_err(), "in use");
        let close = ServiceRequest::Close {
            name: "iris".to_owned(),
            at_ms: 1,
        };
        registry.apply_request(&close).unwrap();
        assert!(
            registry
                .authenticate("iris", "abbey_sv_0123456789")
                .unwrap()
                .is_none()
        );
        assert_eq!(registry.consumer_states().unwrap()[0].closed_ms, Some(1));
        registry.apply_request(&drop).unwrap();
        assert!(
            registry.consumer_states().unwrap().is_empty() && !registry.data_dir("iris").exists()
        );
    }
}
