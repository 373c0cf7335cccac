//! Accounts for every file of an installation: what no importer read or reported is reported here.

use crate::names::shown_path;
use crate::source::{EntryKind, SourceDir, redact_secrets};
use crate::{Import, ReportKind};
use std::collections::BTreeSet;

/// Names of files that hold secrets, in any directory.
const SECRETS: [&str; 8] = [
    ".env",
    ".discord-tokens.env",
    "auth.json",
    "auth-profiles.json",
    "credentials.json",
    "id_rsa",
    "id_ed25519",
    ".netrc",
];
/// Directories whose files are not looked at one by one.
const CLOSED: [&str; 3] = [".git", "node_modules", "sessions"];
/// Deepest directory that is searched, and largest number of entries.
const DEPTH_MAX: usize = 6;
const ENTRIES_MAX: usize = 5000;

/// Most files of a directory that are named.
const NAMED_MAX: usize = 5;

/// Beginning of a path, and why what is below it is not imported. The first that fits counts.
pub(crate) type Reason<S> = (S, &'static str);

/// File, directory or link that was found.
struct Found {
    path: String,
    kind: EntryKind,
    /// Not searched, for this reason.
    closed: Option<&'static str>,
}

/// Reports the files and directories of the installation that are not accounted for. A directory of which nothing is
/// accounted for is reported as one. Files with secrets are reported wherever they are.
pub(crate) fn report_files<S: AsRef<str>>(
    source: &SourceDir,
    import: &mut Import,
    reasons: &[Reason<S>],
) {
    let mut all = Vec::new();
    let mut waits = vec![(String::new(), 0)];
    while let Some((dir, depth)) = waits.pop() {
        for (name, kind) in source.list_entries(&dir) {
            let path = join(&dir, &name);
            if all.len() >= ENTRIES_MAX {
                let text = format!(
                    "too many files: from here on they were neither imported nor checked for secrets (the limit is {ENTRIES_MAX})"
                );
                import.add_report_entry(ReportKind::Left, place_of(&dir), text);
                waits.clear();
                break;
            }
            let closed = match kind {
                EntryKind::Directory if CLOSED.contains(&name.as_str()) => Some("not imported"),
                EntryKind::Directory if depth >= DEPTH_MAX => Some(
                    "too deep in the installation: its files were not checked for secrets either",
                ),
                _ => None,
            };
            match kind {
                EntryKind::Directory if closed.is_none() => waits.push((path.clone(), depth + 1)),
                EntryKind::File => check_for_secrets(source, import, &path, &name),
                _ => {}
            }
            all.push(Found { path, kind, closed });
        }
    }
    // Directories that hold something that is accounted for are not reported as one.
    let mut open: BTreeSet<String> = BTreeSet::from([String::new()]);
    for found in all.iter().filter(|f| source.is_accounted(&f.path)) {
        let mut path = found.path.as_str();
        while let Some((above, _)) = path.rsplit_once('/') {
            open.insert(above.to_owned());
            path = above;
        }
    }
    report_below(source, import, (&all, &open, reasons));
}

/// Reports what is directly in a directory that is not reported as one.
fn report_below<S: AsRef<str>>(
    source: &SourceDir,
    import: &mut Import,
    (all, open, reasons): (&[Found], &BTreeSet<String>, &[Reason<S>]),
) {
    for found in all {
        let dir = found.path.rsplit_once('/').map_or("", |(dir, _)| dir);
        let inside = found.path.match_indices('/');
        let mut above = inside.map(|(n, _)| &found.path[..n]);
        let covered = above.any(|dir| source.is_accounted(dir));
        if covered
            || source.is_accounted(&found.path)
            || !open.contains(dir)
            || open.contains(&found.path)
        {
            continue;
        }
        let below = format!("{}/", found.path);
        let inside = |f: &Found| f.path.strip_prefix(&below).map(shown_path);
        let files: Vec<String> = all
            .iter()
            .filter(|f| f.kind != EntryKind::Directory)
            .filter_map(inside)
            .collect();
        // A directory without files says nothing; what is in one that was not searched is unknown.
        let unsearched = |f: &Found| f.closed.is_some() && f.path.starts_with(&below);
        let is_empty = files.is_empty() && found.closed.is_none() && !all.iter().any(unsearched);
        if found.kind == EntryKind::Directory && is_empty {
            continue;
        }
        let fits = |(start, _): &&Reason<S>| {
            let start = start.as_ref();
            let rest = found.path.strip_prefix(start);
            rest.is_some_and(|r| r.is_empty() || r.starts_with('/') || start.is_empty())
        };
        let why = match (reasons.iter().find(fits), found.kind, found.closed) {
            (_, EntryKind::Link, _) => {
                "a link, which is not followed; copy what it leads to".to_owned()
            }
            (_, EntryKind::Special, _) => "not a regular file".to_owned(),
            (Some((_, why)), ..) => (*why).to_owned(),
            (None, _, Some(why)) => why.to_owned(),
            (None, EntryKind::Directory, None) => match files.len() {
                1..=NAMED_MAX => format!("not imported: {}", files.join(", ")),
                count => format!("not imported, with {count} files in it"),
            },
            (None, EntryKind::File, None) => "not imported".to_owned(),
        };
        import.add_report_entry(ReportKind::Left, shown_path(&found.path), why);
    }
}

/// Reports a file that holds secrets by its name or place, and a document that contains what looks like some.
fn check_for_secrets(source: &SourceDir, import: &mut Import, path: &str, name: &str) {
    let kept = path
        .split('/')
        .rev()
        .skip(1)
        .any(|dir| dir == "credentials");
    let is_key = name.ends_with(".key") || name.ends_with(".pem");
    if SECRETS.contains(&name) || kept || is_key {
        source.account(path);
        let text = "holds credentials, which are not imported: reference what the agent needs in the manifest, then delete the file";
        return import.add_report_entry(ReportKind::Secret, shown_path(path), text);
    }
    if name.ends_with(".md") || name.ends_with(".txt") {
        // A file that is no text, or is left out, is reported as such.
        if let Ok(Some(text)) = source.read_text(path) {
            let _reported = redact_secrets(import, path, &text);
        }
    }
}

fn join(dir: &str, name: &str) -> String {
    match dir.is_empty() {
        true => name.to_owned(),
        false => format!("{dir}/{name}"),
    }
}

fn place_of(dir: &str) -> String {
    match dir.is_empty() {
        true => ".".to_owned(),
        false => shown_path(dir),
    }
}
