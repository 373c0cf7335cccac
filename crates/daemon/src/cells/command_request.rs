//! A request for a single command, validated.

use crate::cells::exec::check_argv;
use crate::cells::vm_shapes::VmShape;
use crate::core::error::{Error, Result};
use abbey_api::{CommandBody, Problem};
use abbey_cells::microvm::image::DEFAULT;
use abbey_model::{Bytes, CellKind, Egress, FaultKind, Layer, Limits, Millis, Principal, Slug};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

/// Longest timeout of a command.
pub(super) const TIMEOUT_MAX: Millis = Millis::from_secs(24 * 3600);

/// A validated request for a command.
pub(super) struct CommandRequest {
    pub(super) argv: Vec<String>,
    pub(super) cell: CellKind,
    /// Image of a microVM.
    pub(super) image: String,
    pub(super) limits: Limits,
    pub(super) egress: Egress,
    pub(super) profile: abbey_model::Profile,
    pub(super) waived: BTreeSet<Layer>,
    pub(super) timeout: Option<Millis>,
    pub(super) stdin: Vec<u8>,
    pub(super) files: Option<Vec<u8>>,
    pub(super) take: Vec<PathBuf>,
    /// Principal that has it run, for the audit log.
    pub(super) requested_by: Principal,
}

fn invalid(why: impl Into<String>) -> Error {
    Problem::new(FaultKind::Invalid, why).into()
}

impl CommandRequest {
    /// Validates a request of the operator API.
    ///
    /// # Errors
    /// `Invalid` with the field that is wrong.
    pub(super) fn parse(body: CommandBody, requested_by: Principal) -> Result<CommandRequest> {
        let decode = |text: Option<String>| {
            let decoded = text.map(|t| BASE64.decode(t)).transpose();
            decoded.map_err(|e| invalid(e.to_string()))
        };
        let base = Limits::default();
        check_argv(&body.argv)?;
        let cell = match body.cell.as_deref() {
            None => CellKind::Sandbox,
            Some(name) => name.parse().map_err(invalid)?,
        };
        if !matches!(
            cell,
            CellKind::Sandbox | CellKind::Process | CellKind::Microvm
        ) {
            return Err(invalid(format!(
                "a command cannot run in a {cell}; use sandbox, process or microvm"
            )));
        }
        let egress = match body.egress.as_slice() {
            [] => Egress::None,
            [word] if word == "none" => Egress::None,
            [word] if word == "full" => Egress::Full,
            rules => {
                let rules = rules.iter().map(|r| r.parse().map_err(invalid));
                Egress::List(rules.collect::<Result<_>>()?)
            }
        };
        let timeout = body.timeout_ms.map(Millis);
        if timeout.is_some_and(|t| t <= Millis(0) || t > TIMEOUT_MAX) {
            return Err(invalid(
                "`timeout_ms` must be more than 0 and at most 86400000",
            ));
        }
        let limits = Limits {
            memory: body.memory_bytes.map_or(base.memory, Bytes),
            cpu_milli: body.cpu_milli.unwrap_or(base.cpu_milli).max(1),
            processes: body.processes.unwrap_or(base.processes),
            io: None,
        };
        if limits.processes < Limits::PROCESSES_MIN {
            let least = Limits::PROCESSES_MIN;
            return Err(invalid(format!("`processes` must be at least {least}")));
        }
        let least = match cell {
            CellKind::Microvm => 128,
            _ => 4,
        };
        if limits.memory < Bytes(least << 20) {
            let text =
                format!("a command in a {cell} needs a memory limit of at least {least} MiB");
            return Err(invalid(text));
        }
        if cell == CellKind::Microvm && egress.nets().next().is_some() {
            return Err(invalid(
                "a microVM has no network interface, so `egress` may name hosts but no addresses",
            ));
        }
        let image = body.image.unwrap_or_else(|| DEFAULT.to_owned());
        image.parse::<Slug>().map_err(|e| invalid(e.to_string()))?;
        Ok(CommandRequest {
            argv: body.argv,
            cell,
            image,
            limits,
            egress,
            profile: body
                .profile
                .map_or(Ok(Default::default()), |p| FromStr::from_str(&p))
                .map_err(invalid)?,
            waived: body
                .waive
                .iter()
                .map(|l| l.parse().map_err(invalid))
                .collect::<Result<_>>()?,
            timeout,
            stdin: decode(body.stdin)?.unwrap_or_default(),
            files: decode(body.files)?,
            take: body.take.into_iter().map(PathBuf::from).collect(),
            requested_by,
        })
    }

    /// Shape of the microVM that the command needs; `None` for other kinds of cell.
    pub(super) fn vm_shape(&self) -> Option<VmShape> {
        (self.cell == CellKind::Microvm).then(|| VmShape {
            image: self.image.clone(),
            memory: self.limits.memory,
            cpu_milli: self.limits.cpu_milli,
        })
    }

    /// Whether the command connects to addresses directly and so needs a subnet.
    pub(super) fn needs_network(&self) -> bool {
        let direct = self.egress == Egress::Full || self.egress.nets().next().is_some();
        direct && self.cell != CellKind::Microvm
    }
}
