//! Specification of a microVM.

use abbey_model::{CellName, Drives, Vmm};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where a microVM begins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootOrigin {
    /// At its boot.
    #[default]
    Cold,
    /// At its boot, and it ends where its program would begin: others begin there.
    Template,
    /// Where a template ended.
    From {
        /// Which.
        template: CellName,
        /// Whether it is kept there, ready, until it is told what for.
        waits: bool,
    },
}

impl BootOrigin {
    /// Whether the microVM waits, ready, until it is given a program.
    pub(crate) const fn waits(&self) -> bool {
        matches!(self, BootOrigin::From { waits: true, .. })
    }

    /// Cell of the template from which the microVM starts; none if it boots.
    pub(crate) const fn template(&self) -> Option<&CellName> {
        match self {
            BootOrigin::From { template, .. } => Some(template),
            BootOrigin::Cold | BootOrigin::Template => None,
        }
    }
}

/// A microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MicroVm {
    /// Image that it boots from.
    pub image: String,
    /// What runs it.
    #[serde(default)]
    pub vmm: Vmm,
    /// Sizes of its drives; none for a single command, which keeps nothing.
    pub drives: Option<Drives>,
    /// Where it begins.
    #[serde(default)]
    pub origin: BootOrigin,
    /// Whether it starts with the files that were staged for it.
    pub brings: bool,
    /// Files that are taken from it when it has ended.
    pub take: Vec<PathBuf>,
    /// Where images are; hostd puts it in.
    pub images: PathBuf,
    /// The owner's files; hostd puts it in.
    pub files: PathBuf,
}
