//! `abbey init`: writes a manifest to start from.

use crate::examples;
use crate::exit::{self, Failure, Outcome};
use crate::moved_home::warn_of_moved_house;
use crate::output::{print_json, print_message};
use abbey_api::VERSION;
use abbey_daemon::Home;
use abbey_support::shell::shell_path;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Directory in which `abbey.yaml` is written.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Copy the manifest of this example; an unknown name lists the examples.
    #[arg(long, value_name = "NAME")]
    pub(crate) example: Option<String>,
}

const STARTER: &str = include_str!("starter.yaml");

/// The manifest to start from. For a user who cannot set limits on this host it accepts that, and says so.
fn starter_manifest() -> String {
    let place = "defaults:\n";
    let waived = "defaults:\n  waive: [limits]        # this user cannot set limits on this host; root, or a delegated cgroup, can\n";
    match abbey_cells::ControlGroups::why_unusable(&format!("abbey-init-{}", std::process::id())) {
        Some(_) if !rustix::process::geteuid().is_root() => STARTER.replacen(place, waived, 1),
        _ => STARTER.to_owned(),
    }
}

/// `abbey init`: writes a new `abbey.yaml`, optionally that of an example. Exit code 4 if the file exists.
pub(crate) fn cmd_init(home: &Home, json: bool, args: &InitArgs) -> Outcome {
    let starter = starter_manifest();
    let text = match &args.example {
        None => starter.as_str(),
        Some(name) => {
            let known = || examples::ALL.map(|(n, _)| n).join(", ");
            let found = examples::ALL.iter().find(|(n, _)| n == name);
            found
                .ok_or_else(|| {
                    Failure::plain(format!("there is no example `{name}`"))
                        .hint(format!("examples: {}", known()))
                        .with_code(exit::NOT_FOUND)
                })?
                .1
        }
    };
    let path = args.dir.join("abbey.yaml");
    let write = || -> std::io::Result<()> {
        use std::io::Write;
        std::fs::create_dir_all(&args.dir)?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::plain(format!("`{}` exists and was not changed", path.display()))
                .with_code(exit::CONFLICT)
        }
        _ => Failure::unusable_path("cannot write", &path, e),
    })?;
    warn_of_moved_house(home);
    if json {
        let document = serde_json::json!({ "version": VERSION, "manifest": path });
        print_json(&document);
    }
    print_message(&format!(
        "wrote {}; next: abbey up -f {}",
        path.display(),
        shell_path(&path)
    ));
    Ok(exit::OK)
}
