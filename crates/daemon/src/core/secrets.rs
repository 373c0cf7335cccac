//! Secrets of the manifest: reading what a reference names, and keeping values out of logs.

use crate::core::home::Home;
use abbey_model::{Redactor, Secret, SecretRef};
use std::sync::{Arc, PoisonError, RwLock};

/// Where secrets are read from, and what is redacted from everything that is written.
pub(crate) struct Secrets {
    home: Home,
    redactor: Arc<RwLock<Redactor>>,
}

impl Secrets {
    /// `redactor` is the one that the store applies to what it writes.
    pub(crate) fn new(home: Home, redactor: Arc<RwLock<Redactor>>) -> Secrets {
        Secrets { home, redactor }
    }

    /// Redacts these values from everything that is written from now on.
    pub(crate) fn redact(&self, secrets: Vec<Secret>) {
        let mut redactor = self
            .redactor
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *redactor = Redactor::new(secrets);
    }

    /// The value behind a reference.
    pub(crate) fn resolve(&self, reference: &SecretRef, base_dir: &str) -> Result<Secret, String> {
        let file = |path: std::path::PathBuf| match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Secret::new(text.strip_suffix('\n').unwrap_or(&text))),
            Err(e) => Err(format!(
                "the secret `{reference}` cannot be read from `{}` by user {}, whom the control plane runs as: {e}",
                path.display(),
                rustix::process::geteuid().as_raw()
            )),
        };
        match reference {
            SecretRef::Env(name) => std::env::var(name).map(Secret::new).map_err(|_| {
                format!("the secret `{reference}` is missing: set {name} in the environment of the control plane (it takes over that of `abbey up` when it starts)")
            }),
            SecretRef::File(path) => file(std::path::Path::new(base_dir).join(path)),
            SecretRef::Credential(name) => {
                // What a service manager hands over comes first; it is nobody else's to read.
                let handed = std::env::var_os("CREDENTIALS_DIRECTORY");
                let handed = handed.map(|dir| std::path::Path::new(&dir).join(name));
                let place = handed.filter(|path| path.exists());
                file(place.unwrap_or_else(|| self.home.credentials().join(name)))
            }
        }
    }
}
