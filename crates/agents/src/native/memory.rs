//! The model tool `memory`: notes of the agent in `memory/`, and their index in `MEMORY.md`.

use super::parts::on_one_line;
use super::workspace::{read, write};
use abbey_model::ToolPolicy;

/// Most notes that a search reads.
const SEARCHED_MAX: usize = 1000;
/// Most lines that a search returns, and the longest one in characters.
const FOUND_MAX: usize = 30;
const LINE_MAX: usize = 300;

/// Performs a call of the tool `memory`: lists the index, reads or saves a note, or searches all notes. The notes are below
/// the working directory; `get` gives an argument by its name.
///
/// # Errors
/// Why it can't be done, for the caller.
pub fn use_memory<'a>(
    action: &str,
    get: &dyn Fn(&str) -> Result<&'a str, String>,
) -> Result<String, String> {
    let own = ToolPolicy {
        paths: vec!["memory/".to_owned(), "MEMORY.md".to_owned()],
        ..ToolPolicy::default()
    };
    let note = || {
        let name = get("name")?;
        let legal = !name.is_empty()
            && name.len() <= 64
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if legal {
            Ok(format!("memory/{name}.md"))
        } else {
            Err(format!("`{name}` is not the name of a note"))
        }
    };
    match action {
        "list" => Ok(read(&own, "MEMORY.md").unwrap_or_default()),
        "read" => read(&own, &note()?),
        "search" => search(&own, get("query")?),
        "save" => {
            let (path, content) = (note()?, get("content")?);
            write(&own, &path, content)?;
            let index = read(&own, "MEMORY.md").unwrap_or_default();
            let line = format!(
                "- [{path}]({path}): {}",
                content.lines().next().unwrap_or_default()
            );
            let mut lines: Vec<&str> = index
                .lines()
                .filter(|l| !l.starts_with(&format!("- [{path}]")))
                .collect();
            lines.push(&line);
            write(&own, "MEMORY.md", &format!("{}\n", lines.join("\n")))?;
            Ok(format!("saved {path}"))
        }
        other => Err(format!("the tool for memory has no action `{other}`")),
    }
}

/// Lines of notes that have every word of the query, with the note that they are in.
fn search(own: &ToolPolicy, query: &str) -> Result<String, String> {
    let words: Vec<String> = query.split_whitespace().map(str::to_lowercase).collect();
    if words.is_empty() {
        return Err("the argument `query` has no word".to_owned());
    }
    let names = std::fs::read_dir("memory").map_or_else(
        |_| Vec::new(),
        |entries| {
            let name = |entry: std::io::Result<std::fs::DirEntry>| {
                entry.ok()?.file_name().into_string().ok()
            };
            entries.filter_map(name).take(SEARCHED_MAX).collect()
        },
    );
    let mut paths: Vec<String> = names
        .into_iter()
        .filter(|name: &String| name.ends_with(".md"))
        .map(|name| format!("memory/{name}"))
        .collect();
    paths.sort();
    paths.insert(0, "MEMORY.md".to_owned());
    let has_all = |line: &&str| {
        let line = line.to_lowercase();
        words.iter().all(|word| line.contains(word))
    };
    let mut found = Vec::new();
    for path in paths {
        // What is no readable file is no note.
        let text = read(own, &path).unwrap_or_default();
        let lines = text.lines().filter(has_all);
        found.extend(lines.map(|line| format!("{path}: {}", on_one_line(line, LINE_MAX))));
        if found.len() > FOUND_MAX {
            found.truncate(FOUND_MAX);
            found.push("and more; search with more words".to_owned());
            break;
        }
    }
    Ok(match found.is_empty() {
        true => "no note has these words in one line".to_owned(),
        false => found.join("\n"),
    })
}
