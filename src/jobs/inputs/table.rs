//! Inputs that are Parquet tables: how they are cut, and how a range of their rows is read.
//!
//! Columns are read below the level of Arrow, page by page: a cell that is no UTF-8 fails its row and not its table, a
//! page is all that is held of a column, and pages before a range are passed over unread. A column may lie in a struct,
//! spelt `image.bytes`; it may not be a list.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::{Compression, LogicalType, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;
use sha2::{Digest, Sha256};

use super::fields::{Fields, Rules, invalid};
use super::lines::Cuts;
use crate::jobs::{Columns, Failure, Fault, Row, Shard};

/// What the decoder gives.
type Decoded<T> = Result<T, ParquetError>;

/// Rows of small cells that are decoded together.
const ROWS_TOGETHER: usize = 256;
/// Rows with media in them that are decoded together.
const MEDIA_TOGETHER: usize = 4;
/// The length of the footer and the format's name, which end a file.
const TAIL_BYTES: u64 = 8;

/// Cuts all rows of a table.
pub(super) fn plan(
    path: &Path,
    columns: &Columns,
    cuts: &Cuts,
    footer_bytes_max: u64,
) -> Result<(Vec<Shard>, u64), Fault> {
    let table = Table::open(path, columns, footer_bytes_max)?;
    let (rows, rows_a_part) = (table.rows(), cuts.rows_a_part.max(1));
    let shards = rows.div_ceil(rows_a_part);
    if shards > u64::from(cuts.shards_max) {
        let problem = format!(
            "has {shards} shards of {rows_a_part} rows, at most {}: output.rows_a_part must be larger",
            cuts.shards_max
        );
        return Err(fault(path, &problem));
    }
    let shard = |index: u64| Shard {
        index: index as u32,
        first_row: index * rows_a_part,
        rows: rows_a_part.min(rows - index * rows_a_part),
        start: 0,
        end: 0,
        digest: table.digest.clone(),
    };
    Ok(((0..shards).map(shard).collect(), rows))
}

fn fault(path: &Path, problem: &str) -> Fault {
    Fault::Broken(format!("input {}: {problem}", path.display()))
}

/// A table and the places of the columns that count.
struct Table {
    reader: SerializedFileReader<File>,
    digest: String,
    /// Places of the columns of [`Fields`]: id, text, media, bytes, question.
    places: [Option<usize>; 5],
}

impl Table {
    fn open(path: &Path, columns: &Columns, footer_bytes_max: u64) -> Result<Self, Fault> {
        let unreadable = |error: std::io::Error| fault(path, &format!("cannot be read: {error}"));
        let mut file = File::open(path).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(fault(path, "is no file"));
        }
        let digest = footer_digest(&mut file, footer_bytes_max).map_err(|problem| fault(path, &problem))?;
        let reader = guarded(|| SerializedFileReader::new(file));
        let reader = reader.map_err(|error| fault(path, &format!("is no Parquet table: {error}")))?;
        let places = guarded(|| Ok(places(&reader, columns))).unwrap_or_else(|error| Err(error.to_string()));
        let places = places.map_err(|problem| fault(path, &problem))?;
        Ok(Self { reader, digest, places })
    }

    fn rows(&self) -> u64 {
        (0..self.reader.num_row_groups()).map(|group| self.group_rows(group)).sum()
    }

    fn group_rows(&self, group: usize) -> u64 {
        u64::try_from(self.reader.metadata().row_group(group).num_rows()).unwrap_or(0)
    }
}

/// SHA-256 of the footer. It holds place and size of every column's pages, so a table that is written anew has another
/// one nearly always, and is not read whole to be sure.
fn footer_digest(file: &mut File, footer_bytes_max: u64) -> Result<String, String> {
    let told = |error: std::io::Error| format!("cannot be read: {error}");
    let size = file.seek(SeekFrom::End(0)).map_err(told)?;
    let mut tail = [0; TAIL_BYTES as usize];
    if size < TAIL_BYTES {
        return Err(format!("is no Parquet table: it has {size} bytes"));
    }
    file.seek(SeekFrom::Start(size - TAIL_BYTES)).map_err(told)?;
    file.read_exact(&mut tail).map_err(told)?;
    let [a, b, c, d, ref name @ ..] = tail;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    if name != b"PAR1" {
        return Err(format!("is no Parquet table: it ends with {name:?}, must end with \"PAR1\""));
    }
    if length > footer_bytes_max || length + TAIL_BYTES > size {
        return Err(format!("has a footer of {length} bytes in {size}, at most {footer_bytes_max}"));
    }
    let mut footer = vec![0; length as usize];
    file.seek(SeekFrom::Start(size - TAIL_BYTES - length)).map_err(told)?;
    file.read_exact(&mut footer).map_err(told)?;
    Ok(format!("{:x}", Sha256::new().chain_update(footer).chain_update(tail).finalize()))
}

/// The decoder is other people's code, fed by strangers: a panic is an error like others.
fn guarded<T>(read: impl FnOnce() -> Decoded<T>) -> Decoded<T> {
    let outcome = catch_unwind(AssertUnwindSafe(read));
    outcome.unwrap_or_else(|_| Err(ParquetError::General("its decoder panicked".into())))
}

