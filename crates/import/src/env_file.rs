//! The `.env` file of one agent on a host of jails (S1-04 to S1-08, S1-15, S1-16, S1-22).

use crate::imported_agent::ImportedAgent;
use crate::names::{NameAssigner, one_line};
use crate::source::is_file;
use crate::{Error, Import, ReportKind, Result, TargetHouse};
use abbey_support::input::{InputError, read_input};
use std::path::Path;

/// Words in the names of variables that hold secrets.
const SECRET: [&str; 5] = ["TOKEN", "SECRET", "PASSWORD", "API_KEY", "PRIVATE_KEY"];
/// Largest file, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Reads the agent that a `.env` file describes into `import`; variables with secrets are reported, not imported.
pub(crate) fn read_env_file(
    path: &Path,
    here: &TargetHouse,
    names: &mut NameAssigner,
    import: &mut Import,
) -> Result<()> {
    let file = match is_file(path) {
        true => path.to_owned(),
        false => path.join(".env"),
    };
    let wrong_format = |why: String| Error::WrongFormat {
        path: file.clone(),
        what: "`.env` file of an agent",
        why,
    };
    let text = read_input(&file, FILE_MAX).map_err(|e| match e {
        InputError::TooLong(_) => wrong_format("it is larger than 1 MiB".to_owned()),
        e => Error::File {
            path: file.clone(),
            source: e.into(),
        },
    })?;
    let mut all = Vec::new();
    for variable in dotenvy::from_read_iter(text.as_slice()) {
        // The message of the library holds the line, and so perhaps a secret.
        all.push(variable.map_err(|_| wrong_format("a line is not `NAME=value`".to_owned()))?);
    }
    let get = |name: &str| {
        let found = all.iter().find(|(n, _)| n == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|v| !v.is_empty())
    };
    let named = here.named.as_ref().map(|n| n.as_str());
    let Some(was) = get("AGENT_NAME").or(named) else {
        let why = "`AGENT_NAME` is not set; set it, or name the agent with `--as NAME`";
        return Err(wrong_format(why.to_owned()));
    };
    let slug = names.assign(import, was, here.named.as_ref());
    let mut agent = ImportedAgent::new(slug, was);
    agent.name = get("ASSISTANT_NAME").map(one_line);
    agent.locale = [
        get("DISPLAY_LOCALE").map(one_line),
        get("ASSISTANT_LOCALE").map(one_line),
        get("SYSTEM_LOCALE").map(one_line),
    ];
    let place = file
        .file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    if let Some(model) = get("MODEL").or(get("AGENT_MODEL")) {
        agent.model = here.translate_model(import, &place, model);
    }
    let mut holds = false;
    for (name, value) in &all {
        if value.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        let text = match name.as_str() {
            "AGENT_NAME" | "ASSISTANT_NAME" | "DISPLAY_LOCALE" | "ASSISTANT_LOCALE"
            | "SYSTEM_LOCALE" | "MODEL" | "AGENT_MODEL" => continue,
            n if SECRET.iter().any(|s| n.contains(s)) => {
                holds = true;
                import.add_report_entry(
                    ReportKind::Secret,
                    format!("{place}: {name}"),
                    "not imported: reference it in the manifest as `env:NAME` or `file:PATH`",
                );
                continue;
            }
            n if n.starts_with("AGENT_SUBNET") || n.starts_with("WARDEN_") => {
                "addresses are allocated by the house from `network.pool`; `network.slots` names service addresses"
            }
            n if n.ends_with("_JAIL_NAME") => {
                "services are declared under `services`, and an agent's names in them under `names`"
            }
            n if n.starts_with("DB_") || n.starts_with("POSTGRES") || n == "DATABASE_URL" => {
                "declare a service of `kind: postgres` and list it in the agent's `uses`; move the data with pg_dump"
            }
            _ => "no equivalent",
        };
        import.add_report_entry(ReportKind::Left, format!("{place}: {name}"), text);
    }
    if holds {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).map_or(0, |m| m.permissions().mode() & 0o777);
        if mode & 0o077 != 0 {
            let text = format!(
                "readable by other users (mode {mode:o}): `chmod 600` it, and delete it when nothing needs it"
            );
            import.add_report_entry(ReportKind::Secret, place, text);
        }
    }
    import.agents.push(agent);
    Ok(())
}
