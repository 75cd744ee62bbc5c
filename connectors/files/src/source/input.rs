//! The bytes of one text file: hashed as they are read, unpacked if they are packed.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use highwater_core::Result;
use xxhash_rust::xxh3::Xxh3;

use crate::disk;
use crate::spec::Compression;

/// Reads a file and keeps the hash of all that was read.
pub(crate) struct Hashing {
    file: File,
    hasher: Xxh3,
    pub(crate) bytes: u64,
    last: Option<u8>,
}

impl Hashing {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file =
            File::open(path).map_err(|e| disk::failed("A file cannot be opened", path, e))?;
        Ok(Self { file, hasher: Xxh3::new(), bytes: 0, last: None })
    }

    /// Reads `count` bytes and returns the hash of all bytes so far.
    pub(crate) fn skip(&mut self, count: u64) -> io::Result<String> {
        io::copy(&mut self.by_ref().take(count), &mut io::sink())?;
        Ok(self.hash())
    }

    /// The hash of all bytes so far.
    pub(crate) fn hash(&self) -> String {
        format!("{:016x}", self.hasher.digest())
    }

    /// Whether the last byte so far is the first of a line end of two.
    pub(crate) fn at_carriage_return(&self) -> bool {
        self.last == Some(b'\r')
    }

    /// Whether the bytes so far end with a line.
    pub(crate) fn at_line_end(&self) -> bool {
        self.last == Some(b'\n')
    }
}

impl Read for Hashing {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(out)?;
        self.hasher.update(&out[..count]);
        self.bytes += count as u64;
        self.last = out[..count].last().copied().or(self.last);
        Ok(count)
    }
}

/// The text in a file.
pub(crate) enum Input {
    Plain(Box<Hashing>),
    Gzip(Box<MultiGzDecoder<Hashing>>),
}

impl Input {
    pub(crate) fn new(file: Hashing, compression: Compression) -> Self {
        match compression {
            Compression::None => Self::Plain(Box::new(file)),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(file))),
        }
    }

    pub(crate) fn raw(&self) -> &Hashing {
        match self {
            Self::Plain(file) => file,
            Self::Gzip(decoder) => decoder.get_ref(),
        }
    }
}

impl Read for Input {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(out),
            Self::Gzip(decoder) => decoder.read(out),
        }
    }
}

/// Reads lines of any length.
pub(crate) struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    at_end: bool,
    /// The number of the line that was read last; lines count from 1.
    pub(crate) line: u64,
}

impl<R: Read> Lines<R> {
    /// Reads from `input`, before which there were `line` lines.
    pub(crate) fn new(input: R, line: u64) -> Self {
        Self { input, buffer: vec![0; 256 << 10], start: 0, end: 0, at_end: false, line }
    }

    pub(crate) fn input(&self) -> &R {
        &self.input
    }

    /// The next line without its end; `None` after the last.
    pub(crate) fn read(&mut self) -> io::Result<Option<&[u8]>> {
        let mut searched = 0;
        let end = loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(at) = memchr::memchr(b'\n', &unread[searched..]) {
                break Some(self.start + searched + at);
            }
            if self.at_end {
                break None;
            }
            searched = unread.len();
            self.fill()?;
        };
        let range = match end {
            Some(end) => std::mem::replace(&mut self.start, end + 1)..end,
            None if self.start < self.end => std::mem::replace(&mut self.start, self.end)..self.end,
            None => return Ok(None),
        };
        self.line += 1;
        let mut line = &self.buffer[range];
        if self.line == 1 {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    let count = other?;
                    self.end += count;
                    self.at_end = count == 0;
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_any_length_and_end() {
        let long = "x".repeat(600 << 10);
        let text = format!("\u{feff}a\r\n\n{long}\nlast");
        let mut lines = Lines::new(text.as_bytes(), 0);
        let mut seen = Vec::new();
        while let Some(line) = lines.read().unwrap() {
            seen.push(line.to_vec());
        }
        let expected = [b"a".to_vec(), vec![], long.into_bytes(), b"last".to_vec()];
        assert_eq!(seen, expected);
        assert_eq!(lines.line, 4);
    }
}
