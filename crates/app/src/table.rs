//! Tables that fit the terminal: columns are narrowed at spaces, then left out where others say more, and where that
//! isn't enough each row becomes a record with a line for each of its values. Nothing is cut off.

use crate::text::{Text, Tone};

/// Columns between two columns of a table.
const GAP: usize = 2;
/// Columns are narrowed to these widths, the first as long as leaving columns out helps.
const NARROW: [usize; 2] = [20, 12];

/// Rows below a header.
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Text>>,
    optional: &'static [&'static str],
    /// Columns of free text, whose long words may break.
    texts: &'static [&'static str],
}

impl Table {
    /// A table with these names of columns. The first column identifies the row.
    pub(crate) fn new<C: Into<Text>>(head: &[&'static str], rows: Vec<Vec<C>>) -> Table {
        let cell = |cell: C| Text::on_one_line(cell.into());
        let row = |cells: Vec<C>| cells.into_iter().map(cell).collect();
        Table {
            head: head.to_vec(),
            rows: rows.into_iter().map(row).collect(),
            optional: &[],
            texts: &[],
        }
    }

    /// Names the columns that are left out of a narrow table, the first of them first. Records have them.
    pub(crate) fn leave_out_first(self, optional: &'static [&'static str]) -> Table {
        Table { optional, ..self }
    }

    /// Names the columns of free text: in a narrow table a long word there is broken, so that one of them does not make
    /// records of all rows. Words of other columns, such as names, stay whole.
    pub(crate) fn break_words_in(self, texts: &'static [&'static str]) -> Table {
        Table { texts, ..self }
    }

    /// Lines of the table: as wide as they are without a limit, at most `limit` columns with one.
    pub(crate) fn lines(&self, limit: Option<usize>) -> Vec<Text> {
        let limit = limit.unwrap_or(usize::MAX);
        let all: Vec<usize> = (0..self.head.len()).collect();
        for narrow in NARROW {
            for left_out in 0..=self.optional.len() {
                let kept = |n: &usize| !self.optional[..left_out].contains(&self.head[*n]);
                let columns: Vec<usize> = all.iter().copied().filter(kept).collect();
                if let Some(widths) = self.widths(&columns, narrow, limit) {
                    return self.grid(&columns, &widths);
                }
            }
        }
        self.records(limit)
    }

    /// Widths of these columns, each at least `narrow` or what it needs, so that they fit `limit` together; none if they
    /// can't.
    fn widths(&self, columns: &[usize], narrow: usize, limit: usize) -> Option<Vec<usize>> {
        let cells = |n: usize| self.rows.iter().filter_map(move |row| row.get(n));
        let natural = |n: &usize| {
            let widest = cells(*n).map(Text::width).max();
            widest.unwrap_or(0).max(self.head[*n].len())
        };
        let mut widths: Vec<usize> = columns.iter().map(natural).collect();
        let narrowest = |(n, natural): (&usize, &usize)| {
            let word = match self.texts.contains(&self.head[*n]) {
                true => 0,
                false => cells(*n).map(Text::longest_word).max().unwrap_or(0),
            };
            (*natural).min(word.max(narrow))
        };
        let least: Vec<usize> = columns.iter().zip(&widths).map(narrowest).collect();
        let gaps = GAP * columns.len().saturating_sub(1);
        let room = limit.saturating_sub(gaps);
        if least.iter().sum::<usize>() > room {
            return None;
        }
        // The widest that can be narrowed is narrowed, as often as it takes.
        while widths.iter().sum::<usize>() > room {
            let over = (0..widths.len()).filter(|n| widths[*n] > least[*n]);
            let widest = over.max_by_key(|n| widths[*n])?;
            widths[widest] -= 1;
        }
        Some(widths)
    }

    fn grid(&self, columns: &[usize], widths: &[usize]) -> Vec<Text> {
        let head = |n: &usize| Text::toned(Tone::Heading, self.head[*n]);
        let mut lines = grid_row(columns.iter().map(head), widths);
        for row in &self.rows {
            let cell = |n: &usize| row.get(*n).cloned().unwrap_or_default();
            lines.extend(grid_row(columns.iter().map(cell), widths));
        }
        lines
    }

    fn records(&self, limit: usize) -> Vec<Text> {
        let mut lines = Vec::new();
        let names: Vec<String> = self.head.iter().map(|h| h.to_lowercase()).collect();
        for row in &self.rows {
            for (n, (name, cell)) in names.iter().zip(row).enumerate() {
                match n {
                    0 => lines.extend(hang(&Text::toned(Tone::Heading, name), cell, 0, limit)),
                    _ if cell.is_nothing() => {}
                    _ => lines.extend(hang(&Text::toned(Tone::Faint, name), cell, 2, limit)),
                }
            }
        }
        lines
    }
}

