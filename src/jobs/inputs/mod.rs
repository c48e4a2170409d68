//! From an input to rows: how it is cut into shards, once, and how a shard's rows are read, as often as it takes.
//!
//! `lines.rs` cuts and reads lines, `line.rs` says what one means; `table.rs` does both for Parquet; `listing.rs` makes
//! lines of a directory or a pattern. `fields.rs` holds the rules that all share, `source.rs` where lines come from,
//! `media.rs` opens the files that rows name. Rows are numbered by their place in the input, empty lines included, so
//! that a number leads back to its line. All of this blocks.

mod fields;
mod line;
mod lines;
mod listing;
mod media;
mod source;
mod table;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use super::files::Files;
use super::{Fault, Input, InputKind, Row, Shard, Spec};
use crate::settings::Settings;
use fields::Rules;
use lines::{Cuts, LineRows};
pub use media::Root;
pub(in crate::jobs) use media::Unread;
use source::Source;
use table::TableRows;

/// The list of an input's media files, in the job's output.
const LISTING: &str = "_input.jsonl";

/// Cuts a job's input and counts its rows; asks now and then whether to `stop`. Of media files it leaves a list in the
/// output, and goes by the one that is there: whoever plans twice plans the same.
pub fn plan(
    spec: &Spec,
    files: &Files,
    settings: &Settings,
    stop: &dyn Fn() -> bool,
) -> Result<(Vec<Shard>, u64), Fault> {
    let cuts = Cuts { rows_a_part: spec.output.rows_a_part.max(1), shards_max: settings.jobs.shards_max };
    let location = &spec.input.location;
    match spec.input.kind {
        InputKind::Jsonl => lines::plan(&Source::File(location.into()), &cuts, stop),
        InputKind::Parquet => {
            table::plan(Path::new(location), &spec.input.columns, &cuts, settings.jobs.footer_bytes_max)
        }
        InputKind::Files => {
            if files.blocking_size(LISTING)?.is_none() {
                files.blocking_put(LISTING, listing::lines(location, stop)?)?;
            }
            lines::plan(&Source::Listed(files.clone(), LISTING), &cuts, stop)
        }
    }
}

/// The rows of a shard, in order; empty lines are left out. After the first fault nothing more comes. Of lines the
/// last item tells whether they were those that were planned, so nothing may be believed before the end.
pub fn rows(
    spec: &Spec,
    shard: &Shard,
    files: &Files,
    settings: &Settings,
) -> Result<impl Iterator<Item = Result<Row, Fault>> + Send + use<>, Fault> {
    let index = shard.index;
    let named = move |fault| match fault {
        Fault::Broken(told) => Fault::Broken(format!("shard {index}: {told}")),
        Fault::Stopped => Fault::Stopped,
    };
    let rows = unnamed_rows(spec, shard, files, settings).map_err(named)?;
    Ok(rows.map(move |row| row.map_err(named)))
}

type Rows = Box<dyn Iterator<Item = Result<Row, Fault>> + Send>;

fn unnamed_rows(spec: &Spec, shard: &Shard, files: &Files, settings: &Settings) -> Result<Rows, Fault> {
    let rules = Rules::new(spec, settings, directory(&spec.input));
    let location = PathBuf::from(&spec.input.location);
    Ok(match spec.input.kind {
        InputKind::Jsonl => Box::new(LineRows::new(Source::File(location), shard, rules)?),
        InputKind::Files => Box::new(LineRows::new(Source::Listed(files.clone(), LISTING), shard, rules)?),
        InputKind::Parquet => Box::new(TableRows::new(location, shard, rules)?),
    })
}

/// The row of one line of JSON, without its line feed; none where there is nothing in it.
pub fn row_of_line(line: &[u8], number: u64, spec: &Spec, settings: &Settings) -> Option<Row> {
    line::row(line, number, &Rules::new(spec, settings, directory(&spec.input)))
}

/// Where the paths of an input's media begin: its own directory.
fn directory(input: &Input) -> PathBuf {
    match input.kind {
        InputKind::Files => listing::directory(&input.location),
        InputKind::Jsonl | InputKind::Parquet => {
            Path::new(&input.location).parent().unwrap_or(Path::new("")).to_owned()
        }
    }
}
