//! Decompressed streams that end where they were told to, whatever is inside.
//!
//! A decoder's memory is capped as well as its output: the window of zstd and the dictionary of xz are chosen by whoever made the
//! file. Never done here: guessing a compression from content; the name says it.

use std::io::{self, BufReader, Read};

use super::FormatError;

/// Base 2 logarithm of the largest window of zstd that is taken: 128 MiB, what zstd itself takes unasked.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Most memory of the xz family's decoders, bytes: `xz -9` needs 65 MiB.
const XZ_MEMORY_MAX_BYTES: u64 = 256 << 20;

/// How something is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Lzma,
    Lzip,
    Zstd,
}

/// Of `NAME.tar` or `NAME.tar.ENDING`, the compression; none when it is not that name.
pub(super) fn of_tar(name: &str, stem: &str) -> Option<Result<Compression, FormatError>> {
    let rest = name.strip_prefix(stem)?.strip_prefix(".tar")?;
    Some(Ok(match rest {
        "" => Compression::None,
        ".gz" => Compression::Gzip,
        ".bz2" => Compression::Bzip2,
        ".xz" => Compression::Xz,
        ".lzma" => Compression::Lzma,
        ".lz" => Compression::Lzip,
        ".zst" => Compression::Zstd,
        ".lz4" | ".lzo" => {
            let problem = format!("{name}: packed in a way that is not read here; use zstd, xz, lzip, bzip2 or gzip");
            return Some(Err(FormatError::refused(problem)));
        }
        _ => return None,
    }))
}

/// Reads at most so many bytes, then refuses.
struct Bounded<R> {
    reader: R,
    left: u64,
    max_bytes: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(length as u64).ok_or_else(|| {
            io::Error::other(FormatError::refused(format!("more than {} bytes when unpacked", self.max_bytes)))
        })?;
        Ok(length)
    }
}

/// The unpacked bytes of `source`, to its very end, of which there may be `max_bytes`.
pub(super) fn reader<'a>(
    compression: Compression,
    source: impl Read + 'a,
    max_bytes: u64,
) -> Result<Box<dyn Read + 'a>, FormatError> {
    use liblzma::stream::{CONCATENATED, Stream};
    let source = BufReader::with_capacity(64 << 10, source);
    let xz = |stream: Result<Stream, liblzma::stream::Error>| stream.map_err(io::Error::from);
    let reader: Box<dyn Read + 'a> = match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        Compression::Xz => {
            let stream = xz(Stream::new_stream_decoder(XZ_MEMORY_MAX_BYTES, CONCATENATED))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(source, stream))
        }
        Compression::Lzma => {
            let stream = xz(Stream::new_lzma_decoder(XZ_MEMORY_MAX_BYTES))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(source, stream))
        }
        Compression::Lzip => {
            let stream = xz(Stream::new_lzip_decoder(XZ_MEMORY_MAX_BYTES, CONCATENATED))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(source, stream))
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    };
    Ok(Box::new(Bounded { reader, left: max_bytes, max_bytes }))
}