fn places(reader: &SerializedFileReader<File>, columns: &Columns) -> Result<[Option<usize>; 5], String> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let names = [&columns.id, &columns.text, &columns.media, &columns.bytes, &columns.question];
    let mut places = [None; 5];
    for (index, (place, name)) in places.iter_mut().zip(names).enumerate() {
        let found = schema.columns().iter().position(|column| column.path().string() == *name);
        if let Some(at) = found {
            check(&schema.column(at), index == 0)?;
            for group in reader.metadata().row_groups() {
                check_compression(name, group.column(at).compression())?;
            }
        }
        *place = found;
    }
    if places[1..4].iter().all(Option::is_none) {
        let there = schema.columns().iter().take(20).map(|column| column.path().string());
        let Columns { text, media, bytes, .. } = columns;
        let there = there.collect::<Vec<_>>().join(", ");
        return Err(format!("has the columns {there}; must have one of {text}, {media} and {bytes}"));
    }
    Ok(places)
}

fn check(column: &ColumnDescriptor, is_id: bool) -> Result<(), String> {
    let name = column.path().string();
    if column.max_rep_level() > 0 {
        return Err(format!("column {name} holds lists, must hold one value a row"));
    }
    let whole = matches!(column.logical_type_ref(), None | Some(LogicalType::Integer(_)));
    match column.physical_type() {
        Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY => Ok(()),
        Type::INT32 | Type::INT64 if is_id && whole => Ok(()),
        other => {
            let bound = if is_id { "texts or whole numbers" } else { "texts or bytes" };
            Err(format!("column {name} holds {other}, must hold {bound}"))
        }
    }
}

fn check_compression(name: &str, compression: Compression) -> Result<(), String> {
    match compression {
        Compression::UNCOMPRESSED
        | Compression::SNAPPY
        | Compression::ZSTD(_)
        | Compression::LZ4
        | Compression::LZ4_RAW => Ok(()),
        other => Err(format!("column {name} is compressed by {other}, must be by SNAPPY, ZSTD, LZ4 or not at all")),
    }
}

/// The rows of a shard.
pub(super) struct TableRows {
    table: Table,
    path: PathBuf,
    rules: Rules,
    /// Numbers of the rows that are still to be decoded.
    left: Range<u64>,
    group: Option<Group>,
    /// Decoded rows, the next one last.
    decoded: Vec<Row>,
}

/// The row group that is being read.
struct Group {
    cells: [Option<Cells>; 5],
    /// Number of its last row and one.
    end: u64,
}

impl TableRows {
    pub fn new(path: PathBuf, shard: &Shard, rules: Rules) -> Result<Self, Fault> {
        let table = Table::open(&path, &rules.columns, rules.footer_bytes_max)?;
        if table.digest != shard.digest {
            let difference = format!("SHA-256 of its footer was {}, is {}", shard.digest, table.digest);
            return Err(fault(&path, &format!("has changed since it was planned: {difference}")));
        }
        let left = shard.first_row..shard.first_row + shard.rows;
        Ok(Self { table, path, rules, left, group: None, decoded: Vec::new() })
    }

    fn advance(&mut self) -> Decoded<()> {
        let row = self.left.start;
        let mut group = match self.group.take().filter(|group| row < group.end) {
            Some(group) => group,
            None => self.open(row)?,
        };
        let together = if group.cells[3].is_some() { MEDIA_TOGETHER } else { ROWS_TOGETHER };
        let count = (self.left.end.min(group.end) - row).min(together as u64) as usize;
        let mut columns: [Vec<Option<Vec<u8>>>; 5] = Default::default();
        for (cells, column) in group.cells.iter_mut().zip(&mut columns) {
            match cells {
                Some(cells) => *column = cells.read(count)?,
                None => column.resize(count, None),
            }
        }
        let [mut id, mut text, mut media, mut bytes, mut question] = columns;
        for number in (row..row + count as u64).rev() {
            let cells =
                [&mut id, &mut text, &mut media, &mut bytes, &mut question].map(|column| column.pop().flatten());
            self.decoded.push(row_of(number, cells, &self.rules));
        }
        self.left.start += count as u64;
        self.group = Some(group);
        Ok(())
    }

    /// Opens the group that has row `row`, and goes there.
    fn open(&self, row: u64) -> Decoded<Group> {
        let mut start = 0;
        for group in 0..self.table.reader.num_row_groups() {
            let end = start + self.table.group_rows(group);
            if row < end {
                let reader = self.table.reader.get_row_group(group)?;
                let mut cells = [const { None }; 5];
                for (cells, place) in cells.iter_mut().zip(self.table.places) {
                    if let Some(place) = place {
                        let mut column = Cells::new(
                            reader.get_column_reader(place)?,
                            reader.metadata().column(place).column_descr(),
                        )?;
                        column.skip((row - start) as usize)?;
                        *cells = Some(column);
                    }
                }
                return Ok(Group { cells, end });
            }
            start = end;
        }
        Err(ParquetError::General(format!("has {start} rows, row {row} is wanted")))
    }
}

