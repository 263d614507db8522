//! Reads a tar archive entry by entry, in one pass and constant memory.
//!
//! Of the `tar` crate only the header is used: its iterator keeps long names of any length in memory, and skips what stands in
//! the padding. Here a long name has a cap, padding and everything after the end have to be zeros, so that no byte of an
//! archive goes unread. Known kinds: ustar, GNU long names, and of pax only `path` and `linkpath` of one entry. Never done here:
//! sparse files, multiple volumes, writing.

use std::io::{self, Read};

use super::{FormatError, shown};

/// Unit of every tar archive.
const BLOCK: usize = 512;
/// Longest name or target of a link, bytes: what Linux takes as a path.
const NAME_MAX_BYTES: u64 = 4_096;
/// Longest extended header of one entry, bytes.
const PAX_MAX_BYTES: u64 = 64 << 10;
/// What follows the end of an archive is read in steps of this, bytes.
const STEP: usize = 16 << 10;

/// A name that an extended header may give.
type Name = Option<Vec<u8>>;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    /// Of this type flag.
    Other(u8),
}

/// One entry; its content is read from the [`Walker`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) link: Vec<u8>,
    pub(super) size: u64,
}

/// Walks an archive. Reading from it reads the content of the entry that [`Walker::entry`] answered last.
pub(super) struct Walker<R> {
    reader: R,
    /// Bytes read so far.
    position: u64,
    left: u64,
    padding: usize,
}

impl<R: Read> Read for Walker<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let length = self.reader.read(&mut buffer[..most])?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= length as u64;
        self.position += length as u64;
        Ok(length)
    }
}

impl<R: Read> Walker<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, position: 0, left: 0, padding: 0 }
    }

    /// Where the content of the last entry begins, as long as nothing of it was read.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next entry, or none at the end of the archive, which is then read to the end of its bytes.
    pub(super) fn entry(&mut self) -> Result<Option<Entry>, FormatError> {
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(header) = self.header()? else {
                return if long_name.is_none() && long_link.is_none() {
                    Ok(None)
                } else {
                    Err(FormatError::damaged("a long name without its entry"))
                };
            };
            let flag = header.entry_type().as_byte();
            match flag {
                b'L' => long_name = Some(self.long_text()?),
                b'K' => long_link = Some(self.long_text()?),
                b'x' => {
                    let (name, link) = self.pax()?;
                    long_name = name.or(long_name);
                    long_link = link.or(long_link);
                }
                _ => return Ok(Some(self.finished(&header, long_name, long_link)?)),
            }
        }
    }

    fn finished(
        &mut self,
        header: &tar::Header,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, FormatError> {
        let kind = match header.entry_type().as_byte() {
            b'0' | 0 => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            flag => Kind::Other(flag),
        };
        let name = long_name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = long_link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        let size = self.left;
        if kind != Kind::File && size != 0 && !matches!(kind, Kind::Other(_)) {
            return Err(FormatError::damaged(format!("{} is no file and has content", shown(&name))));
        }
        Ok(Entry { name, kind, link, size })
    }

    /// The next header, its content not yet read. None at the end.
    fn header(&mut self) -> Result<Option<tar::Header>, FormatError> {
        self.skip_rest()?;
        let mut header = tar::Header::new_old();
        self.exactly(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            self.only_zeros_follow()?;
            return Ok(None);
        }
        check_sum(&header)?;
        let size = header.entry_size().map_err(|_| FormatError::damaged("a size that is no number"))?;
        self.left = size;
        self.padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        Ok(Some(header))
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Result<(), FormatError> {
        self.reader.read_exact(buffer)?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), FormatError> {
        io::copy(self, &mut io::sink())?;
        let mut padding = [0u8; BLOCK];
        let length = std::mem::take(&mut self.padding);
        self.exactly(&mut padding[..length])?;
        if padding.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        Err(FormatError::damaged("something is hidden between two entries"))
    }

    fn only_zeros_follow(&mut self) -> Result<(), FormatError> {
        let mut buffer = [0u8; STEP];
        let mut total = 0u64;
        loop {
            let length = self.reader.read(&mut buffer)?;
            if length == 0 {
                // The end is two empty blocks, of which the first was read; writers fill up with more.
                let whole = total >= BLOCK as u64 && total.is_multiple_of(BLOCK as u64);
                return if whole { Ok(()) } else { Err(FormatError::damaged("its end is cut off")) };
            }
            total += length as u64;
            if buffer[..length].iter().any(|&byte| byte != 0) {
                return Err(FormatError::damaged("something follows the end of the archive"));
            }
        }
    }

    fn content(&mut self, max_bytes: u64) -> Result<Vec<u8>, FormatError> {
        if self.left > max_bytes {
            return Err(FormatError::refused(format!("a header of {} bytes; at most {max_bytes} are read", self.left)));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn long_text(&mut self) -> Result<Vec<u8>, FormatError> {
        let mut bytes = self.content(NAME_MAX_BYTES + 1)?;
        if bytes.pop() == Some(0) && !bytes.contains(&0) {
            return Ok(bytes);
        }
        Err(FormatError::damaged("a long name that is not closed"))
    }

    /// `path` and `linkpath`. What would change the size or meaning of the entry is refused, because readers disagree about it.
    fn pax(&mut self) -> Result<(Name, Name), FormatError> {
        let bytes = self.content(PAX_MAX_BYTES)?;
        let (mut name, mut link) = (None, None);
        for record in tar::PaxExtensions::new(&bytes) {
            let record = record?;
            match record.key_bytes() {
                b"path" => name = Some(record.value_bytes().to_vec()),
                b"linkpath" => link = Some(record.value_bytes().to_vec()),
                key if key == b"size" || key.starts_with(b"GNU.sparse") => {
                    return Err(FormatError::refused(format!("an extended header with {}", shown(key))));
                }
                _ => {}
            }
        }
        let too_long = |text: &Name| text.as_ref().is_some_and(|text| text.len() as u64 > NAME_MAX_BYTES);
        if too_long(&name) || too_long(&link) {
            return Err(FormatError::refused(format!("a name longer than {NAME_MAX_BYTES} bytes")));
        }
        Ok((name, link))
    }
}

/// The sum of a header's bytes, and that the field is written as every writer of packages does, so that no bit of it is free.
fn check_sum(header: &tar::Header) -> Result<(), FormatError> {
    let bytes = header.as_bytes();
    let fields = bytes[..148].iter().chain(&bytes[156..]);
    let sum = fields.map(|&byte| u32::from(byte)).sum::<u32>() + 8 * u32::from(b' ');
    let field = &bytes[148..156];
    if field == format!("{sum:06o}\0 ").as_bytes() || field == format!("{sum:07o}\0").as_bytes() {
        return Ok(());
    }
    Err(FormatError::damaged("an entry with a wrong checksum"))
}
