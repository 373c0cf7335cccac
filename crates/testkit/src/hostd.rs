//! A hostd in a temporary home, without a control plane.

use abbey_cells::hostd::{
    Allocation, HostdApi, HostdClient, HostdConfig, HostdOperation, ensure_hostd_running,
};
use abbey_daemon::Home;
use abbey_model::CellName;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A running hostd that is ended when dropped.
#[derive(Debug)]
pub struct Hostd {
    dir: tempfile::TempDir,
    /// What it works with.
    pub config: HostdConfig,
    /// A caller of it.
    pub client: HostdClient,
}

impl Hostd {
    /// Starts hostd with this binary in a new home.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn start(abbey: &str) -> Hostd {
        crate::house::own_network();
        let dir = tempfile::Builder::new()
            .prefix("abbey-h-")
            .tempdir()
            .expect("a temporary directory");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711))
            .expect("permissions");
        let home = Home::new(dir.path().join("home"));
        let config = home.create_directories().expect("a home");
        ensure_hostd_running(&config, Path::new(abbey)).expect("hostd comes up");
        let client = HostdClient::new(home.root());
        Hostd {
            dir,
            config,
            client,
        }
    }

    /// Path of this name beside the home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Claims the user with this offset in the house's range for an owner, and creates its
    /// directories; returns the user id, or `None` without privileges.
    ///
    /// # Panics
    /// If hostd refuses.
    pub fn claim(&self, owner: &CellName, number: u32) -> Option<u32> {
        let first = self.client.hello().expect("an answer").uid_first;
        let uid = self.config.privileged.then_some(first + number);
        let claimed = HostdOperation::Allocate {
            owner: owner.clone(),
            allocation: Allocation {
                uid,
                ..Allocation::default()
            },
        };
        self.client.call(claimed, &[]).expect("a claim");
        let prepared = HostdOperation::Prepare {
            owner: owner.clone(),
            files: Vec::new(),
        };
        self.client.call(prepared, &[]).expect("directories");
        uid
    }
}

impl Drop for Hostd {
    fn drop(&mut self) {
        let _ended_already = self.client.call(HostdOperation::End {}, &[]);
    }
}
