//! Services of the house.

use crate::cells::{ExecBody, LogDoc, LogQuery, TerminalQuery};
use crate::macros::{documents, operations, queries};
use crate::time::Time;
use abbey_model::Presence;

documents! {
    /// Services of the house.
    ServicesDoc {
        /// Always 1.
        version: u32,
        /// The services.
        services: Vec<ServiceView>,
        /// Services that the manifest declares with `enabled: false`.
        #[serde(default)]
        disabled: Vec<String>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// A service and its current state.
    ServiceView {
        /// Slug of the service.
        name: String,
        /// Whether it can be used now.
        presence: Presence,
        /// Whether its probe answers; absent without a probe.
        healthy: Option<bool>,
        /// Whether it runs outside the house, at an address that the manifest names.
        #[serde(default)]
        external: bool,
        /// Kind of cell; `-` for a service outside the house.
        cell: String,
        /// Main process of its cell.
        pid: Option<i32>,
        /// Port of its address.
        port: Option<u16>,
        /// Whether the manifest says that it answers at a port: by `port`, `slot`, `probe`, or `{port}` in its command.
        #[serde(default)]
        serves_port: bool,
        /// Number of the current boot of its cell.
        generation: u64,
        /// Boots after the first, ever.
        restarts: u64,
        /// Kind of service: `command`, or one that the house knows.
        kind: String,
        /// What it waits for before it starts.
        waits: Option<String>,
        /// Why what belongs to its consumers can't be set up.
        trouble: Option<String>,
        /// Agents that use it.
        consumers: Vec<String>,
        /// Those of them whose database, repositories or place is not set up yet.
        #[serde(default)]
        pending: Vec<String>,
        /// What it keeps for agents that no longer use it, until it is deleted.
        #[serde(default)]
        closed: Vec<ClosedAccess>,
    }
    /// Database, repositories or site in a service that no agent uses.
    ClosedAccess {
        /// Name in the service.
        name: String,
        /// When it was closed.
        closed_at: Time,
        /// When it is deleted, unless an agent uses it again before.
        deleted_at: Time,
        /// Path of the copy that was made when it was closed, below the home; absent if it is not known.
        copy: Option<String>,
    }
    /// A service is being restarted.
    RestartedDoc {
        /// Always 1.
        version: u32,
        /// Slug of the service.
        service: String,
    }
}

queries! {
    /// Which services to list.
    ServicesQuery {
        /// Most rows of one page.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
        /// `cursor` of the page before.
        cursor: Option<String>,
    }
}

operations! {
    /// Services: `client.services()`.
    ServicesClient {
        /// Every service.
        GET "/api/v1/services" list() [query ServicesQuery] -> json(ServicesDoc);
        /// Its newest log lines.
        GET "/api/v1/services/{service}/logs" logs(service) [query LogQuery] -> json(LogDoc);
        /// Restarts its cell.
        POST "/api/v1/services/{service}/restart" restart(service) -> json(RestartedDoc);
        /// Runs a command in its cell: JSON Lines of output, then the exit status.
        POST "/api/v1/services/{service}/exec" exec(service) [body ExecBody] -> upgrade("abbey-exec");
        /// Its terminal.
        GET "/api/v1/services/{service}/attach" attach(service) [query TerminalQuery] -> upgrade("abbey-terminal");
    }
}
