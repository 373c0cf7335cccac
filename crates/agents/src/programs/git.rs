//! Programs on git repositories of the workspace. Commands are argument vectors only, and a failed
//! merge leaves nothing behind.

use super::outcome::Outcome;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A git command without the user's and system's configuration.
fn command(args: &[&str]) -> Command {
    let agent = std::env::var("ABBEY_AGENT").unwrap_or_else(|_| "agent".to_owned());
    let mut command = Command::new("git");
    command
        // Neither the repository nor the host may run hooks or ask questions here.
        .args([
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "protocol.allow=never",
            "-c",
            "gc.auto=0",
        ])
        .args(args)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_AUTHOR_NAME", &agent)
        .env("GIT_COMMITTER_NAME", &agent)
        .env("GIT_AUTHOR_EMAIL", format!("{agent}@abbey.invalid"))
        .env("GIT_COMMITTER_EMAIL", format!("{agent}@abbey.invalid"));
    command
}

fn missing(error: std::io::Error) -> String {
    format!("git could not be run: {error}; is it installed in the cell?")
}

fn git(repository: &Path, args: &[&str]) -> Result<Output, String> {
    let mut command = command(args);
    command.current_dir(repository).output().map_err(missing)
}

/// Runs a git plumbing command on the repository `store` with this standard input, and returns its
/// output.
pub(super) fn run_in_store(
    store: &Path,
    args: &[&str],
    env: &[(&str, &str)],
    stdin: &str,
) -> Result<String, String> {
    let mut child = command(args)
        .env("GIT_DIR", store)
        .env("TZ", "UTC")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    let mut feed = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // It may print before it has read everything.
        scope.spawn(|| {
            if let Some(mut pipe) = feed.take() {
                let _it_says_why = pipe.write_all(stdin.as_bytes());
            }
        });
        child.wait_with_output()
    });
    let output = output.map_err(missing)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

fn run_for_output(repository: &Path, args: &[&str]) -> Result<String, String> {
    let output = git(repository, args)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Directory of the workspace that is its only repository.
///
/// # Errors
/// If there is none, or more than one.
fn only_repository() -> Result<String, String> {
    let entries = std::fs::read_dir(".").map_err(|e| e.to_string())?;
    let is_repository = |name: &String| {
        let path = Path::new(name);
        path.join(".git").is_dir() || (path.join("HEAD").is_file() && path.join("refs").is_dir())
    };
    let names = entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned());
    let mut found: Vec<String> = names.filter(is_repository).collect();
    found.sort();
    match found.as_slice() {
        [] => Err("the workspace has no git repository; clone one, or name it".to_owned()),
        [one] => Ok(one.clone()),
        several => Err(format!(
            "the workspace has the repositories {}; name one of them",
            several.join(", ")
        )),
    }
}

/// Name and path of a repository below the workspace (the working directory); the only one when the name is empty.
///
/// # Errors
/// If the path leaves the workspace or is not a repository.
fn open_repository(name: &str) -> Result<(String, PathBuf), String> {
    let name = match name.is_empty() {
        true => only_repository()?,
        false => name.to_owned(),
    };
    let repository = name.as_str();
    let workspace = std::env::current_dir()
        .and_then(|d| d.canonicalize())
        .map_err(|e| e.to_string())?;
    let path = workspace
        .join(repository)
        .canonicalize()
        .map_err(|e| format!("repository `{repository}`: {e}"))?;
    if !path.starts_with(&workspace) || path == workspace {
        return Err(format!(
            "repository `{repository}` is outside the workspace"
        ));
    }
    run_for_output(&path, &["rev-parse", "--git-dir"])
        .map_err(|_| format!("`{repository}` is not a git repository"))?;
    Ok((name, path))
}

