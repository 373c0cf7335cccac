//! Arguments of one call of the command line, written as a person types them.

use std::fmt::Display;

/// Words of a command line, without the name of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args(pub Vec<String>);

impl Args {
    /// Splits a template into words as a shell does, and replaces each `{}` by one value, which is
    /// never split and may contain spaces and quotes.
    ///
    /// # Panics
    /// If a quote is not closed, or the number of values is not that of the places.
    pub fn new(template: &str, values: &[&dyn Display]) -> Args {
        let mut values = values.iter();
        let words = shlex::split(template).expect("every quote is closed");
        let words = words.iter().map(|word| {
            let mut parts = word.split("{}");
            let mut filled = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let value = values.next().expect("a value for each `{}`");
                filled.push_str(&format!("{value}{part}"));
            }
            filled
        });
        let words = words.collect();
        assert!(
            values.next().is_none(),
            "`{template}` has fewer `{{}}` than values"
        );
        Args(words)
    }

    /// These arguments with further ones appended.
    #[must_use]
    pub fn with(mut self, more: &[&str]) -> Args {
        self.0.extend(more.iter().map(|w| (*w).to_owned()));
        self
    }

    /// These arguments with `--json`, which comes before the arguments of a program.
    #[must_use]
    pub fn with_json(mut self) -> Args {
        self.0.insert(0, "--json".to_owned());
        self
    }
}

impl From<&str> for Args {
    fn from(line: &str) -> Self {
        Args::new(line, &[])
    }
}

impl From<&[&str]> for Args {
    fn from(words: &[&str]) -> Self {
        Args(words.iter().map(|w| (*w).to_owned()).collect())
    }
}

impl<const N: usize> From<&[&str; N]> for Args {
    fn from(words: &[&str; N]) -> Self {
        words.as_slice().into()
    }
}

impl From<&Vec<&str>> for Args {
    fn from(words: &Vec<&str>) -> Self {
        words.as_slice().into()
    }
}

impl From<&Args> for Args {
    fn from(args: &Args) -> Self {
        args.clone()
    }
}

/// Arguments with values in them: `args!("task add {} --to merlin", text)`.
#[macro_export]
macro_rules! args {
    ($template:literal $(, $value:expr)* $(,)?) => {
        $crate::args::Args::new($template, &[$(&$value as &dyn std::fmt::Display),*])
    };
}

#[cfg(test)]
mod tests {
    use super::Args;

    #[test]
    fn words_are_split_like_in_a_shell_and_values_are_not() {
        let text = "two words and a 'quote'";
        let args = args!("task add {} --to=agent-{} 'one word'", text, 7);
        let expected = ["task", "add", text, "--to=agent-7", "one word"];
        assert_eq!(args, Args::from(&expected));
    }

    #[test]
    #[should_panic(expected = "fewer `{}` than values")]
    fn a_value_without_a_place_is_refused() {
        let _args = args!("task list", 1);
    }
}
