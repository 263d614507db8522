//! Text for a terminal: foreign text made harmless, aligned tables, narrow durations.
//!
//! Whatever came over a network or out of a build goes through [`clean`] before it reaches a terminal: escape sequences could
//! rewrite what was shown before, and bidirectional controls could make a name read like another. Nothing is written here.

use std::borrow::Cow;
use std::fmt::Write as _;

pub(crate) use crate::api::words::{bytes, duration};

/// Makes control, bidirectional and invisible characters visible as `\u{…}`; tabs and line ends become spaces.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' | '\r' | '\t' => out.push(' '),
            hostile if is_hostile(hostile) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(hostile));
            }
            plain => out.push(plain),
        }
    }
    Cow::Owned(out)
}

/// The same for text of several lines: line ends and tabs stay.
pub(crate) fn clean_lines(text: &str) -> String {
    let keep = |part: &str| clean(part).into_owned();
    text.split('\n')
        .map(|line| line.split('\t').map(keep).collect::<Vec<_>>().join("\t"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Longest sequence that sets a colour: `ESC [`, digits and semicolons, `m`.
const COLOUR_MAX_LEN: usize = 32;

/// Makes a stream of bytes harmless, piece by piece; a character that is cut in two is completed by the next piece.
#[derive(Default)]
pub(crate) struct StreamCleaner {
    pending: Vec<u8>,
    /// Sequences that set colours are passed on: they move no cursor and hide nothing that was shown before.
    colours: bool,
    coloured: bool,
}

impl StreamCleaner {
    /// One that keeps colours, or makes them visible as escapes like everything else.
    pub(crate) fn new(colours: bool) -> Self {
        Self { colours, ..Self::default() }
    }

    /// The text of everything that is complete. A carriage return before a line end is dropped.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    break;
                }
                Err(error) => {
                    let valid = self.pending.get(..error.valid_up_to()).unwrap_or_default();
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(broken) = error.error_len() else {
                        self.pending.drain(..error.valid_up_to());
                        break;
                    };
                    text.push('\u{fffd}');
                    self.pending.drain(..error.valid_up_to() + broken);
                }
            }
        }
        self.harmless(&text.replace("\r\n", "\n"))
    }

    fn harmless(&mut self, text: &str) -> String {
        if !self.colours {
            return clean_lines(text);
        }
        let mut pieces = text.split('\u{1b}');
        let mut out = clean_lines(pieces.next().unwrap_or_default());
        let mut pieces = pieces.peekable();
        while let Some(piece) = pieces.next() {
            match colour_len(piece) {
                Some(length) => {
                    self.coloured = true;
                    out.push('\u{1b}');
                    out.push_str(&piece[..length]);
                    out.push_str(&clean_lines(&piece[length..]));
                }
                // Cut in two, perhaps: the next piece tells.
                None if pieces.peek().is_none() && may_become_colour(piece) && self.pending.is_empty() => {
                    self.pending = format!("\u{1b}{piece}").into_bytes();
                }
                None => out.push_str(&clean_lines(&format!("\u{1b}{piece}"))),
            }
        }
        out
    }

    /// What is left at the end of the stream.
    pub(crate) fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.pending);
        let mut out = clean_lines(&String::from_utf8_lossy(&rest));
        // What a build leaves switched on is its own.
        if std::mem::take(&mut self.coloured) {
            out.push_str("\u{1b}[0m");
        }
        out
    }
}

/// Length of what follows ESC when it sets a colour.
fn colour_len(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('[')?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    (rest[end..].starts_with('m') && end < COLOUR_MAX_LEN).then_some(end + 2)
}

fn may_become_colour(text: &str) -> bool {
    let rest = text.strip_prefix('[').unwrap_or(text);
    text.len() < COLOUR_MAX_LEN
        && (text.is_empty() || text.starts_with('['))
        && rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b';')
}

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
pub(crate) struct Column {
    pub(crate) head: &'static str,
    pub(crate) max: usize,
    pub(crate) right: bool,
}

/// A column whose text stands left.
pub(crate) const fn left(head: &'static str, max: usize) -> Column {
    Column { head, max, right: false }
}

/// A column whose text stands right.
pub(crate) const fn right(head: &'static str, max: usize) -> Column {
    Column { head, max, right: true }
}

/// An aligned table with two spaces between columns and no trailing white space.
pub(crate) fn table(columns: &[Column], rows: &[Vec<Cell>], paint: Paint) -> String {
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
        for ((cell, column), &width) in row.iter().zip(columns).zip(&widths) {
            let text = cut(&cell.text, width);
            let gap = " ".repeat(width.saturating_sub(text.chars().count()));
            let shown = cell.colour.map_or_else(|| text.clone(), |colour| paint.paint(colour, &text));
            if !line.is_empty() || column.head != columns[0].head {
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
    fn foreign_text_cannot_move_the_cursor_turn_around_or_hide() {
        assert_eq!(clean("build1"), "build1");
        assert_eq!(clean("a\u{1b}[31mb\u{9b}c\u{7f}"), "a\\u{1b}[31mb\\u{9b}c\\u{7f}");
        assert_eq!(clean("x\u{202e}gpj.exe\u{200b}\u{2066}"), "x\\u{202e}gpj.exe\\u{200b}\\u{2066}");
        assert_eq!(clean("one\ntwo\tthree"), "one two three");
        assert_eq!(clean_lines("one\n\ttwo\u{7}\n"), "one\n\ttwo\\u{7}\n");
        assert_eq!(clean("Grüße 蜂"), "Grüße 蜂");
    }

    #[test]
    fn streams_are_cleaned_across_pieces() {
        let mut cleaner = StreamCleaner::default();
        let text = "grün \u{1b}[2J\r\nende".as_bytes();
        let mut out = String::new();
        for byte in text {
            out.push_str(&cleaner.push(&[*byte]));
        }
        out.push_str(&cleaner.finish());
        assert!(out.starts_with("grün \\u{1b}[2J") && out.ends_with("\nende"), "{out:?}");
        assert_eq!(cleaner.push(&[0xff, b'a']), "\u{fffd}a");
        assert_eq!(cleaner.push(&[0xc3]), "");
        assert_eq!(cleaner.finish(), "\u{fffd}");
    }

    #[test]
    fn colours_stay_where_they_are_wanted_and_end_with_the_stream() {
        let text = "a\u{1b}[1;31mred\u{1b}[m \u{1b}[2J\u{1b}]0;title\u{7} \u{1b}[";
        let whole = StreamCleaner::new(true).push(text.as_bytes());
        let mut cleaner = StreamCleaner::new(true);
        let mut out: String = text.bytes().map(|byte| cleaner.push(&[byte])).collect();
        assert_eq!(out, whole);
        out.push_str(&cleaner.finish());
        assert_eq!(out, "a\u{1b}[1;31mred\u{1b}[m \\u{1b}[2J\\u{1b}]0;title\\u{7} \\u{1b}[\u{1b}[0m");
        let mut plain = StreamCleaner::new(false);
        assert_eq!(plain.push(b"\x1b[31mred") + &plain.finish(), "\\u{1b}[31mred");
        let long = format!("\u{1b}[{}m", "1".repeat(100));
        assert!(StreamCleaner::new(true).push(long.as_bytes()).starts_with("\\u{1b}"), "no colour is that long");
    }

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