impl Iterator for TableRows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.decoded.is_empty()
            && !self.left.is_empty()
            && let Err(error) = guarded(|| self.advance())
        {
            let row = std::mem::take(&mut self.left).start;
            return Some(Err(fault(&self.path, &format!("cannot be read from row {row} on: {error}"))));
        }
        self.decoded.pop().map(Ok)
    }
}

fn row_of(number: u64, [id, text, media, bytes, question]: [Option<Vec<u8>>; 5], rules: &Rules) -> Row {
    let columns = &rules.columns;
    let id = match words(&columns.id, id) {
        Ok(id) => id,
        Err(failure) => return rules.unreadable(number, None, failure),
    };
    let fields = || {
        Ok(Fields {
            text: words(&columns.text, text)?,
            media: words(&columns.media, media)?,
            question: words(&columns.question, question)?,
            bytes,
            id: None,
        })
    };
    match fields() {
        Ok(fields) => rules.row(number, Fields { id, ..fields }),
        Err(failure) => rules.unreadable(number, id, failure),
    }
}

fn words(column: &str, cell: Option<Vec<u8>>) -> Result<Option<String>, Failure> {
    let problem = |at: usize| invalid(column, &format!("is no UTF-8 from byte {at} on"));
    cell.map(String::from_utf8).transpose().map_err(|error| problem(error.utf8_error().valid_up_to()))
}

/// The cells of a column, from where the last ones were read.
struct Cells {
    column: Column,
    /// The level at which a cell has a value.
    defined: i16,
}

enum Column {
    Bytes(ColumnReaderImpl<parquet::data_type::ByteArrayType>),
    Fixed(ColumnReaderImpl<parquet::data_type::FixedLenByteArrayType>),
    Int32(ColumnReaderImpl<parquet::data_type::Int32Type>, bool),
    Int64(ColumnReaderImpl<parquet::data_type::Int64Type>, bool),
}

impl Cells {
    fn new(reader: ColumnReader, descriptor: &ColumnDescriptor) -> Decoded<Self> {
        let signed = !matches!(descriptor.logical_type_ref(), Some(LogicalType::Integer(kind)) if !kind.is_signed);
        let column = match reader {
            ColumnReader::ByteArrayColumnReader(reader) => Column::Bytes(reader),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => Column::Fixed(reader),
            ColumnReader::Int32ColumnReader(reader) => Column::Int32(reader, signed),
            ColumnReader::Int64ColumnReader(reader) => Column::Int64(reader, signed),
            _ => return Err(ParquetError::General(format!("column {} is not what it was", descriptor.name()))),
        };
        Ok(Self { column, defined: descriptor.max_def_level() })
    }

    fn skip(&mut self, rows: usize) -> Decoded<()> {
        let skipped = match &mut self.column {
            Column::Bytes(reader) => reader.skip_records(rows),
            Column::Fixed(reader) => reader.skip_records(rows),
            Column::Int32(reader, _) => reader.skip_records(rows),
            Column::Int64(reader, _) => reader.skip_records(rows),
        }?;
        whole(skipped, rows)
    }

    /// The next `rows` cells; null is none, a number is its digits.
    fn read(&mut self, rows: usize) -> Decoded<Vec<Option<Vec<u8>>>> {
        match &mut self.column {
            Column::Bytes(reader) => read(reader, self.defined, rows, |cell| cell.data().to_vec()),
            Column::Fixed(reader) => read(reader, self.defined, rows, |cell| ByteArray::from(cell).data().to_vec()),
            Column::Int32(reader, true) => read(reader, self.defined, rows, |cell| cell.to_string().into()),
            Column::Int32(reader, false) => {
                read(reader, self.defined, rows, |cell| cell.cast_unsigned().to_string().into())
            }
            Column::Int64(reader, true) => read(reader, self.defined, rows, |cell| cell.to_string().into()),
            Column::Int64(reader, false) => {
                read(reader, self.defined, rows, |cell| cell.cast_unsigned().to_string().into())
            }
        }
    }
}

fn whole(found: usize, wanted: usize) -> Decoded<()> {
    match found == wanted {
        true => Ok(()),
        false => Err(ParquetError::General(format!("a column ends {} rows early", wanted - found))),
    }
}

fn read<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    defined: i16,
    rows: usize,
    cell: impl Fn(T::T) -> Vec<u8>,
) -> Decoded<Vec<Option<Vec<u8>>>> {
    let (mut levels, mut values) = (Vec::with_capacity(rows), Vec::new());
    let (found, ..) = reader.read_records(rows, Some(&mut levels), None, &mut values)?;
    whole(found, rows)?;
    let mut values = values.into_iter();
    let mut next = |is_there: bool| is_there.then(|| values.next()).flatten().map(&cell);
    Ok(match defined {
        0 => (0..rows).map(|_| next(true)).collect(),
        defined => levels.iter().map(|&level| next(level == defined)).collect(),
    })
}
