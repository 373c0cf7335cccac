//! Secrets of the manifest: reading the values that references name, and keeping them out of logs.

use crate::core::home::Home;
use abbey_cells::hostd::{HostdApi, HostdOperation, HostdReply};
use abbey_model::{Redactor, Secret, SecretRef};
use abbey_support::input::read_input_text;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// Longest secret in a file, bytes.
const SECRET_MAX: u64 = 64 << 10;

/// Reads secret references, and holds the redactor shared with the store.
pub(crate) struct Secrets {
    home: Home,
    hostd: Arc<dyn HostdApi>,
    redactor: Arc<RwLock<Redactor>>,
    /// Values of `env:` references that an operator delivered since the start.
    delivered: RwLock<BTreeMap<String, Secret>>,
}

impl Secrets {
    /// `hostd` reads the files that only root can; `redactor` is the one that the store applies to everything it writes.
    pub(crate) fn new(
        home: Home,
        hostd: Arc<dyn HostdApi>,
        redactor: Arc<RwLock<Redactor>>,
    ) -> Secrets {
        Secrets {
            home,
            hostd,
            redactor,
            delivered: RwLock::default(),
        }
    }

    /// Takes values of environment variables from an operator, who has a newer environment than this process. Returns
    /// the names of those that are new or have changed.
    pub(crate) fn deliver_environment(
        &self,
        values: impl IntoIterator<Item = (String, Secret)>,
    ) -> Vec<String> {
        let mut changed = Vec::new();
        for (name, value) in values {
            let reference = SecretRef::Env(name.clone());
            if self.read_secret(&reference, "").ok().as_ref() != Some(&value) {
                let mut delivered = self
                    .delivered
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                delivered.insert(name.clone(), value);
                changed.push(name);
            }
        }
        changed
    }

    /// Text of a file, from hostd if this process may not read it.
    ///
    /// # Errors
    /// A sentence that says why neither can.
    pub(crate) fn read_file(&self, path: PathBuf) -> Result<String, String> {
        let error = match read_input_text(&path, SECRET_MAX) {
            Ok(text) => return Ok(text),
            Err(e) => std::io::Error::from(e),
        };
        if error.kind() != std::io::ErrorKind::PermissionDenied {
            return Err(error.to_string());
        }
        match self.hostd.call(HostdOperation::ReadSecret { path }, &[]) {
            Ok(HostdReply::Text { text }) => Ok(text),
            Ok(_) => Err(error.to_string()),
            Err(e) => Err(format!("{error}; {e}")),
        }
    }

    /// Whether a text holds a secret of the house, or something that looks like a credential.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        let redactor = self.redactor.read();
        let redactor = redactor.unwrap_or_else(PoisonError::into_inner);
        redactor.clean(text) != text
    }

    /// Replaces the set of secret values that are redacted from everything written from now on.
    pub(crate) fn set_redacted_values(&self, secrets: Vec<Secret>) {
        let mut redactor = self
            .redactor
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *redactor = Redactor::new(secrets);
    }

    /// Reads the value of a reference (`env:`, `file:` relative to `base_dir`, or `credential:`).
    ///
    /// # Errors
    /// A sentence that says which reference cannot be read, why, and what to do.
    pub(crate) fn read_secret(
        &self,
        reference: &SecretRef,
        base_dir: &str,
    ) -> Result<Secret, String> {
        let file = |path: PathBuf| match self.read_file(path.clone()) {
            Ok(text) => Ok(Secret::new(text.strip_suffix('\n').unwrap_or(&text))),
            Err(why) => Err(format!(
                "the secret `{reference}` cannot be read from `{}` by user {}, which the control plane runs as: {why}; `abbey secret set NAME` stores it for `credential:NAME`",
                path.display(),
                rustix::process::geteuid().as_raw()
            )),
        };
        match reference {
            SecretRef::Env(name) => {
                let delivered = self.delivered.read();
                let delivered = delivered.unwrap_or_else(PoisonError::into_inner);
                let value = delivered.get(name).cloned();
                value.or_else(|| std::env::var(name).ok().map(Secret::new)).ok_or_else(|| {
                    format!("the secret `{reference}` is missing: store it with `abbey secret set {name}` and write `credential:{name}`, which lasts; or run `abbey up` where {name} is set, which holds until the control plane ends")
                })
            }
            SecretRef::File(path) => file(PathBuf::from(base_dir).join(path)),
            SecretRef::Credential(name) => {
                // Credentials from systemd (`CREDENTIALS_DIRECTORY`) take precedence over the home's.
                let handed = std::env::var_os("CREDENTIALS_DIRECTORY");
                let handed = handed.map(|dir| std::path::Path::new(&dir).join(name));
                let place = handed.filter(|path| path.exists());
                file(place.unwrap_or_else(|| self.home.credentials_dir().join(name)))
            }
        }
    }
}
