//! The manual of the command line, rendered from its definitions: as pages for `man`, and as Markdown for
//! `docs/reference/cli.md`.

use crate::exit::{Failure, NOT_FOUND};
use clap::{Arg, Command};
use std::fmt::Write as _;

/// Renders the manual page of a command in roff. `words` name the command, like `task add`; empty for `abbey`
/// itself.
///
/// # Errors
/// Exit code 3 if there is no such command.
pub(crate) fn render_man_page(mut root: Command, words: &[String]) -> Result<String, Failure> {
    root.build();
    let mut command = &root;
    for word in words {
        command = command.find_subcommand(word).ok_or_else(|| {
            let text = format!("there is no command `abbey {}`", words.join(" "));
            Failure::plain(text)
                .with_code(NOT_FOUND)
                .hint("`abbey --help` lists the commands")
        })?;
    }
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command.clone()).render(&mut page);
    rendered.map_err(|e| Failure::plain(format!("cannot render the manual page: {e}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// Renders the reference of every command, with its arguments, options and examples, as Markdown.
pub(crate) fn render_markdown(mut root: Command) -> String {
    root.build();
    let mut out = String::from(
        "# Command line\n\n<!-- Generated: `abbey man --markdown > docs/reference/cli.md` -->\n\n\
         Every command takes the options of `abbey` itself; `--json` prints one JSON document, or JSON Lines for streams.\n",
    );
    write_command(&mut out, &mut root, 2);
    out
}

fn write_command(out: &mut String, command: &mut Command, level: usize) {
    let name = command.get_bin_name().unwrap_or("abbey").to_owned();
    let usage = command.render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage);
    let about = command
        .get_long_about()
        .or(command.get_about())
        .unwrap_or_default();
    let heading = "#".repeat(level);
    let _to_a_string = write!(
        out,
        "\n{heading} {name}\n\n{about}\n\n```text\n{usage}\n```\n"
    );
    let root = level == 2;
    let shown: Vec<&Arg> = command
        .get_arguments()
        .filter(|a| !a.is_hide_set() && (root || !a.is_global_set()) && a.get_id() != "help")
        .collect();
    if !shown.is_empty() {
        out.push('\n');
    }
    for arg in shown {
        write_argument(out, arg);
    }
    let after = command.get_after_help().map(ToString::to_string);
    let examples: Vec<&str> = after.iter().flat_map(|t| t.lines().skip(1)).collect();
    if !examples.is_empty() {
        let lines: Vec<&str> = examples.iter().map(|l| l.trim_start()).collect();
        let _to_a_string = write!(out, "\n```sh\n{}\n```\n", lines.join("\n"));
    }
    for sub in command.get_subcommands_mut() {
        if sub.get_name() != "help" {
            write_command(out, sub, if root { 2 } else { level } + 1);
        }
    }
}

fn write_argument(out: &mut String, arg: &Arg) {
    let value = arg.get_value_names().map(|names| {
        let names: Vec<String> = names.iter().map(|n| format!("<{n}>")).collect();
        names.join(" ")
    });
    let takes_value = arg.get_action().takes_values();
    let value = value.filter(|_| takes_value).unwrap_or_default();
    let short = arg.get_short().map(|s| format!("-{s}"));
    let long = arg.get_long().map(|l| format!("--{l}"));
    let mut name: Vec<String> = [short, long].into_iter().flatten().collect();
    if name.is_empty() {
        name.push(value.clone());
    }
    let mut name = name.join(", ");
    if !arg.is_positional() && !value.is_empty() {
        let _to_a_string = write!(name, " {value}");
    }
    let help = arg.get_help().unwrap_or_default().to_string();
    let defaults: Vec<_> = match takes_value {
        true => arg.get_default_values().iter().collect(),
        false => Vec::new(),
    };
    let default = defaults
        .first()
        .map_or_else(String::new, |d| format!(" (default `{}`)", d.display()));
    let _to_a_string = writeln!(out, "- `{name}`: {}{default}", help.replace('\n', " "));
}

#[cfg(test)]
mod tests {
    use crate::help::{WIDTH, build_command};
    use clap::Command;
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    fn write_help(out: &mut String, command: &mut Command) {
        let name = command.get_bin_name().unwrap_or("abbey").to_owned();
        let help = command.render_long_help();
        let _to_a_string = writeln!(out, "$ {name} --help\n{help}\n");
        for sub in command.get_subcommands_mut() {
            if sub.get_name() != "help" {
                write_help(out, sub);
            }
        }
    }

    #[test]
    fn help_of_every_verb_is_as_recorded() {
        let mut root = build_command(WIDTH);
        root.build();
        let mut manual = String::new();
        write_help(&mut manual, &mut root);
        let lines: Vec<&str> = manual.lines().map(str::trim_end).collect();
        insta::assert_snapshot!("manual", lines.join("\n"));
    }

    #[test]
    fn every_command_has_a_page_and_unknown_ones_are_refused() {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        for name in ["up", "task add", "agent new", "token revoke"] {
            let page = super::render_man_page(build_command(WIDTH), &words(name)).unwrap();
            let title = format!(".TH abbey-{} 1", name.replace(' ', "-"));
            assert!(page.contains(&title), "{name}: {page}");
        }
        assert!(
            super::render_man_page(build_command(WIDTH), &[])
                .unwrap()
                .contains(".TH abbey 1")
        );
        let refused = super::render_man_page(build_command(WIDTH), &words("task fly")).unwrap_err();
        assert_eq!(refused.code(), crate::exit::NOT_FOUND);
    }

    #[test]
    fn pages_refer_to_pages_that_exist() {
        fn names(command: &Command, name: String, found: &mut BTreeSet<String>) {
            for sub in command.get_subcommands() {
                names(sub, format!("{name}-{}", sub.get_name()), found);
            }
            found.insert(name);
        }
        fn visit(command: &Command, path: &[String], pages: &BTreeSet<String>) {
            let page = super::render_man_page(build_command(WIDTH), path).unwrap();
            let page = page.replace("\\-", "-");
            for line in page.lines().filter_map(|l| l.split_once("(1)")) {
                let name = line.0.rsplit(' ').next().unwrap_or_default();
                let name = name.trim_start_matches("\\fB").trim_end_matches("\\fR");
                assert!(pages.contains(name), "{path:?} refers to {name}");
            }
            for sub in command.get_subcommands() {
                let path = [path, &[sub.get_name().to_owned()]].concat();
                visit(sub, &path, pages);
            }
        }
        let command = build_command(WIDTH);
        let mut pages = BTreeSet::new();
        let mut built = command.clone();
        built.build();
        names(&built, "abbey".to_owned(), &mut pages);
        visit(&command, &[], &pages);
    }

    #[test]
    fn reference_of_the_command_line_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == super::render_markdown(build_command(WIDTH)),
            "docs/reference/cli.md is out of date; run `abbey man --markdown > docs/reference/cli.md`"
        );
    }
}
