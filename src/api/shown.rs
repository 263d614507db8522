//! Foreign text as it is shown: on terminals, and to whoever reads a log over HTTP.
//!
//! What would be obeyed becomes visible as `\u{…}`, so that nothing of it is lost; on pages, where looks count more, it is left out instead
//! (`engine::harmless`). Output of builds comes as a stream and is made harmless piece by piece, in bounded memory, and its lines are cut.
//! Nothing is written here.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::engine::harmless::is_hostile;

/// Makes control, bidirectional and invisible characters visible as `\u{…}`; tabs and line ends become spaces.
pub fn clean(text: &str) -> Cow<'_, str> {
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
pub fn clean_lines(text: &str) -> String {
    let keep = |part: &str| clean(part).into_owned();
    text.split('\n')
        .map(|line| line.split('\t').map(keep).collect::<Vec<_>>().join("\t"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// JSON that means the same and holds nothing that a terminal obeys: what JSON itself does not escape stands in strings only, and
/// becomes `\uXXXX` there.
pub fn json(text: &str) -> Cow<'_, str> {
    let printable = |byte: &u8| (b' '..=b'~').contains(byte);
    if text.as_bytes().iter().all(printable) || !text.chars().any(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        // A line end is white space between values; within a string it is escaped already.
        if is_hostile(character) && character != '\n' {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// Longest sequence that is understood, bytes.
const SEQUENCE_MAX_LEN: usize = 32;
/// So much of a line is shown, characters. Compilers' command lines are shorter; what is longer floods whoever looks at it.
pub const LINE_SHOWN_MAX: usize = 8_192;

/// Makes a stream of bytes harmless, piece by piece; a character that is cut in two is completed by the next piece.
#[derive(Default)]
pub struct StreamCleaner {
    pending: Vec<u8>,
    /// Sequences that set colours are passed on: they move no cursor and hide nothing that was shown before. Else they are left out.
    colours: bool,
    coloured: bool,
    /// Characters of the line so far, and how many of them were not shown.
    column: usize,
    hidden: usize,
}

impl StreamCleaner {
    /// One that keeps colours, or leaves them out.
    pub fn new(colours: bool) -> Self {
        Self { colours, ..Self::default() }
    }

    /// The text of everything that is complete. A carriage return before a line end is dropped.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let text = take_whole(&mut self.pending);
        self.harmless(&text.replace("\r\n", "\n"))
    }

    fn harmless(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut pieces = text.split('\u{1b}');
        self.put(&mut out, pieces.next().unwrap_or_default());
        let mut pieces = pieces.peekable();
        while let Some(piece) = pieces.next() {
            match known_sequence(piece) {
                Some((length, colour)) => {
                    if colour && self.colours && self.hidden == 0 {
                        self.coloured = true;
                        out.push('\u{1b}');
                        out.push_str(&piece[..length]);
                    }
                    self.put(&mut out, &piece[length..]);
                }
                // Cut in two, perhaps: the next piece tells.
                None if pieces.peek().is_none() && may_become_known(piece) && self.pending.is_empty() => {
                    self.pending = format!("\u{1b}{piece}").into_bytes();
                }
                None => self.put(&mut out, &format!("\u{1b}{piece}")),
            }
        }
        out
    }

    /// Appends text that has no sequences left, made visible, each line up to what is shown of it.
    fn put(&mut self, out: &mut String, text: &str) {
        for (number, line) in text.split('\n').enumerate() {
            if number > 0 {
                self.end_line(out);
                out.push('\n');
            }
            let shown = line.split('\t').map(clean).collect::<Vec<_>>().join("\t");
            let room = LINE_SHOWN_MAX - self.column;
            match shown.char_indices().nth(room) {
                None => {
                    self.column += shown.chars().count();
                    out.push_str(&shown);
                }
                Some((end, _)) => {
                    self.column = LINE_SHOWN_MAX;
                    self.hidden += shown[end..].chars().count();
                    out.push_str(&shown[..end]);
                }
            }
        }
    }

    fn end_line(&mut self, out: &mut String) {
        if self.hidden > 0 {
            let reset = if self.coloured { "\u{1b}[0m" } else { "" };
            let _ = write!(out, "{reset}… ({} more characters)", self.hidden);
        }
        (self.column, self.hidden) = (0, 0);
    }

    /// What is left at the end of the stream.
    pub fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.pending);
        let mut out = String::new();
        self.put(&mut out, &String::from_utf8_lossy(&rest));
        self.end_line(&mut out);
        // What a build leaves switched on is its own.
        if std::mem::take(&mut self.coloured) {
            out.push_str("\u{1b}[0m");
        }
        out
    }
}

/// Length of what follows ESC when it sets a colour (true), or does nothing here that is missed: erasing the rest of a line, which
/// compilers do after every colour, and choosing ASCII.
fn known_sequence(text: &str) -> Option<(usize, bool)> {
    if text.starts_with("(B") {
        return Some((2, false));
    }
    let rest = text.strip_prefix('[')?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    let colour = rest[end..].starts_with('m');
    ((colour || rest[end..].starts_with('K')) && end < SEQUENCE_MAX_LEN).then_some((end + 2, colour))
}

fn may_become_known(text: &str) -> bool {
    let rest = text.strip_prefix('[').unwrap_or(text);
    text.len() < SEQUENCE_MAX_LEN
        && (text.is_empty() || text == "(" || text.starts_with('['))
        && rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b';' || byte == b'(')
}

/// Takes what of a stream is whole characters; the beginning of one whose rest has not come stays. What is no UTF-8 is replaced.
pub fn take_whole(tail: &mut Vec<u8>) -> String {
    let mut text = String::new();
    loop {
        match std::str::from_utf8(tail) {
            Ok(whole) => {
                text.push_str(whole);
                tail.clear();
                return text;
            }
            Err(error) => {
                let valid = error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&tail[..valid]));
                let Some(bad) = error.error_len() else {
                    tail.drain(..valid);
                    return text;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                tail.drain(..valid + bad);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert_eq!(plain.push(b"\x1b[31mr\x1b[K\x1b(Bed\x1b[") + &plain.push(b"0m!") + &plain.finish(), "red!");
        let long = format!("\u{1b}[{}m", "1".repeat(100));
        assert!(StreamCleaner::new(true).push(long.as_bytes()).starts_with("\\u{1b}"), "no colour is that long");
    }

    #[test]
    fn json_means_the_same_and_holds_nothing_that_is_obeyed() {
        assert!(matches!(json("{\"a\":\"Grüße 蜂\"}"), Cow::Borrowed(_)));
        let value = serde_json::json!({ "a\u{202e}": "x\u{9b}2J\u{7f}\u{1b}\n\u{e0041}\u{200b}", "b": [1, "蜂"] });
        let text = serde_json::to_string(&value).expect("JSON");
        let shown = json(&text);
        assert!(!shown.chars().any(is_hostile), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), value);
    }

    #[test]
    fn a_line_without_end_is_shown_up_to_a_point_and_then_counted() {
        let mut cleaner = StreamCleaner::new(true);
        let mut out = cleaner.push(b"\x1b[31m");
        let (piece, mut longest) = (vec![b'x'; 1 << 20], 0);
        for _ in 0..64 {
            let shown = cleaner.push(&piece);
            longest = longest.max(shown.len() + cleaner.pending.capacity());
            out.push_str(&shown);
        }
        out.push_str(&cleaner.push(b"\x1b[32mlast\nthen\n"));
        let expected_end = format!("x\u{1b}[0m… ({} more characters)\nthen\n", (64 << 20) + 4 - LINE_SHOWN_MAX);
        assert!(out.ends_with(&expected_end), "{}", &out[out.len() - 80..]);
        assert_eq!(out.matches('x').count(), LINE_SHOWN_MAX);
        assert!(longest <= 2 << 20, "{longest} bytes are held of a line without end");
        let mut cut = StreamCleaner::new(false);
        let end = cut.push(&vec![b'y'; LINE_SHOWN_MAX + 1]) + &cut.finish();
        assert!(end.ends_with("y… (1 more characters)"));
    }

    proptest! {
        #[test]
        fn whatever_comes_in_pieces_nothing_but_colours_is_obeyed(
            text in "(\\PC|[\u{0}-\u{ff}]|\u{1b}\\[[0-9]{0,2}[mKJ]?|\u{1b}\\]|\u{202e}|\r\n){0,60}",
            cut in 1usize..9,
        ) {
            for colours in [false, true] {
                let mut cleaner = StreamCleaner::new(colours);
                let mut out: String = text.as_bytes().chunks(cut).map(|piece| cleaner.push(piece)).collect();
                out.push_str(&cleaner.finish());
                for (number, part) in out.split('\u{1b}').enumerate() {
                    let visible = if number == 0 { part } else {
                        let (length, colour) = known_sequence(part).expect("only what is known");
                        prop_assert!(colours && colour);
                        &part[length..]
                    };
                    prop_assert!(!visible.chars().any(|c| is_hostile(c) && c != '\n' && c != '\t'), "{visible:?}");
                }
            }
        }
    }

    #[test]
    fn characters_of_a_stream_are_not_torn() {
        let mut tail = "a☃".as_bytes()[..3].to_vec();
        assert_eq!((take_whole(&mut tail).as_str(), tail.len()), ("a", 2));
        tail.extend_from_slice(&"☃".as_bytes()[2..]);
        tail.extend_from_slice(b"\xff\x1b");
        assert_eq!((take_whole(&mut tail).as_str(), tail.len()), ("☃\u{fffd}\u{1b}", 0));
    }
}
