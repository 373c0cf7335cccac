//! Layout of a backup archive, and the signing key in it.
//!
//! A tar archive of `agents/NAME/…`, `services/NAME/…`, `hostd/claims.json`, `hostd/checkpoints.jsonl`, `skills/…`,
//! `templates/NAME.tar`, `manifest/abbey.yaml` with its charters, `abbey.db`, and last `backup.json`, which says what the rest must be.

use crate::core::error::{Error, Result};
use abbey_api::{Problem, Time};
use abbey_cells::hostd::is_left_out_of_agent;
use abbey_model::{FaultKind, Secret, Slug};
use abbey_support::digest::{hex, unhex};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::pbkdf2;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::path::{Component, Path, PathBuf};

/// Name of the database in the archive.
pub(crate) const DATABASE: &str = "abbey.db";
/// Name of the allocations.
pub(crate) const ALLOCATIONS: &str = "hostd/claims.json";
/// Name of the signed heads of the audit log.
pub(crate) const CHECKPOINTS: &str = "hostd/checkpoints.jsonl";
/// Name of the manifest.
pub(crate) const MANIFEST: &str = "manifest/abbey.yaml";
/// Name of the description, the last entry.
pub(crate) const CONTENTS: &str = "backup.json";

/// Description of a backup, in its last entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BackupContents {
    /// Version of the format; always 1.
    pub(crate) version: u32,
    /// Version of the binary that wrote it.
    pub(crate) software: String,
    /// When it was written.
    pub(crate) at: Time,
    /// Digest of the state.
    pub(crate) state_hash: String,
    /// Number of bytes before this entry.
    pub(crate) bytes: u64,
    /// SHA-256 of those bytes, hexadecimal.
    pub(crate) sha256: String,
    /// Services whose data it holds.
    pub(crate) services: Vec<Slug>,
    /// Signing key of the audit log, wrapped by a passphrase; none if it was left out.
    pub(crate) signing_key: Option<WrappedKey>,
    /// What is not in it, for people.
    pub(crate) left_out: Vec<String>,
    /// Why the audit log of the house did not verify when it was written; none if it did.
    #[serde(default)]
    pub(crate) audit_log_damage: Option<String>,
    /// Agents and services of which files are missing, each with the reason.
    #[serde(default)]
    pub(crate) incomplete: Vec<String>,
}

impl BackupContents {
    /// What `backup`, `backup verify` and `restore` say of files that are missing in an archive.
    pub(crate) fn incomplete_notes(&self) -> impl Iterator<Item = String> {
        let missing = self.incomplete.iter();
        missing.map(|why| format!("files are missing in this backup: {why}"))
    }
}

/// What `backup`, `backup verify` and `restore` say of an archive whose audit log does not verify.
pub(crate) fn damaged_log_note(damage: &str) -> String {
    format!(
        "the audit log of the house does not verify: {damage}; the archive is whole, and a house that is restored from it has the same log"
    )
}

/// Where an entry of an archive belongs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// One of the files of the archive itself, by its name.
    Named(&'static str),
    /// Path below the files of an agent.
    Agent(Slug, PathBuf),
    /// Path below the files of a service.
    Service(Slug, PathBuf),
    /// A template that was saved.
    Template(Slug),
    /// Path below `skills/` or `manifest/`, with that directory.
    Shared(PathBuf),
    /// A directory that only holds others.
    Parent,
}

/// Where an entry belongs, or why no backup has such an entry: its path could lead elsewhere, or it is something that a
/// backup leaves out.
pub(crate) fn place_of(path: &Path) -> std::result::Result<Place, &'static str> {
    let place = place_by_name(path).ok_or("no backup has a file of that name")?;
    match &place {
        Place::Agent(_, below) if is_left_out_of_agent(below) => {
            Err("no backup has credentials or disk images of an agent")
        }
        _ => Ok(place),
    }
}

fn place_by_name(path: &Path) -> Option<Place> {
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    let named = [DATABASE, ALLOCATIONS, CHECKPOINTS, CONTENTS];
    if let Some(name) = named.into_iter().find(|n| path == Path::new(n)) {
        return Some(Place::Named(name));
    }
    let mut parts = path.iter();
    let first = parts.next().filter(|_| plain)?.to_str()?;
    if let "skills" | "manifest" = first {
        return Some(Place::Shared(path.to_owned()));
    }
    if let ("templates", Some(name), None) = (first, parts.clone().next(), parts.clone().nth(1)) {
        let name = name.to_str()?.strip_suffix(".tar")?;
        return Some(Place::Template(name.parse().ok()?));
    }
    let owner = match parts.next() {
        None => {
            return ["agents", "services", "hostd"]
                .contains(&first)
                .then_some(Place::Parent);
        }
        Some(owner) => owner.to_str()?.parse().ok()?,
    };
    let below = parts.as_path().to_owned();
    match first {
        "agents" => Some(Place::Agent(owner, below)),
        "services" => Some(Place::Service(owner, below)),
        _ => None,
    }
}

