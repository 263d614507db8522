//! Which characters of a foreign text may be shown, and what is left of it without the others.
//!
//! Output of builds and names of other machines are kept as they are and pass through here when they are shown or searched: a terminal
//! obeys escape sequences, and bidirectional controls make a name read like another. Never done here: changing what is stored.

/// Whether a character is obeyed rather than shown: controls, and what changes direction or hides.
pub fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The characters of a text that may be shown: terminal sequences, control characters other than line feed and tab, and characters
/// that change direction or hide are left out.
#[derive(Clone, Debug)]
pub struct Plain<'a> {
    rest: std::str::Chars<'a>,
}

/// See [`Plain`].
pub fn plain(text: &str) -> Plain<'_> {
    Plain { rest: text.chars() }
}

/// One line, of at most so many characters; the last is `…` when something is missing.
pub fn line(text: &str, max_chars: usize) -> String {
    let mut out = String::new();
    for (number, character) in plain(text).map(|c| if c == '\n' || c == '\t' { ' ' } else { c }).enumerate() {
        if number == max_chars {
            out.pop();
            out.push('…');
            break;
        }
        out.push(character);
    }
    out
}

impl Plain<'_> {
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
                hostile if is_hostile(hostile) => {}
                shown => return Some(shown),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            ("user\u{202e}gpj.exe\u{2066}\u{200b}\u{feff}", "usergpj.exe"),
            ("日本語 äöü 🐝", "日本語 äöü 🐝"),
        ];
        for (text, expected) in cases {
            assert_eq!(plain(text).collect::<String>(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_line_is_one_line_and_no_longer_than_asked() {
        assert_eq!(line("a\tb\nc", 10), "a b c");
        assert_eq!(line("abcdef", 6), "abcdef");
        assert_eq!(line("abcdefg", 6), "abcde…");
        assert_eq!(line("\u{1b}[31m123456\u{1b}[0m", 6), "123456", "what is not shown does not count");
    }

    proptest! {
        #[test]
        fn nothing_hostile_comes_out(text in "(\\PC|[\u{0}-\u{ff}]|\u{1b}\\[|\u{1b}\\]|\u{202e}){0,60}") {
            prop_assert!(plain(&text).all(|c| c == '\n' || c == '\t' || !is_hostile(c)));
            prop_assert!(!line(&text, 20).chars().any(is_hostile));
            prop_assert!(line(&text, 20).chars().count() <= 20);
        }
    }
}
