//! Words of commands that people copy into a shell.

use std::path::Path;

/// Text as one word of a POSIX shell: quoted where a shell would take a part of it for something else.
pub fn shell_word(text: &str) -> String {
    // A word of a shell can't have a NUL; no path and no name has one.
    let word = text.replace('\0', "");
    shlex::try_quote(&word).map_or_else(|_| word.clone(), |quoted| quoted.into_owned())
}

/// As [`shell_word`], for a path.
pub fn shell_path(path: &Path) -> String {
    shell_word(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word() {
        for (text, word) in [
            ("abbey.yaml", "abbey.yaml"),
            ("/srv/my-house/abbey.yaml", "/srv/my-house/abbey.yaml"),
            ("My House!", "'My House!'"),
            ("$(reboot)", "'$(reboot)'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(text), word);
        }
        for text in [
            "it's", "a\nb", "~", "*", "`id`", "a\\b", "\"", "!x", "a;b", "x\0y",
        ] {
            let word = shell_word(text);
            let read = shlex::split(&word);
            assert_eq!(read, Some(vec![text.replace('\0', "")]), "{word}");
        }
    }
}