/// Commit of a pull request, from the places where forges and clones keep it.
fn commit_of_pull_request(repository: &Path, number: &str) -> Result<String, String> {
    let places = [
        "refs/pull/{}/head",
        "refs/remotes/origin/pull/{}/head",
        "refs/remotes/origin/pr/{}",
        "refs/heads/pr-{}",
    ];
    let places = places.iter().map(|place| place.replace("{}", number));
    let find = |name: &String| {
        let commit = format!("{name}^{{commit}}");
        run_for_output(repository, &["rev-parse", "--verify", "--quiet", &commit]).ok()
    };
    places.clone().find_map(|name| find(&name)).ok_or_else(|| {
        let places: Vec<String> = places.collect();
        format!(
            "pull request {number} is not in the repository; fetch it to one of {}",
            places.join(", ")
        )
    })
}

fn commit_of(repository: &Path, branch: &str) -> Result<String, String> {
    let name = format!("refs/heads/{branch}^{{commit}}");
    run_for_output(repository, &["rev-parse", "--verify", "--quiet", &name])
        .map_err(|_| format!("there is no branch `{branch}`"))
}

/// Directory of mirrors in the workspace.
const MIRRORS: &str = "mirrors";

/// Program `git-mirror`: creates or updates a mirror of a remote repository, including removed
/// branches and tags.
pub(super) fn update_mirror(url: &str, name: &str) -> Outcome {
    let last = url
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let name = match name.is_empty() {
        true => last.strip_suffix(".git").unwrap_or(last),
        false => name,
    };
    if name.is_empty() || name.starts_with('.') {
        return Err(format!("`{url}` names no repository; add `as NAME`"));
    }
    let dir = Path::new(MIRRORS);
    std::fs::create_dir_all(dir).map_err(|e| format!("could not make `{MIRRORS}`: {e}"))?;
    let path = dir.join(format!("{name}.git"));
    let network = [
        "-c",
        "protocol.https.allow=always",
        "-c",
        "protocol.http.allow=always",
    ];
    let run = |args: &[&str]| -> Result<(), String> {
        let args: Vec<&str> = network.iter().chain(args).copied().collect();
        let output = command(&args).output().map_err(missing)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    };
    let shown = path.display().to_string();
    let before = list_refs(&path);
    if path.is_dir() {
        let known = run_in_store(&path, &["config", "remote.origin.url"], &[], "")?;
        if known != url {
            return Err(format!(
                "`{shown}` mirrors {known}; add `as NAME` to use another directory"
            ));
        }
        run(&["--git-dir", &shown, "remote", "update", "--prune"])?;
    } else {
        // Whole or not at all.
        let new = dir.join(format!("{name}.new"));
        let _left_by_a_crash = std::fs::remove_dir_all(&new);
        run(&[
            "clone",
            "--quiet",
            "--mirror",
            "--",
            url,
            &new.display().to_string(),
        ])?;
        std::fs::rename(&new, &path).map_err(|e| format!("could not publish `{shown}`: {e}"))?;
    }
    let after = list_refs(&path);
    let changed = after.iter().filter(|r| !before.contains(r)).count();
    let text = format!(
        "{shown} mirrors {url}: {} refs, {changed} new or moved",
        after.len()
    );
    Ok((
        text,
        json!({ "mirror": shown, "refs": after.len(), "changed": changed }),
    ))
}

fn list_refs(store: &Path) -> Vec<String> {
    let told = run_in_store(
        store,
        &["for-each-ref", "--format=%(objectname) %(refname)"],
        &[],
        "",
    );
    told.map_or_else(|_| Vec::new(), |t| t.lines().map(str::to_owned).collect())
}

