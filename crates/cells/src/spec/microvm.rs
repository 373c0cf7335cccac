//! Specification of a microVM.

use abbey_model::{CellName, Drives, Vmm};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// State from which a microVM starts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootOrigin {
    /// It boots from its image.
    #[default]
    Cold,
    /// It boots from its image and is then saved as a template instead of running a program.
    Template,
    /// It starts from the saved memory of a template.
    From {
        /// Cell of the template.
        template: CellName,
        /// Whether it waits, ready, until it is given a program.
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

/// Specification of a microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MicroVm {
    /// Name of the image that it boots from.
    pub image: String,
    /// Virtual machine monitor that runs it.
    #[serde(default)]
    pub vmm: Vmm,
    /// Sizes of its drives; none for a single command, which keeps no files.
    pub drives: Option<Drives>,
    /// State from which it starts.
    #[serde(default)]
    pub origin: BootOrigin,
    /// Whether the staged files of a command are unpacked in it before its program starts.
    pub brings: bool,
    /// Paths of files that are packed when its program has ended.
    pub take: Vec<PathBuf>,
    /// Directory of the images; set by hostd.
    pub images: PathBuf,
    /// Directory of the owner's files; set by hostd.
    pub files: PathBuf,
}
