//! Every importer on a realistic fixture, and on hostile input (S5-01, S5-08, S1-15, S3-13).
#![allow(clippy::unwrap_used, reason = "a test reports by failing")]

use abbey_import::{Format, Import, ReportKind, TargetHouse, read_installation};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn here() -> TargetHouse {
    TargetHouse {
        taken: ["scribe".parse().unwrap()].into(),
        providers: ["cloud", "local"].map(|p| p.parse().unwrap()).into(),
        named: None,
        skip: Vec::new(),
    }
}

fn as_text(import: &Import) -> String {
    let mut text = String::new();
    for agent in &import.agents {
        let _to_a_string = writeln!(text, "{}", agent.manifest_lines().join("\n"));
        for (path, content) in &agent.files {
            let _to_a_string = writeln!(text, "  > {path}: {}", content.trim());
        }
        if let Some(charter) = &agent.charter {
            let _to_a_string =
                writeln!(text, "  > charter: {}", charter.trim().replace('\n', " / "));
        }
    }
    for task in &import.tasks {
        let _to_a_string = writeln!(
            text,
            "task {} {} to {:?}: {}",
            task.was,
            task.priority,
            task.to.as_ref().map(|t| t.as_str()),
            task.text.replace('\n', " / ")
        );
    }
    for finding in &import.findings {
        let _to_a_string = writeln!(
            text,
            "{}: {}: {}",
            finding.kind.name(),
            finding.place,
            finding.text
        );
    }
    text
}

fn imported(format: Format, name: &str) -> Import {
    read_installation(format, &fixture(name), &here()).unwrap()
}

#[test]
fn a_fireclaw_host() {
    insta::assert_snapshot!(as_text(&imported(Format::Fireclaw, "fireclaw")));
    // The path of the file is accepted as well as its directory.
    let file = imported(Format::Fireclaw, "fireclaw/agents.json");
    assert_eq!(file.agents.len(), 2);
}

#[test]
fn an_env_file() {
    insta::assert_snapshot!(as_text(&imported(Format::Env, "env")));
}

#[test]
fn an_openclaw_instance() {
    insta::assert_snapshot!(as_text(&imported(Format::Openclaw, "openclaw")));
}

#[test]
fn a_hermes_home() {
    insta::assert_snapshot!(as_text(&imported(Format::Hermes, "hermes")));
}

#[test]
fn a_paperclip_company() {
    insta::assert_snapshot!(as_text(&imported(Format::Paperclip, "paperclip")));
}

#[test]
fn a_bundle_and_directories_that_are_not() {
    let import = imported(Format::Bundle, "openclaw/workspace");
    insta::assert_snapshot!(as_text(&import));
    for (format, name) in [
        (Format::Bundle, "paperclip"),
        (Format::Fireclaw, "hermes"),
        (Format::Env, "hermes"),
        (Format::Openclaw, "hermes"),
        (Format::Hermes, "paperclip"),
        (Format::Paperclip, "hermes"),
        (Format::Hermes, "nothing-there"),
    ] {
        let error = read_installation(format, &fixture(name), &here())
            .unwrap_err()
            .to_string();
        assert!(error.contains(name), "{format:?}: {error}");
    }
}

/// A text with the shape of a credential, put together here so that none lies in the repository.
fn secret() -> String {
    format!("{}{}", "sk-ant-", "0123456789abcdef0123")
}

