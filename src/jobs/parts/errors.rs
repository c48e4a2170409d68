//! The rows of a part that failed, one JSON object a line in the order of the input, and a reader that takes them up
//! where a page before ended.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::engine::{Code, EngineError, shortened};
use crate::jobs::files::Files;
use crate::jobs::{Failed, Failure, Fault};

/// Bytes that are read at once.
const STEP_BYTES: u64 = 256 << 10;
/// Bytes of lines in one page; a longer first line still makes one.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    row: u64,
    id: String,
    code: String,
    message: String,
}

/// The file of the errors of one shard.
pub(super) fn name(shard_index: u32) -> String {
    format!("_errors-{shard_index:05}.jsonl")
}

/// Appends a row that failed.
pub(super) fn write(errors: &mut Vec<u8>, Failed { row, id, failure }: &Failed) {
    let Failure { code, message } = failure;
    let line = Line { row: *row, id: id.clone(), code: code.name().into(), message: message.clone() };
    serde_json::to_writer(&mut *errors, &line).expect("a row is JSON, and memory takes it");
    errors.push(b'\n');
}

/// Where a page of errors begins: a shard's file, and a byte of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ErrorsToken {
    /// Number of the shard.
    pub shard: u32,
    /// First byte of a line.
    pub byte: u64,
}

impl fmt::Display for ErrorsToken {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}", self.shard, self.byte)
    }
}

impl FromStr for ErrorsToken {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let parsed = text.split_once('.').and_then(|(shard, byte)| Some((shard.parse().ok()?, byte.parse().ok()?)));
        parsed.map(|(shard, byte)| Self { shard, byte }).ok_or_else(|| strange(&shortened(text)))
    }
}

fn strange(token: &str) -> EngineError {
    let problem = format!("is {token:?}, must be a token that an answer brought");
    EngineError::Invalid { field: "page_token".into(), problem }
}

/// At most `max` rows of a shard that failed, from `from` on, and where those after them begin, if there are any. The
/// shard must have failed rows, and its files their names.
pub async fn read_errors(
    files: &Files,
    from: ErrorsToken,
    max: usize,
) -> Result<(Vec<Failed>, Option<ErrorsToken>), EngineError> {
    let files = files.clone();
    let read = tokio::task::spawn_blocking(move || page(&files, from, max)).await;
    read.map_err(|error| EngineError::Internal(error.to_string()))?
}

fn page(files: &Files, from: ErrorsToken, max: usize) -> Result<(Vec<Failed>, Option<ErrorsToken>), EngineError> {
    let name = name(from.shard);
    let unfit = |problem: String| EngineError::Unfit { subject: format!("{}/{name}", files.location()), problem };
    let unread = |fault: Fault| unfit(fault.to_string());
    let size = files.blocking_size(&name).map_err(unread)?.ok_or_else(|| unfit("it is gone".into()))?;
    // A line begins where the file does, or after another one.
    let begins = match from.byte.checked_sub(1).filter(|before| *before < size) {
        Some(before) => files.blocking_read(&name, before..from.byte).map_err(unread)? == b"\n",
        None => from.byte == 0,
    };
    if !begins {
        return Err(strange(&from.to_string()));
    }
    let (mut lines, mut read) = (Vec::new(), from.byte);
    while read < size && lines.len() <= PAGE_BYTES_MAX && newlines(&lines) < max || read < size && newlines(&lines) == 0
    {
        let to = size.min(read + STEP_BYTES);
        lines.extend(files.blocking_read(&name, read..to).map_err(unread)?);
        read = to;
    }
    let (mut failed, mut byte) = (Vec::new(), from.byte);
    for line in lines.split_inclusive(|&byte| byte == b'\n').take(max).filter(|line| line.ends_with(b"\n")) {
        failed.push(parsed(line).ok_or_else(|| unfit(format!("byte {byte} does not begin a row that failed")))?);
        byte += line.len() as u64;
    }
    Ok((failed, (byte < size).then_some(ErrorsToken { byte, ..from })))
}

fn newlines(lines: &[u8]) -> usize {
    lines.iter().filter(|&&byte| byte == b'\n').count()
}

fn parsed(line: &[u8]) -> Option<Failed> {
    let Line { row, id, code, message } = serde_json::from_slice(line).ok()?;
    let code = Code::ALL.into_iter().find(|known| known.name() == code)?;
    Some(Failed { row, id, failure: Failure { code, message } })
}
