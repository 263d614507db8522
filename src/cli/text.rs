//! Text for a terminal: foreign text made harmless, aligned tables, narrow durations.
//!
//! Whatever came over a network or out of a build goes through [`clean`] before it reaches a terminal: escape sequences could
//! rewrite what was shown before, and bidirectional controls could make a name read like another. Nothing is written here.

pub(crate) use crate::api::shown::{StreamCleaner, clean, clean_lines};
pub(crate) use crate::api::words::{bytes, duration};

/// Cuts a text to `width` characters, the last being `…` when something is missing.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    out.push('…');
    out
}

/// A colour of the sixteen that every terminal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Good,
    Doubtful,
    Bad,
    Dim,
    Strong,
}

/// Paints, or does not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    /// The text in the colour.
    pub(crate) fn paint(self, colour: Colour, text: &str) -> String {
        if !self.0 || text.is_empty() {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Good => "32",
            Colour::Doubtful => "33",
            Colour::Bad => "31",
            Colour::Dim => "2",
            Colour::Strong => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// A cell: text that is measured unpainted.
pub(crate) struct Cell {
    text: String,
    colour: Option<Colour>,
}

/// A cell without colour, its text cleaned.
pub(crate) fn cell(text: impl AsRef<str>) -> Cell {
    Cell { text: clean(text.as_ref()).into_owned(), colour: None }
}

/// A painted cell, its text cleaned.
pub(crate) fn painted(text: impl AsRef<str>, colour: Colour) -> Cell {
    Cell { text: clean(text.as_ref()).into_owned(), colour: Some(colour) }
}

/// A column: its head, the widest it may become, and on which side its text stands.
pub(crate) struct Column<'a> {
    pub(crate) head: &'a str,
    pub(crate) max: usize,
    pub(crate) right: bool,
}

/// A column whose text stands left.
pub(crate) const fn left(head: &str, max: usize) -> Column<'_> {
    Column { head, max, right: false }
}

/// A column whose text stands right.
pub(crate) const fn right(head: &str, max: usize) -> Column<'_> {
    Column { head, max, right: true }
}

/// An aligned table with two spaces between columns and no trailing white space.
pub(crate) fn table(columns: &[Column<'_>], rows: &[Vec<Cell>], paint: Paint) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let longest = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.text.chars().count()).max();
            longest.unwrap_or(0).max(column.head.chars().count()).min(column.max.max(column.head.len()))
        })
        .collect();
    let mut out = String::new();
    let heads: Vec<Cell> = columns.iter().map(|column| painted(column.head, Colour::Dim)).collect();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (index, ((cell, column), &width)) in row.iter().zip(columns).zip(&widths).enumerate() {
            let text = cut(&cell.text, width);
            let gap = " ".repeat(width.saturating_sub(text.chars().count()));
            let shown = cell.colour.map_or_else(|| text.clone(), |colour| paint.paint(colour, &text));
            if index > 0 {
                line.push_str("  ");
            }
            if column.right {
                line.push_str(&gap);
                line.push_str(&shown);
            } else {
                line.push_str(&shown);
                line.push_str(&gap);
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A duration for a narrow column: `now`, `12s`, `3m`, `2h`, `5d`.
pub(crate) fn short_duration(ms: u64) -> String {
    match ms / 1_000 {
        0..=1 => "now".to_owned(),
        seconds @ 2..=119 => format!("{seconds}s"),
        seconds @ 120..=7_199 => format!("{}m", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_cut_and_painted_without_losing_alignment() {
        let columns = [left("NAME", 6), right("LOAD", 6), left("WHY", 20)];
        let rows = vec![
            vec![cell("build1"), painted("0.5", Colour::Good), cell("")],
            vec![cell("a-long-name"), cell("12.25"), cell("x\u{1b}y")],
        ];
        assert_eq!(
            table(&columns, &rows, Paint(false)),
            "NAME     LOAD  WHY\nbuild1    0.5\na-lon…  12.25  x\\u{1b}y\n"
        );
        let coloured = table(&columns, &rows, Paint(true));
        assert!(coloured.contains("build1    \u{1b}[32m0.5\u{1b}[0m"), "{coloured:?}");
    }

    #[test]
    fn narrow_durations_have_one_unit() {
        assert_eq!([0, 5_000, 300_000, 9_000_000, 900_000_000].map(short_duration), ["now", "5s", "5m", "2h", "10d"]);
    }
}
