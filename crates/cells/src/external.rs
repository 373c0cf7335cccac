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

/// Path of the JSON file with the addresses of external services, below hostd's directory `dir`.
pub(crate) fn external_services_file(dir: &Path) -> PathBuf {
    dir.join("external-services.json")
}

/// Replaces the file with the addresses of all external services atomically.
pub(crate) fn write_external_addresses(
    path: &Path,
    addresses: &BTreeMap<Slug, SocketAddrV4>,
) -> Result<()> {
    crate::record::write_json(path, addresses)
}

/// Current address of one external service, read from the file that hostd writes.
///
/// # Errors
/// If the file cannot be read, or has no such service.
pub(crate) fn read_external_address(path: &Path, service: &Slug) -> std::io::Result<SocketAddrV4> {
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
        let path = external_services_file(dir.path());
        let name: Slug = "models".parse().unwrap();
        for address in ["192.0.2.7:80", "192.0.2.8:8080"] {
            let address: SocketAddrV4 = address.parse().unwrap();
            write_external_addresses(&path, &BTreeMap::from([(name.clone(), address)])).unwrap();
            assert_eq!(read_external_address(&path, &name).unwrap(), address);
        }
        assert!(read_external_address(&path, &"other".parse().unwrap()).is_err());
    }
}
