//! Addresses of services outside the house, as hostd records them and shims look them up.
//!
//! A port of a cell that leads to such a service is looked up for each connection, so the service can move while the
//! cells that use it go on running. hostd alone writes the record.

use crate::Result;
use abbey_model::Slug;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

/// The record below hostd's directory.
pub(crate) fn record(dir: &Path) -> PathBuf {
    dir.join("external-services.json")
}

/// Publishes all addresses.
pub(crate) fn publish(path: &Path, addresses: &BTreeMap<Slug, SocketAddrV4>) -> Result<()> {
    crate::record::publish(path, addresses)
}

/// Present address of a service.
///
/// # Errors
/// When the record cannot be read, or has no such service.
pub(crate) fn address_of(path: &Path, service: &Slug) -> std::io::Result<SocketAddrV4> {
    let addresses: BTreeMap<Slug, SocketAddrV4> = serde_json::from_slice(&fs::read(path)?)?;
    let found = addresses.get(service).copied();
    found.ok_or_else(|| std::io::Error::other(format!("no external service `{service}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_service_is_found_at_its_new_address() {
        let dir = tempfile::tempdir().unwrap();
        let path = record(dir.path());
        let name: Slug = "models".parse().unwrap();
        for address in ["192.0.2.7:80", "192.0.2.8:8080"] {
            let address: SocketAddrV4 = address.parse().unwrap();
            publish(&path, &BTreeMap::from([(name.clone(), address)])).unwrap();
            assert_eq!(address_of(&path, &name).unwrap(), address);
        }
        assert!(address_of(&path, &"other".parse().unwrap()).is_err());
    }
}
