//! Makes any text safe to show: no markup, no terminal escapes, no direction tricks.
//!
//! Names, log lines and reasons come from builds and from other machines. They are kept as they are and neutralised here, where they
//! are shown. Never done here: changing what is stored.

use std::fmt::{self, Write as _};

use crate::engine::harmless;

/// Shows text inside an HTML element or a double-quoted attribute value.
pub struct Text<'a>(pub &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in harmless::plain(self.0) {
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

    proptest! {
        #[test]
        fn whatever_comes_in_nothing_active_comes_out(text in "(\\PC|[\u{0}-\u{ff}]|<|\u{1b}\\[|\u{1b}\\]|\u{202e}){0,60}") {
            let out = shown(&text);
            prop_assert!(!out.contains(['<', '>', '"', '\'']));
            prop_assert!(out.chars().all(|c| c == '\n' || c == '\t' || !harmless::is_hostile(c)));
        }
    }
}