/// Iterations of the key derivation for new archives (OWASP Password Storage, PBKDF2-HMAC-SHA256).
const ITERATIONS: u32 = 600_000;
/// Most iterations that an archive may ask for.
const ITERATIONS_MAX: u32 = 10_000_000;

/// The signing key of the audit log, wrapped by a passphrase: PBKDF2-HMAC-SHA256, then ChaCha20-Poly1305 (RFC 8439).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WrappedKey {
    /// Iterations of the key derivation.
    iterations: u32,
    /// Salt, 16 bytes, hexadecimal.
    salt: String,
    /// Encrypted key with its tag, hexadecimal.
    wrapped: String,
}

/// Wraps a signing key by a passphrase.
pub(crate) fn wrap_signing_key(key: &[u8; 32], passphrase: &Secret) -> Result<WrappedKey> {
    let mut salt = [0u8; 16];
    crate::core::home::fill_random(&mut salt)?;
    let mut wrapped = key.to_vec();
    wrapping_key(ITERATIONS, &salt, passphrase)
        // Each salt gives a key of its own, which encrypts once.
        .and_then(|k| {
            k.seal_in_place_append_tag(no_nonce(), Aad::empty(), &mut wrapped)
                .ok()
        })
        .ok_or_else(|| Problem::new(FaultKind::Internal, "the signing key could not be wrapped"))?;
    Ok(WrappedKey {
        iterations: ITERATIONS,
        salt: hex(salt),
        wrapped: hex(wrapped),
    })
}

/// The signing key that a passphrase wraps.
///
/// # Errors
/// For another passphrase, or a damaged key.
pub(crate) fn unwrap_signing_key(key: &WrappedKey, passphrase: &Secret) -> Result<[u8; 32]> {
    let unwrapped = || {
        let iterations = Some(key.iterations).filter(|n| *n <= ITERATIONS_MAX)?;
        let mut bytes = unhex(&key.wrapped)?;
        let by = wrapping_key(iterations, &unhex(&key.salt)?, passphrase)?;
        let plain = by
            .open_in_place(no_nonce(), Aad::empty(), &mut bytes)
            .ok()?;
        <[u8; 32]>::try_from(&*plain).ok()
    };
    unwrapped().ok_or_else(|| {
        let text = "the passphrase does not unwrap the signing key in the archive";
        Error::from(Problem::new(FaultKind::Invalid, text).remedy(
            "give the passphrase of the backup, or none: then the house goes on with a new key",
        ))
    })
}

fn no_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn wrapping_key(iterations: u32, salt: &[u8], passphrase: &Secret) -> Option<LessSafeKey> {
    let mut bytes = [0u8; 32];
    let iterations = NonZeroU32::new(iterations)?;
    let secret = passphrase.expose().as_bytes();
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        salt,
        secret,
        &mut bytes,
    );
    Some(LessSafeKey::new(
        UnboundKey::new(&CHACHA20_POLY1305, &bytes).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_one_place_or_none() {
        let place = |path: &str| place_of(Path::new(path)).ok();
        let a: Slug = "a".parse().unwrap();
        assert_eq!(place("abbey.db"), Some(Place::Named(DATABASE)));
        assert_eq!(
            place("agents/a/home/x"),
            Some(Place::Agent(a.clone(), "home/x".into()))
        );
        assert_eq!(place("services/a"), Some(Place::Service(a, "".into())));
        assert_eq!(place("agents"), Some(Place::Parent));
        let template = Place::Template("tooled".parse().unwrap());
        assert_eq!(place("templates/tooled.tar"), Some(template));
        for bad in [
            "/abbey.db",
            "agents/../x",
            "agents/a/../../x",
            "/agents/a/x",
            "agents/A B/x",
            "run/serve.lock",
            "signing.key",
            "templates",
            "templates/.x.tar",
            "templates/x",
            "templates/x.tar/y",
            "hostd/x",
            "operator.token",
            "agents/a/token",
            "agents/a/home/services/db",
            "agents/a/drives/workspace.ext4",
            "",
        ] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_wrapped_key_needs_its_passphrase() {
        let wrapped = wrap_signing_key(&[7; 32], &Secret::new("right")).unwrap();
        let open = |p: &str| unwrap_signing_key(&wrapped, &Secret::new(p));
        assert_eq!(open("right").unwrap(), [7; 32]);
        assert!(open("wrong").is_err());
        let endless = WrappedKey {
            iterations: u32::MAX,
            ..wrapped.clone()
        };
        assert!(unwrap_signing_key(&endless, &Secret::new("right")).is_err());
    }
}
