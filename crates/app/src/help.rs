//! `--help` of the whole program: the definitions of `cli`, sorted into groups.

use crate::cli::Cli;
use crate::table::hanging;
use crate::text::{Text, Tone};
use clap::builder::{StyledStr, Styles};
use clap::error::ErrorKind;
use clap::{ColorChoice, Command, CommandFactory};
use std::ffi::OsString;

/// Columns of the help where it is not on a terminal, and the most on a terminal.
pub(crate) const WIDTH: usize = 100;

/// Colours of the help and of errors in arguments.
pub(crate) const STYLES: Styles = Styles::styled()
    .header(Tone::Heading.style())
    .usage(Tone::Heading.style())
    .literal(Tone::Good.style())
    .placeholder(Tone::Plain.style())
    .error(Tone::Bad.style())
    .valid(Tone::Good.style())
    .invalid(Tone::Attention.style());

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
        verbs: &[
            "service", "budget", "provider", "activity", "secret", "token", "image",
        ],
    },
    Group {
        heading: "Host and shell",
        verbs: &["unit", "completions", "man"],
    },
];

/// The way from nothing to a first task, for `--help`.
const EXAMPLES: &str = "  \
  abbey init my-house
  abbey up -f my-house/abbey.yaml
  abbey ps
  abbey task add \"show system stats\"
";

/// Builds the clap definition of `abbey`, whose `--help` lists the verbs in groups, in lines of at most this width.
pub(crate) fn build_command(width: usize) -> Command {
    let command = Cli::command();
    let mut lines = Vec::new();
    for group in GROUPS {
        lines.push(Text::toned(Tone::Heading, &format!("{}:", group.heading)));
        for verb in group.verbs {
            let found = command.find_subcommand(verb);
            let about = found.and_then(Command::get_about).unwrap_or_default();
            let verb = Text::from("  ").and(Tone::Good, &format!("{verb:<11} "));
            lines.extend(hanging(&verb, &about.to_string().into(), width));
        }
        lines.push(Text::default());
    }
    let lines: Vec<String> = lines.iter().map(Text::render).collect();
    let groups = lines.join("\n");
    let heading = |name| Text::toned(Tone::Heading, name).render();
    let (options, examples) = (heading("Options:"), heading("Examples:"));
    command.term_width(width).help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}\n{options}\n{{options}}\n\n{examples}\n{EXAMPLES}\n\
         `abbey VERB --help` explains a verb.\n"
    ))
}

/// The choice of colours that arguments make, also where they do not parse or ask for help: `--color WHEN` before any
/// `--`. None if they make none.
pub(crate) fn color_choice(args: &[OsString]) -> Option<ColorChoice> {
    let words = args.iter().map_while(|a| a.to_str().filter(|a| *a != "--"));
    let words: Vec<&str> = words.collect();
    let value = words.iter().enumerate().find_map(|(n, word)| {
        let next = || words.get(n + 1).copied();
        let rest = word.strip_prefix("--color")?;
        if rest.is_empty() {
            next()
        } else {
            rest.strip_prefix('=')
        }
    });
    value?.parse().ok()
}

/// Adds the verb that lists things to a noun that stands alone, so that `abbey task` is `abbey task list`.
pub(crate) fn complete_noun(mut args: Vec<OsString>) -> Vec<OsString> {
    let command = build_command(WIDTH);
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
pub(crate) fn render_help(args: &[OsString], width: usize) -> StyledStr {
    let mut root = build_command(width);
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
    fn the_choice_of_colours_is_known_before_the_arguments_parse() {
        let choice = |line: &str| {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            color_choice(&args)
        };
        assert_eq!(
            choice("abbey --color never --help"),
            Some(ColorChoice::Never)
        );
        assert_eq!(choice("abbey ps --color=always"), Some(ColorChoice::Always));
        assert_eq!(choice("abbey exec a -- ls --color=always"), None);
        assert_eq!(choice("abbey ps --colors=always"), None);
        assert_eq!(choice("abbey ps --color"), None);
    }

    #[test]
    fn every_verb_is_in_one_group_of_the_help() {
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|g| g.verbs).copied().collect();
        let command = build_command(WIDTH);
        let mut verbs: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        grouped.sort_unstable();
        verbs.sort_unstable();
        assert_eq!(grouped, verbs);
    }

    #[test]
    fn every_verb_and_argument_is_described() {
        let mut root = build_command(WIDTH);
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
        let mut root = build_command(WIDTH);
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
                let parsed = build_command(WIDTH)
                    .try_get_matches_from(words)
                    .and_then(|m| Cli::from_arg_matches(&m));
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        });
    }
}
