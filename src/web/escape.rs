//! Makes any text safe to show: no markup, no terminal escapes, no direction tricks.
//!
//! Names, log lines and reasons come from builds and from other machines. They are kept as they are and neutralised here, where they
//! are shown. Never done here: changing what is stored.

use std::fmt::{self, Write as _};

/// Shows text inside an HTML element or a double-quoted attribute value.
pub struct Text<'a>(pub &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in Plain::new(self.0) {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// The characters of a text that may be shown: terminal sequences, control characters other than line feed and tab, and characters
/// that change direction or hide are left out.
struct Plain<'a> {
    rest: std::str::Chars<'a>,
}

impl<'a> Plain<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text.chars() }
    }

    /// Parameters of a control sequence, up to its final character. One that does not belong into a sequence stays.
    fn skip_control_sequence(&mut self) {
        loop {
            let before = self.rest.clone();
            match self.rest.next() {
                Some(' '..='?') => {}
                Some('@'..='~') | None => return,
                Some(_) => {
                    self.rest = before;
                    return;
                }
            }
        }
    }

    /// A string (title, link, device control) up to BEL or ST. Unterminated, it ends with its line.
    fn skip_control_string(&mut self) {
        loop {
            let before = self.rest.clone();
            match self.rest.next() {
                Some('\n') => {
                    self.rest = before;
                    return;
                }
                Some('\u{1b}') => {
                    let mut ahead = self.rest.clone();
                    if ahead.next() == Some('\\') {
                        self.rest = ahead;
                    } else {
                        self.rest = before;
                    }
                    return;
                }
                Some('\u{7}' | '\u{9c}') | None => return,
                Some(_) => {}
            }
        }
    }

    fn skip_escape(&mut self) {
        let before = self.rest.clone();
        match self.rest.next() {
            Some('[') => self.skip_control_sequence(),
            Some(']' | 'P' | 'X' | '^' | '_') => self.skip_control_string(),
            // Intermediates (as in the choice of a character set) and one final character.
            Some(' '..='/') => {
                let _ = self.rest.next();
            }
            Some('0'..='~') | None => {}
            Some(_) => self.rest = before,
        }
    }
}

impl Iterator for Plain<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        loop {
            match self.rest.next()? {
                '\u{1b}' => self.skip_escape(),
                '\u{9b}' => self.skip_control_sequence(),
                '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => self.skip_control_string(),
                kept @ ('\n' | '\t') => return Some(kept),
                c if c.is_control() || changes_direction_or_hides(c) => {}
                c => return Some(c),
            }
        }
    }
}

fn changes_direction_or_hides(c: char) -> bool {
    matches!(
        c,
        '\u{61c}'
            | '\u{ad}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        Text(text).to_string()
    }

    #[test]
    fn markup_becomes_text() {
        assert_eq!(
            shown("<script src='x' a=\"b\">&amp;</script>"),
            "&lt;script src=&#39;x&#39; a=&quot;b&quot;&gt;&amp;amp;&lt;/script&gt;"
        );
    }

    #[test]
    fn terminal_sequences_vanish_and_their_text_stays() {
        let cases = [
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}[38;5;196mx", "x"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;http://evil\u{1b}\\link\u{1b}]8;;\u{1b}\\!", "link!"),
            ("\u{9b}2Jcleared", "cleared"),
            ("\u{1b}(Bplain", "plain"),
            ("\u{1b}c reset", " reset"),
            ("\u{1b}]0;never ended\nnext line", "\nnext line"),
            ("cut \u{1b}", "cut "),
            ("cut \u{1b}[", "cut "),
            ("a\u{1b}[3\nb", "a\nb"),
            ("tab\tand\r\nline\u{8}\u{0}", "tab\tand\nline"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }

    #[test]
    fn direction_and_invisible_characters_vanish() {
        assert_eq!(shown("user\u{202e}gpj.exe\u{2066}\u{200b}\u{feff}"), "usergpj.exe");
        assert_eq!(shown("日本語 äöü 🐝"), "日本語 äöü 🐝");
    }

    proptest! {
        #[test]
        fn whatever_comes_in_nothing_active_comes_out(text in "(\\PC|[\u{0}-\u{ff}]|<|\u{1b}\\[|\u{1b}\\]|\u{202e}){0,60}") {
            let out = shown(&text);
            prop_assert!(!out.contains(['<', '>', '"', '\'']));
            prop_assert!(out.chars().all(|c| c == '\n' || c == '\t' || !(c.is_control() || changes_direction_or_hides(c))));
        }
    }
}