/// Program `git-merge`: merges a branch, or a pull request when there is no `source`, into another without using the working
/// tree, and moves the target branch in one step.
pub(super) fn merge_branch(
    repository: &str,
    source: &str,
    pull_request: &str,
    target: &str,
) -> Outcome {
    let (repository, path) = open_repository(repository)?;
    let (source, from) = match (source, pull_request) {
        ("", "") => return Err("name a branch or a pull request to merge".to_owned()),
        ("", number) => (
            format!("pull request {number}"),
            commit_of_pull_request(&path, number)?,
        ),
        (branch, _) => (branch.to_owned(), commit_of(&path, branch)?),
    };
    let onto = commit_of(&path, target)?;
    if git(&path, &["merge-base", "--is-ancestor", &from, &onto])?
        .status
        .success()
    {
        let text =
            format!("`{target}` already contains `{source}` in {repository}; nothing to merge");
        return Ok((text, json!({ "commit": onto, "merged": false })));
    }
    let tree = git(
        &path,
        &[
            "merge-tree",
            "--write-tree",
            "--name-only",
            "--no-messages",
            &onto,
            &from,
        ],
    )?;
    let printed = String::from_utf8_lossy(&tree.stdout).into_owned();
    let mut lines = printed.lines();
    let tree_id = lines.next().unwrap_or_default().to_owned();
    match tree.status.code() {
        Some(0) => {}
        Some(1) => {
            let files: Vec<&str> = lines.filter(|l| !l.is_empty()).collect();
            return Err(format!(
                "`{source}` and `{target}` conflict in {}; the branch was not changed",
                files.join(", ")
            ));
        }
        _ => return Err(String::from_utf8_lossy(&tree.stderr).trim().to_owned()),
    }
    let message = match pull_request {
        number if source.starts_with("pull request ") => {
            format!("Merge pull request {number} into {target}")
        }
        _ => format!("Merge branch '{source}' into {target}"),
    };
    let commit = run_for_output(
        &path,
        &[
            "commit-tree",
            &tree_id,
            "-p",
            &onto,
            "-p",
            &from,
            "-m",
            &message,
        ],
    )?;
    let checked_out = run_for_output(&path, &["symbolic-ref", "--quiet", "--short", "HEAD"])
        .is_ok_and(|head| head == target)
        && run_for_output(&path, &["rev-parse", "--is-inside-work-tree"])
            .is_ok_and(|inside| inside == "true");
    if checked_out {
        // Moves the branch and the working tree together, and refuses over local changes.
        run_for_output(&path, &["merge", "--ff-only", "--quiet", &commit])?;
    } else {
        // Only if nobody moved the branch meanwhile.
        run_for_output(
            &path,
            &[
                "update-ref",
                &format!("refs/heads/{target}"),
                &commit,
                &onto,
            ],
        )?;
    }
    let text = format!(
        "merged `{source}` into `{target}` in {repository} as {}",
        &commit[..commit.len().min(12)]
    );
    Ok((
        text,
        json!({ "commit": commit, "merged": true, "parents": [onto, from] }),
    ))
}

/// Program `git-release-tag`: creates an annotated tag on a branch, the current one when none is named.
pub(super) fn create_release_tag(repository: &str, target: &str, tag: &str) -> Outcome {
    let (repository, path) = open_repository(repository)?;
    let target = match target {
        "" => run_for_output(&path, &["symbolic-ref", "--quiet", "--short", "HEAD"])
            .map_err(|_| format!("`{repository}` has no current branch; name one"))?,
        named => named.to_owned(),
    };
    let commit = commit_of(&path, &target)?;
    if git(
        &path,
        &[
            "rev-parse",
            "--verify",
            "--quiet",
            &format!("refs/tags/{tag}"),
        ],
    )?
    .status
    .success()
    {
        return Err(format!(
            "tag `{tag}` already exists; the tag of a release cannot be moved"
        ));
    }
    run_for_output(
        &path,
        &[
            "tag",
            "--annotate",
            "--message",
            &format!("Release {tag}"),
            tag,
            &commit,
        ],
    )?;
    let text = format!(
        "tagged {} on `{target}` in {repository} as {tag}",
        &commit[..commit.len().min(12)]
    );
    Ok((text, json!({ "tag": tag, "commit": commit })))
}
