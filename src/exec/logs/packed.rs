//! Logs that have ended: zstd frames of 256 KiB each, read from any offset without what stands before it.
//!
//! A file is an ordinary sequence of zstd frames (`zstdcat` reads it), followed by a skippable frame that lists their sizes, as zstd's
//! seekable format has it. It gets its name when it is complete and on disk. When the list is torn or wrong, the frames are walked
//! instead, up to the first that is not whole. Never done here: deciding what is packed.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use zstd::zstd_safe;

/// Raw bytes of a frame: what has to be unpacked to read one byte.
pub(super) const FRAME_BYTES: usize = 256 << 10;
/// More in one frame was not written here.
const FRAME_MAX_BYTES: u64 = 8 << 20;
/// Logs are packed beside builds; more would gain a few per cent.
const LEVEL: i32 = 3;
/// A skippable frame of zstd, and the end of the list within it.
const LIST_MAGIC: u32 = 0x184D_2A5E;
const END_MAGIC: u32 = 0x8F92_EAB1;
/// Number of frames, a byte of flags, [`END_MAGIC`].
const END_BYTES: usize = 9;
/// Two lengths.
const ENTRY_BYTES: usize = 8;

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a kept log is damaged: {what}"))
}

/// Packs `plain` into a new file at `packed`, durably. Its time of change stays, as the log's age counts from it.
pub(super) fn pack(plain: &Path, packed: &Path) -> io::Result<()> {
    let mut source = File::open(plain)?;
    let modified = source.metadata()?.modified()?;
    let mut target = File::create(packed)?;
    let mut packer = zstd::bulk::Compressor::new(LEVEL)?;
    packer.set_parameter(zstd_safe::CParameter::ChecksumFlag(true))?;
    let mut raw = Vec::with_capacity(FRAME_BYTES);
    let mut list = Vec::new();
    let mut frames = 0u32;
    loop {
        raw.clear();
        Read::by_ref(&mut source).take(FRAME_BYTES as u64).read_to_end(&mut raw)?;
        if raw.is_empty() {
            break;
        }
        let frame = packer.compress(&raw)?;
        target.write_all(&frame)?;
        for length in [frame.len(), raw.len()] {
            list.extend_from_slice(&u32::try_from(length).map_err(io::Error::other)?.to_le_bytes());
        }
        frames += 1;
    }
    let list_bytes = u32::try_from(list.len() + END_BYTES).map_err(io::Error::other)?;
    let mut end = [LIST_MAGIC.to_le_bytes(), list_bytes.to_le_bytes()].concat();
    end.extend_from_slice(&list);
    end.extend_from_slice(&frames.to_le_bytes());
    end.push(0);
    end.extend_from_slice(&END_MAGIC.to_le_bytes());
    target.write_all(&end)?;
    target.set_modified(modified)?;
    target.sync_all()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    raw_begin: u64,
    raw_bytes: u64,
    begin: u64,
    bytes: u64,
}

/// A packed log, open for reading.
#[derive(Debug)]
pub(super) struct Packed {
    file: File,
    frames: Vec<Frame>,
    /// The frame that was unpacked last.
    current: Option<(u64, Vec<u8>)>,
}

impl Packed {
    pub(super) fn open(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let frames = match listed(&file, size)? {
            Some(frames) => frames,
            None => walked(&file, size)?,
        };
        Ok(Self { file, frames, current: None })
    }

    /// Raw bytes in all.
    pub(super) fn len(&self) -> u64 {
        self.frames.last().map_or(0, |frame| frame.raw_begin + frame.raw_bytes)
    }

    /// Raw bytes from `offset` on; 0 at the end.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let place = self.frames.partition_point(|frame| frame.raw_begin + frame.raw_bytes <= offset);
        let Some(frame) = self.frames.get(place).copied() else { return Ok(0) };
        let raw = match &mut self.current {
            Some((begin, raw)) if *begin == frame.raw_begin => raw,
            current => {
                let raw = unpack(&self.file, frame)?;
                &mut current.insert((frame.raw_begin, raw)).1
            }
        };
        let skip = usize::try_from(offset - frame.raw_begin).map_err(io::Error::other)?;
        let there = raw.get(skip..).unwrap_or_default();
        let length = there.len().min(buffer.len());
        buffer[..length].copy_from_slice(&there[..length]);
        Ok(length)
    }
}

