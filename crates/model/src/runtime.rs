//! Runtimes: the programs that do agents' work.

use crate::words::words;

words! {
    /// Program that does an agent's work. How each is run in a cell is described by its `RuntimeSpec` in `agents`.
    #[derive(Default)]
    Runtime {
        /// Abbey's own loop of skills, models and tools.
        #[default]
        Native = "native",
    }
}

impl Runtime {
    /// Ports that one instance of the runtime uses, as offsets from its base port (S3-02). The first is that of the
    /// agent API.
    pub const fn ports(self) -> &'static [u16] {
        match self {
            Runtime::Native => &[0],
        }
    }
}
