//! Bytes into lines, with bounded memory.

/// A line, or a part of one that is longer than what is kept at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Number of the line, from 1.
    pub line: u64,
    /// Where the line begins.
    pub line_offset: u64,
    /// Where this piece begins.
    pub offset: u64,
    /// Without its line end.
    pub bytes: &'a [u8],
}

impl Piece<'_> {
    /// It begins its line.
    pub fn is_first(&self) -> bool {
        self.offset == self.line_offset
    }
}

/// Cuts a stream into lines. A line longer than `piece_max` is handed out in pieces, each beginning with the last `overlap` bytes of
/// the one before, so that what lies across a cut is seen whole once.
#[derive(Clone, Debug)]
pub struct Lines {
    piece_max: usize,
    overlap: usize,
    line: u64,
    line_offset: u64,
    /// Where `kept` begins.
    offset: u64,
    kept: Vec<u8>,
    /// How much of `kept` was handed out already.
    seen: usize,
}

impl Lines {
    /// From line `line`, which begins at `offset`.
    pub fn new(piece_max: usize, overlap: usize, line: u64, offset: u64) -> Self {
        let piece_max = piece_max.max(1);
        Self {
            piece_max,
            overlap: overlap.min(piece_max / 2),
            line,
            line_offset: offset,
            offset,
            kept: Vec::new(),
            seen: 0,
        }
    }

    /// Number and offset of the line that is not complete yet.
    pub fn open_line(&self) -> (u64, u64) {
        (self.line, self.line_offset)
    }

    /// Takes the next bytes. `each` says whether it wants more; false ends at once, and the rest of `bytes` is lost.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Piece<'_>) -> bool) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.piece_max - self.kept.len();
            let window = rest.get(..room).unwrap_or(rest);
            if let Some(end) = window.iter().position(|&byte| byte == b'\n') {
                self.kept.extend_from_slice(&window[..end]);
                rest = &rest[end + 1..];
                if !self.end_line(&mut each, 1) {
                    return false;
                }
                continue;
            }
            self.kept.extend_from_slice(window);
            rest = &rest[window.len()..];
            if self.kept.len() == self.piece_max {
                let more = each(self.piece());
                let dropped = self.kept.len() - self.overlap;
                self.kept.drain(..dropped);
                self.offset += dropped as u64;
                self.seen = self.kept.len();
                if !more {
                    return false;
                }
            }
        }
        true
    }

    /// The stream has ended; what has no line end is a line too.
    pub fn finish(&mut self, mut each: impl FnMut(Piece<'_>) -> bool) -> bool {
        self.kept.is_empty() || self.end_line(&mut each, 0)
    }

    fn piece(&self) -> Piece<'_> {
        let bytes = self.kept.strip_suffix(b"\r").unwrap_or(&self.kept);
        Piece { line: self.line, line_offset: self.line_offset, offset: self.offset, bytes }
    }

    fn end_line(&mut self, each: &mut impl FnMut(Piece<'_>) -> bool, line_end: u64) -> bool {
        // What was handed out with the piece before is not a piece of its own.
        let more = self.seen > 0 && self.kept.len() == self.seen || each(self.piece());
        self.offset += self.kept.len() as u64 + line_end;
        self.line_offset = self.offset;
        self.line += 1;
        self.kept.clear();
        self.seen = 0;
        more
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &[u8], chunk: usize, piece_max: usize, overlap: usize) -> Vec<(u64, u64, u64, Vec<u8>)> {
        let mut lines = Lines::new(piece_max, overlap, 1, 0);
        let mut found = Vec::new();
        let mut each = |piece: Piece<'_>| {
            found.push((piece.line, piece.line_offset, piece.offset, piece.bytes.to_vec()));
            true
        };
        for bytes in text.chunks(chunk) {
            lines.push(bytes, &mut each);
        }
        lines.finish(&mut each);
        found
    }

    #[test]
    fn long_lines_come_in_pieces_that_overlap() {
        let found = cut(b"ab\r\n\n0123456789\nend", 100, 6, 2);
        let expected: Vec<(u64, u64, u64, &[u8])> =
            vec![(1, 0, 0, b"ab"), (2, 4, 4, b""), (3, 5, 5, b"012345"), (3, 5, 9, b"456789"), (4, 16, 16, b"end")];
        assert_eq!(found, expected.into_iter().map(|(a, b, c, d)| (a, b, c, d.to_vec())).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter_and_lines_are_those_of_split(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), Just(b'b')], 0..80),
            chunk in 1usize..10,
        ) {
            let found = cut(&text, chunk, 1_000, 10);
            let mut expected: Vec<Vec<u8>> = text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
            if expected.last().is_some_and(Vec::is_empty) {
                expected.pop();
            }
            prop_assert_eq!(found.iter().map(|piece| piece.3.clone()).collect::<Vec<_>>(), expected);
            for (line, line_offset, offset, bytes) in found {
                let before = &text[..usize::try_from(line_offset).expect("small")];
                prop_assert_eq!(before.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1, line);
                prop_assert_eq!(offset, line_offset);
                prop_assert!(text[before.len()..].starts_with(&bytes));
            }
        }

        #[test]
        fn every_short_word_is_in_a_piece_whole(at in 0usize..200, chunk in 1usize..50, piece in 8usize..40) {
            let mut text = vec![b'.'; 210];
            text[at..at + 4].copy_from_slice(b"word");
            let found = cut(&text, chunk, piece, 4);
            prop_assert!(found.iter().any(|piece| piece.3.windows(4).any(|window| window == b"word")));
            prop_assert!(found.iter().all(|one| one.3.len() <= piece && one.0 == 1));
        }
    }
}