#[test]
fn secrets_are_reported_and_redacted_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("workspace/memory")).unwrap();
    fs::create_dir_all(root.join("credentials")).unwrap();
    fs::write(
        root.join("openclaw.json"),
        format!(
            "{{ channels: {{ telegram: {{ botToken: '{}' }} }} }}",
            secret()
        ),
    )
    .unwrap();
    fs::write(root.join("workspace/SOUL.md"), "You are kind.\n").unwrap();
    fs::write(
        root.join("workspace/MEMORY.md"),
        format!("a\nthe key is {}\n", secret()),
    )
    .unwrap();
    fs::write(root.join("credentials/telegram.json"), secret()).unwrap();
    fs::write(root.join(".env"), format!("KEY={}", secret())).unwrap();
    let import = read_installation(Format::Openclaw, root, &here()).unwrap();
    let text = as_text(&import);
    assert!(
        !text.contains(&secret()) && text.contains("the key is [redacted]"),
        "{text}"
    );
    let places: Vec<&str> = import
        .findings
        .iter()
        .filter(|f| f.kind == ReportKind::Secret)
        .map(|f| f.place.as_str())
        .collect();
    for place in [
        ".env",
        "credentials/telegram.json",
        "openclaw.json: channels.telegram.botToken",
        "workspace/MEMORY.md:2",
    ] {
        assert!(places.contains(&place), "{place}: {places:?}");
    }
    // Nor in errors about files that cannot be parsed.
    fs::write(
        root.join("openclaw.json"),
        format!("{{ a: '{}' b }}", secret()),
    )
    .unwrap();
    let error = read_installation(Format::Openclaw, root, &here())
        .unwrap_err()
        .to_string();
    assert!(!error.contains(&secret()), "{error}");
    fs::write(
        root.join(".env"),
        format!("AGENT_NAME=x\nnot a line {}\n", secret()),
    )
    .unwrap();
    let import = read_installation(Format::Env, root, &here()).unwrap();
    let text = as_text(&import);
    assert!(
        text.contains(".env:2: the line is not `NAME=value`") && !text.contains(&secret()),
        "{text}"
    );
}

#[test]
fn an_env_file_without_a_name_is_imported_under_a_given_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".env"), "ASSISTANT_NAME=Envy\n").unwrap();
    let error = read_installation(Format::Env, dir.path(), &here()).unwrap_err();
    assert!(error.to_string().contains("`--as NAME`"), "{error}");
    let named = TargetHouse {
        named: Some("envy".parse().unwrap()),
        ..here()
    };
    let import = read_installation(Format::Env, dir.path(), &named).unwrap();
    assert_eq!(import.agents[0].slug.as_str(), "envy");
}

#[test]
fn hostile_names_links_and_reporting_cycles_are_neutralized() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::write(root.join("outside.md"), "not theirs").unwrap();
    let company = root.join("company");
    for (slug, above) in [("a", "b"), ("b", "a"), ("c", "c")] {
        let at = company.join("agents").join(slug);
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("AGENTS.md"), format!("---\nname: \"x\\ny: &a\"\ntitle: '{{{{ role }}}}: [#'\nreportsTo: {above}\n---\nwork\n")).unwrap();
    }
    fs::create_dir_all(company.join("agents/d")).unwrap();
    std::os::unix::fs::symlink(root.join("outside.md"), company.join("agents/d/AGENTS.md"))
        .unwrap();
    fs::write(company.join("COMPANY.md"), "---\nname: c\n---\n").unwrap();
    let import = read_installation(Format::Paperclip, &company, &here()).unwrap();
    let text = as_text(&import);
    assert!(
        !text.contains("not theirs") && import.agents.len() == 3,
        "{text}"
    );
    assert!(
        import
            .agents
            .iter()
            .filter(|a| a.reports_to.is_some())
            .count()
            <= 1,
        "no circle is left: {text}"
    );
    assert_eq!(text.matches("would be a cycle").count(), 3, "{text}");
    // Whatever they are called, the lines are an entry and nothing else.
    for agent in &import.agents {
        let lines = agent.manifest_lines();
        assert_eq!(lines[1], "  name: \"x y: &a\"");
        assert!(
            lines.iter().skip(1).all(|l| l.starts_with("  ")),
            "{lines:?}"
        );
    }
    let instance = root.join("instance");
    fs::create_dir_all(&instance).unwrap();
    fs::write(instance.join("openclaw.json"), "{ agents: { entries: { '../../etc': { workspace: '../' }, '$(id)': { workspace: '/etc' }, '..': {} } } }").unwrap();
    let import = read_installation(Format::Openclaw, &instance, &here()).unwrap();
    let slugs: Vec<&str> = import.agents.iter().map(|a| a.slug.as_str()).collect();
    assert_eq!(slugs, ["etc", "id", "agent"]);
    assert!(
        import
            .agents
            .iter()
            .all(|a| a.files.is_empty() && a.charter.is_none())
    );
}
