//! The `.env` file of one agent on a host of jails (S1-04 to S1-08, S1-15, S1-16, S1-22).

use crate::document::Document;
use crate::imported_agent::ImportedAgent;
use crate::names::{NameAssigner, one_line};
use crate::skips::Skips;
use crate::source::is_file;
use crate::{Error, Import, ReportKind, Result, TargetHouse};
use abbey_support::input::{InputError, read_input};
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

/// Words in the names of variables that hold secrets.
const SECRET: [&str; 5] = ["TOKEN", "SECRET", "PASSWORD", "API_KEY", "PRIVATE_KEY"];
/// Largest file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Most lines of one value; a private key has about 60.
const VALUE_LINES_MAX: usize = 200;

/// Variables of a file, and the numbers of the lines that are none, from 1.
struct Variables {
    all: Map<String, Value>,
    /// Names that are set more than once; the last value counts.
    repeated: Vec<String>,
    unreadable: Vec<usize>,
}

/// Reads variables as other tools do: without a byte-order mark, with or without `export`, with blanks and apostrophes in
/// values that are not quoted. Nothing is substituted: the environment of this process is none of the file's business.
fn read_variables(text: &str) -> Variables {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Variables {
        all: Map::new(),
        repeated: Vec::new(),
        unreadable: Vec::new(),
    };
    let mut at = 0;
    while at < lines.len() {
        // A value between quotes may go over several lines.
        let window = &lines[at..lines.len().min(at + VALUE_LINES_MAX)];
        let end = at + further_lines(window);
        let piece = requoted(&lines[at..=end].join("\n"));
        let mut variables = dotenvy::from_read_iter(piece.as_bytes());
        // The message of the library holds the line, and so perhaps a secret.
        match variables.next() {
            Some(Ok((name, value))) => {
                if found.all.insert(name.clone(), value.into()).is_some() {
                    found.repeated.push(name);
                }
                at = end;
            }
            Some(Err(_)) => found.unreadable.push(at + 1),
            None => {}
        }
        at += 1;
    }
    found
}

/// Where the value of a line `NAME=value` begins; none in a comment and where there is no value.
fn value_of(line: &str) -> Option<usize> {
    if line.trim_start().starts_with('#') {
        return None;
    }
    let at = line.find('=')? + 1;
    Some(at + (line[at..].len() - line[at..].trim_start().len()))
}

/// Number of lines after the first over which the value goes that begins there; none if it ends nowhere in these lines.
fn further_lines(lines: &[&str]) -> usize {
    let Some((first, at)) = lines.first().and_then(|l| Some((l, value_of(l)?))) else {
        return 0;
    };
    let Some(quote @ ('"' | '\'')) = first[at..].chars().next() else {
        return 0;
    };
    let text = lines.join("\n");
    let value = &text[at..];
    closing_quote(value, quote).map_or(0, |end| value[..end].matches('\n').count())
}

/// Place of the quote that closes a value; a backslash escapes between double quotes.
fn closing_quote(value: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in value.char_indices().skip(1) {
        match c {
            '\\' if quote == '"' && !escaped => escaped = true,
            c if c == quote && !escaped => return Some(at),
            _ => escaped = false,
        }
    }
    None
}

