//! How agents come, go and come back. Keys may be added, none removed or renamed.

use crate::Time;
use crate::views::documents;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

documents! {
    /// What the manifest says, or said, of an agent.
    EntryDoc {
        /// Always 1.
        version: u32,
        /// Which agent.
        agent: String,
        /// The newest plan that had it.
        generation: u64,
        /// Whether it lives here now.
        present: bool,
        /// Lines of its entry, without indentation.
        entry: Vec<String>,
        /// Its charter then.
        charter: String,
    }
    /// What makes an agent who it is, as files that other tools know as well.
    BundleDoc {
        /// Always 1.
        version: u32,
        /// Which agent.
        agent: String,
        /// Its files.
        files: Vec<BundleFile>,
        /// Files that do not go along, with the reason.
        left_out: Vec<String>,
    }
    /// One of them.
    BundleFile {
        /// `SOUL.md`, `USER.md`, `IDENTITY.md`, `AGENTS.md`, `MEMORY.md`, `HEARTBEAT.md` or `memory/NAME.md`.
        path: String,
        /// Its text.
        text: String,
    }
    /// Files to bring to an agent. Its charter is the manifest's, so `SOUL.md` is not among them.
    BundleBody {
        /// Which.
        files: Vec<BundleFile>,
    }
    /// Which files to bring back.
    RestoreBody {
        /// As `removed` tells; the newest when not given.
        #[serde(default)]
        stamp: Option<String>,
    }
    /// What came back.
    RestoredDoc {
        /// Always 1.
        version: u32,
        /// Which agent.
        agent: String,
        /// Which of its files; none when an earlier try had brought them already.
        stamp: Option<String>,
    }
    /// What an agent that went left behind.
    LeftoversDoc {
        /// Always 1.
        version: u32,
        /// Which agent.
        agent: String,
        /// Its files, set aside: when each was.
        removed: Vec<String>,
        /// Where they are.
        place: String,
        /// What services keep of it, each for its time.
        kept: Vec<KeptView>,
        /// Its work that nobody has now.
        tasks: Vec<String>,
        /// What should be gone and is not.
        leftovers: Vec<String>,
    }
    /// Tools of the servers that an agent uses.
    ToolsDoc {
        /// Always 1.
        version: u32,
        /// Each of them.
        tools: Vec<ToolView>,
    }
    /// One tool.
    ToolView {
        /// The service that offers it.
        service: String,
        /// What it is called there.
        name: String,
        /// What it does.
        description: String,
        /// Arguments, as JSON Schema.
        args: serde_json::Value,
    }
    /// A call of one.
    ToolBody {
        /// Its arguments.
        #[serde(default)]
        arguments: serde_json::Value,
    }
    /// What came of it.
    ToolDoc {
        /// Always 1.
        version: u32,
        /// Whether the tool says that it went well.
        ok: bool,
        /// What it says.
        text: String,
    }
    /// What a service keeps of an agent that went.
    KeptView {
        /// Which service.
        service: String,
        /// What it is called there.
        name: String,
        /// Until when; none while it is still open.
        until: Option<Time>,
    }
}
