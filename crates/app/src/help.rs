//! `--help` of the whole program: the definitions of `cli`, sorted into groups.

use crate::cli::Cli;
use clap::builder::StyledStr;
use clap::error::ErrorKind;
use clap::{Command, CommandFactory};
use std::ffi::OsString;
use std::fmt::Write as _;

/// Verbs that belong together.
struct Group {
    heading: &'static str,
    verbs: &'static [&'static str],
}

/// Every verb is in one group, which a test checks. The description of a verb comes from its definition.
const GROUPS: &[Group] = &[
    Group {
        heading: "House",
        verbs: &[
            "init", "plan", "up", "down", "ps", "doctor", "report", "backup", "restore",
        ],
    },
    Group {
        heading: "Agents",
        verbs: &[
            "agent", "template", "start", "stop", "restart", "reload", "pause", "resume", "why",
            "logs", "exec", "cp", "attach", "org", "export", "import",
        ],
    },
    Group {
        heading: "Work",
        verbs: &[
            "task",
            "delegate",
            "approvals",
            "skill",
            "schedule",
            "workflow",
            "document",
            "run",
        ],
    },
    Group {
        heading: "Resources and records",
        verbs: &["service", "budget", "activity", "secret", "token", "image"],
    },
    Group {
        heading: "Host and shell",
        verbs: &["unit", "completions", "man"],
    },
];

/// Builds the clap definition of `abbey`, whose `--help` lists the verbs in groups.
pub(crate) fn build_command() -> Command {
    let command = Cli::command();
    let (header, literal) = (
        *command.get_styles().get_header(),
        *command.get_styles().get_literal(),
    );
    let mut groups = String::new();
    for group in GROUPS {
        let _to_a_string = writeln!(groups, "{header}{}:{header:#}", group.heading);
        for verb in group.verbs {
            let found = command.find_subcommand(verb);
            let about = found.and_then(Command::get_about).unwrap_or_default();
            let _to_a_string = writeln!(groups, "  {literal}{verb:<11}{literal:#} {about}");
        }
        groups.push('\n');
    }
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}{header}Options:{header:#}\n{{options}}\n\n\
         `abbey VERB --help` explains a verb and shows an example.\n"
    ))
}

/// Adds the verb that lists things to a noun that stands alone, so that `abbey task` is `abbey task list`.
pub(crate) fn complete_noun(mut args: Vec<OsString>) -> Vec<OsString> {
    let command = build_command();
    let missing = |args: &[OsString]| {
        let error = command.clone().try_get_matches_from(args).err()?;
        matches!(
            error.kind(),
            ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        )
        .then_some(())
    };
    let words = args.iter().skip(1).filter_map(|a| a.to_str());
    let noun = words
        .filter_map(|word| command.find_subcommand(word))
        .next();
    let verb = noun.and_then(|noun| {
        let known = |verb: &&str| noun.find_subcommand(verb).is_some();
        ["list", "show"].into_iter().find(known)
    });
    if let Some(verb) = verb
        && missing(&args).is_some()
    {
        let mut completed = args.clone();
        completed.push(verb.into());
        // `show` of a noun that wants a name says nothing without one.
        if command.clone().try_get_matches_from(&completed).is_ok() {
            args = completed;
        }
    }
    args
}

/// Renders the help of the deepest subcommand that the arguments name, for a call such as `abbey task` that lacks a
/// subcommand.
pub(crate) fn render_help(args: &[OsString]) -> StyledStr {
    let mut root = build_command();
    root.build();
    let mut path = Vec::new();
    let mut command = &root;
    for word in args.iter().skip(1).filter_map(|a| a.to_str()) {
        if let Some(found) = command.find_subcommand(word) {
            path.push(word);
            command = found;
        }
    }
    let found = path
        .into_iter()
        .try_fold(&mut root, |command, word| command.find_subcommand_mut(word));
    found.map(Command::render_help).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    /// Longest description of a verb that fits beside its name.
    const ABOUT_MAX: usize = 92;

    fn walk(command: &Command, visit: &mut impl FnMut(&Command)) {
        visit(command);
        for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
            walk(sub, visit);
        }
    }

    #[test]
    fn a_noun_alone_lists() {
        let completed = |line: &str| {
            let args = line.split(' ').map(OsString::from).collect();
            complete_noun(args).join(&OsString::from(" "))
        };
        for (given, wanted) in [
            ("abbey task", "abbey task list"),
            ("abbey --json budget", "abbey --json budget show"),
            ("abbey service", "abbey service list"),
            ("abbey task list", "abbey task list"),
            ("abbey unit", "abbey unit"),
            ("abbey ps", "abbey ps"),
        ] {
            assert_eq!(completed(given), wanted);
        }
    }

    #[test]
    fn every_verb_is_in_one_group_of_the_help() {
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|g| g.verbs).copied().collect();
        let command = build_command();
        let mut verbs: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        grouped.sort_unstable();
        verbs.sort_unstable();
        assert_eq!(grouped, verbs);
    }

    #[test]
    fn every_verb_and_argument_is_described() {
        let mut root = build_command();
        root.build();
        walk(&root, &mut |command| {
            let name = command.get_bin_name().unwrap_or("abbey").to_owned();
            let about = command.get_about().unwrap_or_default().to_string();
            assert!(!about.is_empty(), "`{name}` has no description");
            let listed = name.contains(' ');
            assert!(!listed || about.len() <= ABOUT_MAX, "`{name}`: {about}");
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "`{name}`: {}", arg.get_id());
            }
        });
    }

    #[test]
    fn every_verb_has_an_example_that_parses() {
        let mut root = build_command();
        root.build();
        walk(&root, &mut |command| {
            let Some(path) = command.get_bin_name().filter(|n| n.contains(' ')) else {
                return;
            };
            let text = command.get_after_help().unwrap_or_default().to_string();
            let examples: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("  ")).collect();
            assert!(!examples.is_empty(), "`{path}` has no example");
            for example in examples {
                let words = shlex::split(example).expect("quotes are closed");
                let parsed = build_command()
                    .try_get_matches_from(words)
                    .and_then(|m| Cli::from_arg_matches(&m));
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        });
    }
}