/// The same variable in the form that the library reads literally.
fn requoted(text: &str) -> String {
    let Some(at) = value_of(text) else {
        return text.to_owned();
    };
    let (name, value) = text.split_at(at);
    let escape = |value: &str| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        format!("{name}\"{}\"", value.replace('$', "\\$"))
    };
    match value.chars().next() {
        Some('\'') => text.to_owned(),
        Some('"') => match closing_quote(value, '"') {
            // What is escaped stays so.
            Some(end) => {
                let mut inside = String::new();
                let mut escaped = false;
                for c in value[1..end].chars() {
                    match c {
                        '$' if !escaped => inside.push_str("\\$"),
                        c if escaped && !matches!(c, '\\' | '\'' | '"' | '$' | ' ' | 'n') => {
                            inside.push('\\');
                            inside.push(c);
                        }
                        c => inside.push(c),
                    }
                    escaped = c == '\\' && !escaped;
                }
                format!("{name}\"{inside}\"{}", &value[end + 1..])
            }
            None => text.to_owned(),
        },
        _ => {
            let comment = value
                .char_indices()
                .find(|(n, c)| *c == '#' && value[..*n].ends_with([' ', '\t']));
            let value = comment.map_or(value, |(n, _)| &value[..n]);
            match value.trim() {
                v if v.is_empty() || v.starts_with('#') => name.to_owned(),
                v => escape(v),
            }
        }
    }
}

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
    // The path itself is what a person named, so it may be a link; what is in a directory may not.
    if file != path && fs::symlink_metadata(&file).is_ok_and(|m| m.is_symlink()) {
        return Err(wrong_format(
            "it is a link; name the file that it leads to".to_owned(),
        ));
    }
    let bytes = read_input(&file, FILE_MAX).map_err(|e| match e {
        InputError::TooLong(_) => wrong_format("it is larger than 1 MiB".to_owned()),
        e => Error::File {
            path: file.clone(),
            source: e.into(),
        },
    })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
        Error::Mistake {
            path: file.clone(),
            line: u64::try_from(line).ok(),
            why: "it is not UTF-8".to_owned(),
        }
    })?;
    let variables = read_variables(&text);
    let place = file
        .file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let skips = Skips::new(&here.skip);
    for line in &variables.unreadable {
        let text = "the line is not `NAME=value`";
        import.add_report_entry(ReportKind::Left, format!("{place}:{line}"), text);
    }
    for name in &variables.repeated {
        let text = "set more than once: the last value counts";
        import.add_report_entry(
            ReportKind::Changed,
            format!("{place}: {}", one_line(name)),
            text,
        );
    }
    let document = Document::new(&place, Value::Object(variables.all), &skips);
    let all = document.root();
    let get = |name: &str| all.get(name).text();
    let named = here.named.as_ref().map(|n| n.as_str());
    let Some(was) = get("AGENT_NAME").or(named) else {
        let why = "`AGENT_NAME` is not set; set it, or name the agent with `--as NAME`";
        return Err(wrong_format(why.to_owned()));
    };
    let slug = names.assign(import, was, here.named.as_ref());
    let mut agent = ImportedAgent::new(slug, was, &place);
    agent.name = get("ASSISTANT_NAME").map(one_line);
    agent.locale = [
        get("DISPLAY_LOCALE").map(one_line),
        get("ASSISTANT_LOCALE").map(one_line),
        get("SYSTEM_LOCALE").map(one_line),
    ];
    let model = all.get("MODEL");
    let model = if model.is_set() {
        model
    } else {
        all.get("AGENT_MODEL")
    };
    if let Some(wanted) = model.text() {
        agent.model = here.translate_model(import, &model, wanted);
    }
    let mut holds = false;
    for (name, value) in all.entries() {
        if document.is_used(&value) {
            continue;
        }
        if value.peek() == "" {
            value.mark();
            continue;
        }
        let text = match name {
            n if SECRET.iter().any(|s| n.contains(s)) => {
                holds = true;
                value.report(
                    import,
                    ReportKind::Secret,
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
        value.leave(import, text);
    }
    document.report_rest(import, |_| "no equivalent");
    if holds {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&file).map_or(0, |m| m.permissions().mode() & 0o777);
        if mode & 0o077 != 0 {
            let text = format!(
                "readable by other users (mode {mode:o}): `chmod 600` it, and delete it when nothing needs it"
            );
            import.add_report_entry(ReportKind::Secret, place, text);
        }
    }
    import.agents.push(agent);
    match skips.report(import) {
        Some(place) => Err(Error::NothingToSkip { place }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_people_write_them() {
        let text = "\u{feff}A=x y\r\nB=it's\nexport C='a $B'\n D = \"a # b\" # no\nE=$A/\\z # c\nF=\n# G=1\nH=\"two\nlines\"\nwhat is this\nI=a#b\nJ=\"open\nK=\"a\\\"b $A \\$\"\nL=#x\n";
        let read = read_variables(text);
        let shown: Vec<String> = read
            .all
            .iter()
            .map(|(n, v)| format!("{n}={}", v.as_str().unwrap()))
            .collect();
        assert_eq!(
            shown,
            [
                "A=x y",
                "B=it's",
                "C=a $B",
                "D=a # b",
                "E=$A/\\z",
                "F=",
                "H=two\nlines",
                "I=a#b",
                "K=a\"b $A $",
                "L="
            ]
        );
        assert_eq!(read.unreadable, [10, 12]);
    }
}
