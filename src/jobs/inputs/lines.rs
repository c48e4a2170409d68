//! Inputs of lines: where they are cut, and how the rows of one shard are read again. Both stream; neither holds more
//! than a line, and no more of that than a line may have.

use std::io::{self, BufRead, BufReader, Read};

use sha2::{Digest, Sha256};

use super::fields::{Rules, invalid};
use super::line;
use super::source::Source;
use crate::jobs::{Fault, Row, Shard};

/// Read at a time, bytes.
const CHUNK_BYTES: usize = 1 << 18;

/// Where lines are cut.
pub(super) struct Cuts {
    /// Lines of one shard, the last one's excepted.
    pub rows_a_part: u64,
    pub shards_max: u32,
}

/// Cuts all lines of a source; the last one needs no line feed.
pub(super) fn plan(source: &Source, cuts: &Cuts, stop: &dyn Fn() -> bool) -> Result<(Vec<Shard>, u64), Fault> {
    let mut reader = source.read_from(0).map_err(|error| source.broken(&error))?;
    let mut cutter = Cutter { cuts, shards: Vec::new(), rows: 0, at: 0, hash: Sha256::new(), open: Open::default() };
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        if stop() {
            return Err(Fault::Stopped);
        }
        match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => cutter.take(&chunk[..count]).map_err(|problem| source.fault(&problem))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(source.broken(&error)),
        }
    }
    cutter.end().map_err(|problem| source.fault(&problem))
}

struct Cutter<'a> {
    cuts: &'a Cuts,
    shards: Vec<Shard>,
    rows: u64,
    /// Bytes so far.
    at: u64,
    hash: Sha256,
    open: Open,
}

/// The shard that is not cut yet.
#[derive(Default)]
struct Open {
    start: u64,
    rows: u64,
    /// Whether its last line is not over.
    in_line: bool,
}

impl Cutter<'_> {
    fn take(&mut self, chunk: &[u8]) -> Result<(), String> {
        // What precedes `hashed` is in the hash.
        let mut hashed = 0;
        for (index, _) in chunk.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            self.open.rows += 1;
            if self.open.rows == self.cuts.rows_a_part {
                self.hash.update(&chunk[hashed..=index]);
                hashed = index + 1;
                self.cut(self.at + hashed as u64)?;
            }
        }
        self.hash.update(&chunk[hashed..]);
        self.at += chunk.len() as u64;
        self.open.in_line = chunk.last().is_some_and(|&last| last != b'\n');
        Ok(())
    }

    fn cut(&mut self, end: u64) -> Result<(), String> {
        let Open { start, rows, .. } = std::mem::take(&mut self.open);
        let index = u32::try_from(self.shards.len()).ok().filter(|&index| index < self.cuts.shards_max);
        let Some(index) = index else {
            let Cuts { shards_max, rows_a_part } = self.cuts;
            return Err(format!(
                "has more than {shards_max} shards of {rows_a_part} rows: output.rows_a_part must be larger"
            ));
        };
        let digest = format!("{:x}", self.hash.finalize_reset());
        self.shards.push(Shard { index, first_row: self.rows, rows, start, end, digest });
        self.rows += rows;
        self.open.start = end;
        Ok(())
    }

    fn end(mut self) -> Result<(Vec<Shard>, u64), String> {
        self.open.rows += u64::from(self.open.in_line);
        if self.open.rows > 0 {
            self.cut(self.at)?;
        }
        Ok((self.shards, self.rows))
    }
}

/// The rows of a shard. After the last one it tells whether the bytes were those that were planned.
pub(super) struct LineRows {
    lines: Lines<Box<dyn Read + Send>>,
    source: Source,
    shard: Shard,
    rules: Rules,
    /// Of the next line.
    number: u64,
    over: bool,
}

impl LineRows {
    pub fn new(source: Source, shard: &Shard, rules: Rules) -> Result<Self, Fault> {
        let size = source.size().map_err(|error| source.broken(&error))?;
        if size < shard.end {
            return Err(source.changed(shard, &format!("it had {} bytes at least, it has {size}", shard.end)));
        }
        let reader = source.read_from(shard.start).map_err(|error| source.broken(&error))?;
        let reader: Box<dyn Read + Send> = Box::new(reader.take(shard.end - shard.start));
        let lines =
            Lines { reader: BufReader::with_capacity(CHUNK_BYTES, reader), hash: Sha256::new(), line: Vec::new() };
        Ok(Self { lines, source, number: shard.first_row, shard: shard.clone(), rules, over: false })
    }

    fn advance(&mut self) -> Option<Result<Row, Fault>> {
        loop {
            let length = match self.lines.advance(self.rules.line_bytes_max) {
                Ok(Some(length)) => length,
                Ok(None) => return self.ended().map(Err),
                Err(error) => return Some(Err(self.source.broken(&error))),
            };
            let number = self.number;
            self.number += 1;
            if length > self.rules.line_bytes_max as u64 {
                let problem = format!("has {length} bytes, at most {}", self.rules.line_bytes_max);
                return Some(Ok(self.rules.unreadable(number, None, invalid("line", &problem))));
            }
            if let Some(row) = line::row(&self.lines.line, number, &self.rules) {
                return Some(Ok(row));
            }
        }
    }

    fn ended(&mut self) -> Option<Fault> {
        let digest = format!("{:x}", self.lines.hash.finalize_reset());
        let same = digest == self.shard.digest;
        (!same).then(|| self.source.changed(&self.shard, &format!("SHA-256 was {}, is {digest}", self.shard.digest)))
    }
}

impl Iterator for LineRows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Result<Row, Fault>> {
        let next = if self.over { None } else { self.advance() };
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Lines one after the other; all bytes go through the hash.
struct Lines<R> {
    reader: BufReader<R>,
    hash: Sha256,
    /// The last line, without its line feed; of one that is too long only a part.
    line: Vec<u8>,
}

impl<R: Read> Lines<R> {
    /// Reads a line and returns its length without the line feed; none at the end.
    fn advance(&mut self, bytes_max: usize) -> io::Result<Option<u64>> {
        self.line.clear();
        let mut length = 0;
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let feed = buffer.iter().position(|&byte| byte == b'\n');
            let (content, taken) = feed.map_or((buffer.len(), buffer.len()), |at| (at, at + 1));
            self.hash.update(&buffer[..taken]);
            let fits = content.min(bytes_max.saturating_sub(self.line.len()));
            self.line.extend_from_slice(&buffer[..fits]);
            length += content as u64;
            self.reader.consume(taken);
            match (feed, taken) {
                (Some(_), _) => return Ok(Some(length)),
                (None, 0) if length == 0 => return Ok(None),
                (None, 0) => return Ok(Some(length)),
                (None, _) => {}
            }
        }
    }
}
