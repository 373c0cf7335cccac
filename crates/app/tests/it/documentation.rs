//! The documents for users: every command in them is one that the binary takes, and every whole manifest is valid.

use crate::house;
use std::path::{Path, PathBuf};

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages: Vec<PathBuf> = std::fs::read_dir(root.join("docs/guide"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "md"))
        .collect();
    pages.push(root.join("README.md"));
    pages.sort();
    pages
}

/// Code blocks of a page, with the language of each.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(language) if !inside => {
                blocks.push((language.trim().to_owned(), String::new()));
                inside = true;
            }
            Some(_) => inside = false,
            None if inside => {
                let (_, text) = blocks.last_mut().unwrap();
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    blocks
}

/// Arguments of the `abbey` of a line, as a shell splits them; none for other lines.
fn arguments(line: &str) -> Option<Vec<String>> {
    let line = line.strip_prefix("$ ").unwrap_or(line);
    let line = line.split("  #").next().unwrap_or(line);
    let line = line.rsplit_once("| ").map_or(line, |(_, last)| last);
    let rest = line.strip_prefix("abbey ")?;
    let (mut arguments, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in rest.trim().chars() {
        match (letter, quote) {
            ('\'' | '"', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (end, Some(begin)) if end == begin => quote = None,
            (' ', None) => arguments.extend(word.take()),
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    arguments.extend(word);
    Some(arguments)
}

/// Commands in the text of a page and its tables, as `abbey …`.
fn inline(page: &str) -> Vec<String> {
    let parts: Vec<&str> = page.split('`').collect();
    let code = parts.iter().skip(1).step_by(2);
    code.filter(|c| {
        c.starts_with("abbey ") && !c.contains('\n') && !c.contains('…') && !c.contains('[')
    })
    .map(|c| (*c).to_owned())
    .collect()
}

#[test]
fn every_command_in_the_documents_is_accepted() {
    let house = house();
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let mut lines: Vec<String> = blocks(&text)
            .into_iter()
            .filter(|(language, _)| language.is_empty() || language == "sh")
            .flat_map(|(_, block)| block.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let without_blocks: String = text.split("```").step_by(2).collect();
        lines.extend(inline(&without_blocks));
        for line in lines {
            let Some(mut arguments) = arguments(&line) else {
                continue;
            };
            count += 1;
            // Help is printed once everything before it was understood; nothing is done.
            let end = arguments
                .iter()
                .position(|a| a == "--")
                .unwrap_or(arguments.len());
            arguments.insert(end, "--help".to_owned());
            arguments.truncate(end + 1);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let output = house.command(arguments.as_slice()).output().unwrap();
            if !output.status.success() {
                let name = page.file_name().unwrap().to_string_lossy().into_owned();
                let why = String::from_utf8_lossy(&output.stderr);
                wrong.push(format!(
                    "{name}: {line}: {}",
                    why.lines().next().unwrap_or_default()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 100, "only {count} commands were found");
}

#[test]
fn every_whole_manifest_in_the_documents_is_valid() {
    let mut count = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let manifests = blocks(&text)
            .into_iter()
            .filter(|(l, t)| l == "yaml" && t.starts_with("version: 1"));
        for (_, manifest) in manifests {
            count += 1;
            let house = house();
            let file = house.path("abbey.yaml");
            std::fs::write(&file, manifest).unwrap();
            // The key of the example's provider.
            let output = house
                .command("plan")
                .env("CLOUD_API_KEY", "example")
                .output()
                .unwrap();
            let why = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {why}", page.display());
        }
    }
    assert!(count >= 3, "only {count} manifests were found");
}