/// The name and a value behind it, with lines after the first below the value's beginning, or further left where the
/// terminal is too narrow for that.
fn hang(name: &Text, value: &Text, indent: usize, limit: usize) -> Vec<Text> {
    let before = blank(indent).join(name.clone()).and(Tone::Plain, " ");
    hanging(&before, value, limit)
}

/// `first` and the text behind it, in lines of at most `limit` columns. Further lines begin below the text, or with an
/// indent of four columns below a `first` that takes more than half of the line.
pub(crate) fn hanging(first: &Text, text: &Text, limit: usize) -> Vec<Text> {
    let beside = first.width() <= limit / 2;
    let indent = if beside { first.width() } else { 4 };
    let mut lines = match beside {
        true => Vec::new(),
        false => first.clone().trimmed().wrap(limit),
    };
    let room = limit.saturating_sub(indent).max(1);
    for (n, line) in text.wrap(room).into_iter().enumerate() {
        let before = match beside && n == 0 {
            true => first.clone(),
            false => blank(indent),
        };
        lines.push(before.join(line));
    }
    lines
}

/// One row of a table as lines: each cell in its width, wrapped where it is longer.
fn grid_row(cells: impl Iterator<Item = Text>, widths: &[usize]) -> Vec<Text> {
    let wrapped: Vec<Vec<Text>> = cells.zip(widths).map(|(c, w)| c.wrap(*w)).collect();
    let height = wrapped.iter().map(Vec::len).max().unwrap_or(0);
    let line = |at: usize| {
        let mut line = Text::default();
        for (cell, width) in wrapped.iter().zip(widths) {
            let part = cell.get(at).cloned().unwrap_or_default();
            line = line.join(part.padded(width + GAP));
        }
        line.trimmed()
    };
    (0..height).map(line).collect()
}

fn blank(columns: usize) -> Text {
    Text::from(" ".repeat(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let rows = vec![
            vec!["ada", "tends the garden behind the house", "41", "-"],
            vec!["東京-agent", "cook", "42", "TASK-1"],
        ];
        Table::new(&["AGENT", "ROLE", "PID", "TASK"], rows).leave_out_first(&["PID"])
    }

    fn drawn(table: &Table, limit: usize) -> String {
        let lines = table.lines(Some(limit));
        assert!(lines.iter().all(|l| l.width() <= limit), "{lines:?}");
        let lines = lines.iter().map(Text::render);
        let lines = lines.map(|l| l.replace("\x1b[1m", "").replace("\x1b[2m", ""));
        lines.map(|l| l.replace("\x1b[0m", "") + "\n").collect()
    }

    #[test]
    fn a_long_word_of_a_text_breaks_and_one_of_a_name_does_not() {
        let rows = vec![
            vec![
                "agent-with-a-name",
                "model: none → provider/a-model-of-a-long-name",
            ],
            vec!["b", "nothing"],
        ];
        let table = Table::new(&["AGENT", "DETAIL"], rows).break_words_in(&["DETAIL"]);
        assert_eq!(
            drawn(&table, 41),
            "AGENT              DETAIL\n\
             agent-with-a-name  model: none →\n                   provider/a-model-of-a-\n                   long-name\n\
             b                  nothing\n"
        );
        assert!(drawn(&table, 25).starts_with("agent agent-with-a-name\n"));
    }

    #[test]
    fn a_table_is_narrowed_then_loses_columns_then_becomes_records() {
        assert_eq!(
            drawn(&table(), 80),
            "AGENT       ROLE                               PID  TASK\n\
             ada         tends the garden behind the house  41   -\n\
             東京-agent  cook                               42   TASK-1\n"
        );
        assert_eq!(
            drawn(&table(), 50),
            "AGENT       ROLE                       PID  TASK\n\
             ada         tends the garden behind    41   -\n            the house\n\
             東京-agent  cook                       42   TASK-1\n"
        );
        assert_eq!(
            drawn(&table(), 41),
            "AGENT       ROLE                   TASK\n\
             ada         tends the garden       -\n            behind the house\n\
             東京-agent  cook                   TASK-1\n"
        );
        assert_eq!(
            drawn(&table(), 30),
            "agent ada\n  role tends the garden behind\n       the house\n  pid 41\n\
             agent 東京-agent\n  role cook\n  pid 42\n  task TASK-1\n"
        );
        assert_eq!(
            drawn(&table(), 10),
            "agent\n    ada\n  role\n    tends\n    the\n    garden\n    behind\n    the\n    house\n  pid\n    41\n\
             agent\n    東京-a\n    gent\n  role\n    cook\n  pid\n    42\n  task\n    TASK-1\n"
        );
    }
}
