//! Control planes for unit tests, each with a home of its own and without privileges.

use crate::boot::control_plane::{ControlPlane, ControlPlaneParts, open_control_plane};
use crate::core::home::{Home, create_dir_with_mode};
use crate::core::runtime::Runtime;
use abbey_cells::Backend;
use abbey_store::Clock;
use std::path::Path;
use std::sync::Arc;

/// Opens a control plane with its home in `dir/h`, on shims, without listeners or duties.
pub(crate) async fn control_plane(dir: &Path, clock: Arc<dyn Clock>) -> Arc<ControlPlane> {
    create_dir_with_mode(dir, 0o711).unwrap();
    let home = Home::new(dir.join("h"));
    home.create_directories().unwrap();
    let parts = ControlPlaneParts::for_host(&home, home.inline_helper(), clock);
    open_control_plane(&home, parts).await.unwrap()
}

/// Opens a control plane with its home in `dir/h` on this cell backend and runtime, without
/// listeners or duties.
pub(crate) async fn control_plane_on(
    dir: &Path,
    clock: Arc<dyn Clock>,
    backend: Arc<dyn Backend>,
    rt: Runtime,
) -> Arc<ControlPlane> {
    create_dir_with_mode(dir, 0o711).unwrap();
    let home = Home::new(dir.join("h"));
    home.create_directories().unwrap();
    let parts = ControlPlaneParts {
        backend,
        rt,
        ..ControlPlaneParts::for_host(&home, home.inline_helper(), clock)
    };
    open_control_plane(&home, parts).await.unwrap()
}
