//! The `.env` of one agent on a host of jails (S1-04 to S1-08, S1-15, S1-16, S1-22).

use crate::names::{Names, shown};
use crate::newcomer::Newcomer;
use crate::source::is_file;
use crate::{Error, Here, Import, Kind, Result};
use std::path::Path;

/// Words in the name of a variable whose value nobody should read.
const SECRET: [&str; 5] = ["TOKEN", "SECRET", "PASSWORD", "API_KEY", "PRIVATE_KEY"];
/// Largest file, bytes.
const FILE_MAX: u64 = 1 << 20;

pub(crate) fn read(path: &Path, here: &Here, names: &mut Names, import: &mut Import) -> Result<()> {
    let file = match is_file(path) {
        true => path.to_owned(),
        false => path.join(".env"),
    };
    let not_one = |why: String| Error::NotOne {
        path: file.clone(),
        what: "`.env` of an agent",
        why,
    };
    let failed = |source| Error::File {
        path: file.clone(),
        source,
    };
    if std::fs::metadata(&file).map_err(failed)?.len() > FILE_MAX {
        return Err(not_one("it is larger than 1 MiB".to_owned()));
    }
    let open = std::fs::File::open(&file).map_err(failed)?;
    let mut all = Vec::new();
    for variable in dotenvy::from_read_iter(open) {
        // The message of the library holds the line, and so perhaps a secret.
        all.push(variable.map_err(|_| not_one("a line is no `NAME=value`".to_owned()))?);
    }
    let get = |name: &str| {
        let found = all.iter().find(|(n, _)| n == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|v| !v.is_empty())
    };
    let Some(was) = get("AGENT_NAME") else {
        return Err(not_one("`AGENT_NAME` is not set".to_owned()));
    };
    let slug = names.give(import, was, here.named.as_ref());
    let mut agent = Newcomer::new(slug, was);
    agent.name = get("ASSISTANT_NAME").map(shown);
    agent.locale = [
        get("DISPLAY_LOCALE").map(shown),
        get("ASSISTANT_LOCALE").map(shown),
        get("SYSTEM_LOCALE").map(shown),
    ];
    let place = file
        .file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    if let Some(model) = get("MODEL").or(get("AGENT_MODEL")) {
        agent.model = here.model(import, &place, model);
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
                import.found(Kind::Secret, format!("{place}: {name}"), "it is named in the manifest by reference, as `env:NAME` or `file:PATH`, and never written there");
                continue;
            }
            n if n.starts_with("AGENT_SUBNET") || n.starts_with("WARDEN_") => {
                "the house gives addresses: `network.pool` names the range, `network.slots` the places of services"
            }
            n if n.ends_with("_JAIL_NAME") => {
                "services are named in `services`; what is an agent's in them, in `names`"
            }
            n if n.starts_with("DB_") || n.starts_with("POSTGRES") || n == "DATABASE_URL" => {
                "a service of `kind: postgres` gives an agent its database where it says `uses`; bring the data over with pg_dump"
            }
            _ => "the house has nothing of that name",
        };
        import.found(Kind::Left, format!("{place}: {name}"), text);
    }
    if holds {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).map_or(0, |m| m.permissions().mode() & 0o777);
        if mode & 0o077 != 0 {
            let text = format!(
                "others can read it (mode {mode:o}); `chmod 600` it, and take it away when nothing needs it"
            );
            import.found(Kind::Secret, place, text);
        }
    }
    import.agents.push(agent);
    Ok(())
}
