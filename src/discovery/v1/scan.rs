//! Finds where the values of a JSON object lie in its text, without building anything.
//!
//! A v1 signature covers the payload's bytes as they were sent, so the payload must be cut out of the datagram as it is; any
//! parser that goes through values loses that. The scanner is strict (RFC 8259), refuses duplicate keys and stops at
//! [`DEPTH_MAX`], so what is parsed afterwards is known to be shallow.

use std::ops::Range;

/// Deepest nesting of arrays and objects: a v1 heartbeat needs three.
const DEPTH_MAX: usize = 16;
/// Most keys of the outermost object: a v1 envelope has three.
const KEYS_MAX: usize = 8;

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The keys of the object that fills `bytes`, and where their values lie. None when it is not exactly one JSON object.
pub(super) fn object(bytes: &[u8]) -> Option<Vec<(&[u8], Range<usize>)>> {
    let mut scanner = Scanner { bytes, at: 0 };
    let mut fields: Vec<(&[u8], Range<usize>)> = Vec::new();
    scanner.white_space();
    scanner.expect(b'{')?;
    scanner.white_space();
    if scanner.peek() == Some(b'}') {
        scanner.at += 1;
    } else {
        loop {
            scanner.white_space();
            let key = scanner.string()?;
            let key = bytes.get(key.start + 1..key.end - 1)?;
            if fields.len() >= KEYS_MAX || fields.iter().any(|(known, _)| *known == key) {
                return None;
            }
            scanner.white_space();
            scanner.expect(b':')?;
            scanner.white_space();
            let start = scanner.at;
            scanner.value(1)?;
            fields.push((key, start..scanner.at));
            scanner.white_space();
            match scanner.next()? {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
    }
    scanner.white_space();
    (scanner.at == bytes.len()).then_some(fields)
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn literal(&mut self, text: &[u8]) -> Option<()> {
        let end = self.at + text.len();
        (self.bytes.get(self.at..end)? == text).then_some(())?;
        self.at = end;
        Some(())
    }

    /// A string with its quotes.
    fn string(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        self.expect(b'"')?;
        loop {
            match self.next()? {
                b'"' => return Some(start..self.at),
                b'\\' => match self.next()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        for _ in 0..4 {
                            self.next()?.is_ascii_hexdigit().then_some(())?;
                        }
                    }
                    _ => return None,
                },
                0..0x20 => return None,
                _ => {}
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        // The exact grammar of numbers is left to the parser that reads the payload afterwards.
        (self.at > start).then_some(())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(|_| ()),
            b'{' => self.container(b'}', depth),
            b'[' => self.container(b']', depth),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => self.number(),
        }
    }

    fn container(&mut self, close: u8, depth: usize) -> Option<()> {
        if depth >= DEPTH_MAX {
            return None;
        }
        self.at += 1;
        self.white_space();
        if self.peek()? == close {
            self.at += 1;
            return Some(());
        }
        loop {
            self.white_space();
            if close == b'}' {
                self.string()?;
                self.white_space();
                self.expect(b':')?;
                self.white_space();
            }
            self.value(depth + 1)?;
            self.white_space();
            match self.next()? {
                b',' => {}
                byte if byte == close => return Some(()),
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_cut_out_as_they_are() {
        let text = br#" { "a" : [1, {"b":"}\"]"}] ,"c":null, "d":{"e":-1.5e3} } "#;
        let fields = object(text).expect("an object");
        let cut: Vec<(&str, &str)> = fields
            .iter()
            .map(|(key, range)| {
                (std::str::from_utf8(key).expect("text"), std::str::from_utf8(&text[range.clone()]).expect("text"))
            })
            .collect();
        assert_eq!(cut, [("a", r#"[1, {"b":"}\"]"}]"#), ("c", "null"), ("d", r#"{"e":-1.5e3}"#)]);
        assert_eq!(object(b"{}").map(|fields| fields.len()), Some(0));
    }

    #[test]
    fn what_is_not_one_shallow_object_is_refused() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
        let deep_enough = format!("{{\"a\":{}{}}}", "[".repeat(DEPTH_MAX - 1), "]".repeat(DEPTH_MAX - 1));
        assert!(object(deep_enough.as_bytes()).is_some());
        let bombs = [deep, "[".repeat(8_000), "{\"a\":".repeat(1_600)];
        let others = [
            "",
            "[]",
            "1",
            "{",
            "{}x",
            "{\"a\":1,}",
            "{\"a\":1,\"a\":1}",
            "{\"a\" 1}",
            "{a:1}",
            "{\"a\":tru}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12g4\"}",
            "{\"a\":\"\n\"}",
            "{\"a\":}",
            "{\"a\":[1,]}",
            "{} {}",
        ];
        for text in bombs.iter().map(String::as_str).chain(others) {
            assert_eq!(object(text.as_bytes()), None, "{text:.40}");
        }
    }

    proptest! {
        #[test]
        fn it_accepts_what_the_parser_accepts(text in "[\\{\\}\\[\\]\",:a1 nul]{0,24}") {
            let parsed = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).is_ok();
            let scanned = object(text.as_bytes()).is_some();
            // Duplicate keys, and numbers' grammar, are where the two differ on purpose.
            prop_assert!(scanned || !parsed || text.matches('"').count() > 2, "{}", text);
        }
    }
}
