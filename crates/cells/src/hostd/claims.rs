//! What hostd has given to whom. Kept in a file of its own, so that a control plane that was taken
//! over cannot give one agent the user of another.

use crate::{Error, Result};
use abbey_model::CellName;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// First user number that any house uses; below it live ordinary users and their containers.
const UIDS_FIRST: u32 = 0x2000_0000;
/// User numbers of one house.
pub(super) const UIDS: u32 = 1 << 16;
/// Houses that fit without sharing; each takes a place by chance on its first start.
const PLACES: u32 = 0x5000;

/// Things of one owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// User number; none when cells share the house's user.
    pub uid: Option<u32>,
}

/// Everything that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// First user number of the house. It is the control plane's; cells have those after it.
    pub uid_first: u32,
    /// By owner.
    pub owners: BTreeMap<CellName, Claim>,
}

impl Claims {
    /// Gives `claim` to `owner`.
    ///
    /// # Errors
    /// A sentence that names the rule and the holder.
    pub fn give(&mut self, owner: &CellName, claim: Claim) -> std::result::Result<(), String> {
        if let Some(uid) = claim.uid {
            let range = self.uid_first + 1..self.uid_first + UIDS;
            if !range.contains(&uid) {
                return Err(format!(
                    "user {uid} is not of this house, whose cells have {} to {}",
                    range.start,
                    range.end - 1
                ));
            }
            let mut others = self.owners.iter().filter(|(o, _)| *o != owner);
            if let Some((holder, _)) = others.find(|(_, c)| c.uid == Some(uid)) {
                return Err(format!("user {uid} is held by {holder}"));
            }
        }
        match self.owners.get(owner) {
            Some(held) if held.uid.is_some() && held.uid != claim.uid => Err(format!(
                "{owner} holds user {} and keeps it until it is released",
                held.uid.unwrap_or(0)
            )),
            _ => {
                self.owners.insert(owner.clone(), claim);
                Ok(())
            }
        }
    }
}

/// The file, locked for one change.
pub(super) struct Held {
    path: PathBuf,
    pub(super) claims: Claims,
    _lock: fs::File,
}

/// Opens the claims; makes them on the first start.
pub(super) fn open(dir: &Path) -> Result<Held> {
    let lock_path = dir.join("claims.lock");
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(Error::file("open", &lock_path))?;
    flock(&lock, FlockOperation::LockExclusive)
        .map_err(|e| Error::file("lock", &lock_path)(e.into()))?;
    let path = dir.join("claims.json");
    let claims = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::Record {
            path: path.clone(),
            why: e.to_string(),
        })?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let claims = Claims {
                uid_first: UIDS_FIRST + place()? * UIDS,
                owners: BTreeMap::new(),
            };
            crate::shim::publish(&path, &claims)?;
            claims
        }
        Err(e) => return Err(Error::file("read", &path)(e)),
    };
    Ok(Held {
        path,
        claims,
        _lock: lock,
    })
}

impl Held {
    pub(super) fn save(&self) -> Result<()> {
        crate::shim::publish(&self.path, &self.claims)
    }
}

/// A place by chance: two houses on one host share it once in twenty thousand.
fn place() -> Result<u32> {
    let mut bytes = [0u8; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::file("read", "/dev/urandom")(e.into()))?;
    Ok(u32::from_ne_bytes(bytes) % PLACES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> CellName {
        CellName::Agent(name.parse().unwrap())
    }

    #[test]
    fn a_user_has_one_owner_for_as_long_as_it_is_held() {
        let mut claims = Claims {
            uid_first: UIDS_FIRST,
            owners: BTreeMap::new(),
        };
        let uid = |n| Claim {
            uid: Some(UIDS_FIRST + n),
        };
        claims.give(&owner("a"), uid(1)).unwrap();
        claims.give(&owner("a"), uid(1)).unwrap();
        let refused = claims.give(&owner("b"), uid(1)).unwrap_err();
        assert!(refused.ends_with("is held by agent-a"), "{refused}");
        assert!(claims.give(&owner("a"), uid(2)).is_err());
        // Neither root, nor the control plane's own, nor beyond the range.
        for bad in [0, UIDS_FIRST, UIDS_FIRST + UIDS] {
            let claim = Claim { uid: Some(bad) };
            assert!(claims.give(&owner("c"), claim).is_err(), "{bad}");
        }
    }
}
