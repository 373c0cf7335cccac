//! Control planes for unit tests: a home of their own, without privileges.

use crate::boot::control_plane::{ControlPlane, Parts, open};
use crate::core::home::{Home, make_dir};
use abbey_cells::Backend;
use abbey_store::Clock;
use std::path::Path;
use std::sync::Arc;

/// A control plane in `DIR/h` that serves nobody.
pub(crate) async fn control_plane(dir: &Path, clock: Arc<dyn Clock>) -> Arc<ControlPlane> {
    make_dir(dir, 0o711).unwrap();
    let home = Home::new(dir.join("h"));
    home.prepare().unwrap();
    let parts = Parts::system(&home, home.unprivileged_helper(), clock);
    open(&home, parts).await.unwrap()
}

/// The same with another backend than shims.
pub(crate) async fn control_plane_on(
    dir: &Path,
    clock: Arc<dyn Clock>,
    backend: Arc<dyn Backend>,
) -> Arc<ControlPlane> {
    make_dir(dir, 0o711).unwrap();
    let home = Home::new(dir.join("h"));
    home.prepare().unwrap();
    let parts = Parts {
        backend,
        ..Parts::system(&home, home.unprivileged_helper(), clock)
    };
    open(&home, parts).await.unwrap()
}