fn unpack(file: &File, frame: Frame) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(frame.bytes).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, frame.begin)?;
    let capacity = usize::try_from(frame.raw_bytes).map_err(io::Error::other)?;
    let raw = zstd::bulk::decompress(&bytes, capacity).map_err(|error| damaged(&error.to_string()))?;
    if raw.len() as u64 == frame.raw_bytes {
        Ok(raw)
    } else {
        Err(damaged("a frame has another length than is listed"))
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// The frames as the list has them; none when there is no list that fits the file.
fn listed(file: &File, size: u64) -> io::Result<Option<Vec<Frame>>> {
    let Some(end_at) = size.checked_sub(END_BYTES as u64) else { return Ok(None) };
    let mut end = [0; END_BYTES];
    file.read_exact_at(&mut end, end_at)?;
    if number(&end[5..]) != Some(END_MAGIC) || end[4] != 0 {
        return Ok(None);
    }
    let count = u64::from(number(&end).unwrap_or_default());
    let list_bytes = count * ENTRY_BYTES as u64;
    let Some(data_bytes) = end_at.checked_sub(list_bytes + 8) else { return Ok(None) };
    let mut list = vec![0; usize::try_from(list_bytes).map_err(io::Error::other)?];
    file.read_exact_at(&mut list, data_bytes + 8)?;
    let mut frames = Vec::new();
    let (mut begin, mut raw_begin) = (0, 0);
    for entry in list.chunks_exact(ENTRY_BYTES) {
        let (Some(bytes), Some(raw_bytes)) = (number(entry), number(&entry[4..])) else { return Ok(None) };
        let (bytes, raw_bytes) = (u64::from(bytes), u64::from(raw_bytes));
        if raw_bytes == 0 || raw_bytes > FRAME_MAX_BYTES || bytes > 2 * FRAME_MAX_BYTES {
            return Ok(None);
        }
        frames.push(Frame { raw_begin, raw_bytes, begin, bytes });
        begin += bytes;
        raw_begin += raw_bytes;
    }
    Ok((begin == data_bytes).then_some(frames))
}

/// The frames as they stand in the file, up to the first that is not whole.
fn walked(file: &File, size: u64) -> io::Result<Vec<Frame>> {
    let mut window = vec![0; zstd_safe::compress_bound(FRAME_BYTES)];
    let mut frames = Vec::new();
    let (mut begin, mut raw_begin) = (0, 0);
    while begin < size {
        let room = usize::try_from(size - begin).unwrap_or(usize::MAX).min(window.len());
        let bytes = &mut window[..room];
        file.read_exact_at(bytes, begin)?;
        let Ok(length) = zstd_safe::find_frame_compressed_size(bytes) else { break };
        let Ok(raw) = zstd_safe::get_frame_content_size(bytes) else { break };
        let (length, raw_bytes) = (length as u64, raw.unwrap_or_default());
        if length == 0 || raw_bytes > FRAME_MAX_BYTES {
            break;
        }
        // A skippable frame has no content.
        if raw_bytes > 0 {
            frames.push(Frame { raw_begin, raw_bytes, begin, bytes: length });
            raw_begin += raw_bytes;
        }
        begin += length;
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    struct Kept {
        directory: tempfile::TempDir,
        raw: Vec<u8>,
    }

    impl Kept {
        /// A log of so many lines, packed.
        fn of(lines: u32) -> Self {
            let directory = tempfile::tempdir().expect("temporary directory");
            let mut raw = Vec::new();
            for line in 0..lines {
                let mixed = u64::from(line).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                raw.extend_from_slice(format!("line {line} {mixed:x}\n").as_bytes());
            }
            fs::write(directory.path().join("plain"), &raw).expect("writes");
            let kept = Self { directory, raw };
            pack(&kept.directory.path().join("plain"), &kept.path()).expect("packs");
            kept
        }

        fn path(&self) -> std::path::PathBuf {
            self.directory.path().join("packed")
        }

        fn open(&self) -> Packed {
            Packed::open(File::open(self.path()).expect("there")).expect("opens")
        }

        fn bytes(&self) -> Vec<u8> {
            fs::read(self.path()).expect("there")
        }
    }

    fn rest(packed: &mut Packed, offset: u64) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut buffer = [0; 10_000];
        loop {
            let length = packed.read_at(&mut buffer, offset + out.len() as u64)?;
            if length == 0 {
                return Ok(out);
            }
            out.extend_from_slice(&buffer[..length]);
        }
    }

    #[test]
    fn any_offset_is_read_and_only_its_frame_is_unpacked() {
        let kept = Kept::of(60_000);
        let mut packed = kept.open();
        assert!(packed.frames.len() > 4 && kept.bytes().len() < kept.raw.len() / 2);
        assert_eq!(packed.len(), kept.raw.len() as u64);
        let frame = FRAME_BYTES as u64;
        for offset in [0, 1, frame - 1, frame, frame + 1, packed.len() - 1, packed.len(), packed.len() + 5] {
            let begin = usize::try_from(offset).expect("small").min(kept.raw.len());
            assert_eq!(rest(&mut packed, offset).expect("reads"), kept.raw[begin..], "{offset}");
        }
        let mut one = [0];
        packed.read_at(&mut one, 3 * frame + 7).expect("reads");
        assert_eq!(packed.current.as_ref().map(|(begin, raw)| (*begin, raw.len())), Some((3 * frame, FRAME_BYTES)));
        // Anyone's tool reads it.
        assert_eq!(zstd::decode_all(File::open(kept.path()).expect("there")).expect("plain zstd"), kept.raw);
        assert_eq!(Kept::of(0).open().len(), 0);
    }

    #[test]
    fn without_its_list_or_with_a_wrong_one_the_frames_are_walked() {
        let kept = Kept::of(60_000);
        let (whole, frames) = (kept.bytes(), kept.open().frames);
        let last = frames.last().copied().expect("some");
        let data = usize::try_from(last.begin + last.bytes).expect("small");
        // Torn inside of the list, torn away, and junk where it ought to be.
        let mut junk = whole.clone();
        junk[data + 8] ^= 0xff;
        let junk_end = [&whole[..data], &[0xab; 40][..]].concat();
        for bytes in [whole[..whole.len() - 3].to_vec(), whole[..data].to_vec(), junk, junk_end] {
            fs::write(kept.path(), bytes).expect("writes");
            let mut packed = kept.open();
            assert_eq!(packed.frames, frames);
            assert_eq!(rest(&mut packed, 0).expect("reads"), kept.raw);
        }
        // Torn within the last frame: what stands before it is read.
        fs::write(kept.path(), &whole[..data - 5]).expect("writes");
        let begin = usize::try_from(last.raw_begin).expect("small");
        assert_eq!(rest(&mut kept.open(), 0).expect("reads"), kept.raw[..begin]);
        // A flipped bit within a frame is noticed, and costs that frame alone.
        let mut flipped = whole;
        flipped[usize::try_from(frames[1].begin).expect("small") + 100] ^= 1;
        fs::write(kept.path(), flipped).expect("writes");
        let mut packed = kept.open();
        assert_eq!(rest(&mut packed, 0).expect_err("damaged").kind(), io::ErrorKind::InvalidData);
        let after = usize::try_from(frames[2].raw_begin).expect("small");
        assert_eq!(rest(&mut packed, frames[2].raw_begin).expect("reads"), kept.raw[after..]);
    }

    proptest! {
        #[test]
        fn junk_is_an_error_or_short_but_never_a_panic(
            junk in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0usize..4_000,
            at in 0usize..4_000,
            byte in any::<u8>(),
        ) {
            let kept = Kept::of(300);
            let mut bytes = kept.bytes();
            let place = at % bytes.len();
            bytes[place] = byte;
            bytes.truncate(cut);
            bytes.extend_from_slice(&junk);
            fs::write(kept.path(), &bytes).expect("writes");
            if let Ok(mut packed) = Packed::open(File::open(kept.path()).expect("there")) {
                prop_assert!(packed.len() <= FRAME_MAX_BYTES * bytes.len() as u64);
                let _ = rest(&mut packed, 0);
            }
        }
    }
}
