//! Tables as others write them: every type of column, nulls, many row groups, pages that are passed over.

use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BinaryArray, BinaryViewArray, DictionaryArray, FixedSizeBinaryArray, Float32Array, Int32Array,
    Int64Array, LargeBinaryArray, LargeStringArray, ListArray, RecordBatch, StringArray, StringViewArray, StructArray,
    UInt64Array,
};
use arrow_schema::Field;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::engine::Code;
use crate::jobs::inputs::tests::Place;
use crate::jobs::{Fault, InputKind, Item, MediaPlace, Row};

fn table_with(columns: &[(&str, ArrayRef)], properties: WriterProperties) -> Vec<u8> {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(name, array)| (*name, array.clone(), true)));
    let batch = batch.expect("columns of one length");
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
    file
}

fn table(columns: &[(&str, ArrayRef)]) -> Place {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(3)).build();
    Place::new(InputKind::Parquet, "in.parquet", &table_with(columns, properties))
}

fn texts(rows: &[Row]) -> Vec<(u64, &str, &str)> {
    let told = |row: &'_ Row| match &row.item {
        Ok(Item::Text(text)) => text.as_str().to_owned(),
        Ok(other) => panic!("{other:?}"),
        Err(failure) => failure.message.clone(),
    };
    rows.iter().map(|row| (row.number, row.id.as_str(), &*told(row).leak())).collect()
}

#[test]
fn every_type_of_text_is_a_text() {
    let words = [Some("red"), None, Some("blue"), Some(""), Some("red")];
    let bytes = words.map(|word| word.map(str::as_bytes)).to_vec();
    let keys = Int32Array::from(vec![Some(0), None, Some(1), Some(2), Some(0)]);
    let values: ArrayRef = Arc::new(StringArray::from(vec!["red", "blue", ""]));
    let all: [ArrayRef; 7] = [
        Arc::new(StringArray::from(words.to_vec())),
        Arc::new(LargeStringArray::from(words.to_vec())),
        Arc::new(StringViewArray::from(words.to_vec())),
        Arc::new(BinaryArray::from(bytes.clone())),
        Arc::new(LargeBinaryArray::from(bytes.clone())),
        Arc::new(BinaryViewArray::from(bytes)),
        Arc::new(DictionaryArray::<Int32Type>::new(keys, values)),
    ];
    let none = "row: has none of text, media and bytes, must have one";
    let expected = [(0, "0", "red"), (1, "1", none), (2, "2", "blue"), (3, "3", ""), (4, "4", "red")];
    for column in all {
        let kind = column.data_type().clone();
        let mut place = table(&[("other", Arc::new(Float32Array::from(vec![1.0; 5]))), ("text", column)]);
        for rows_a_part in [1, 2, 4, 100] {
            assert_eq!(texts(&place.read_all(rows_a_part)), expected, "{kind} by {rows_a_part}");
        }
    }
}

#[test]
fn ids_are_texts_or_whole_numbers() {
    let text = |count| -> ArrayRef { Arc::new(StringArray::from(vec!["red"; count])) };
    let ids = |place: &mut Place| place.read_all(2).into_iter().map(|row| row.id).collect::<Vec<_>>();
    for (column, expected) in [
        (Arc::new(StringArray::from(vec![Some("a"), None, Some("a")])) as ArrayRef, ["a", "1", "a"]),
        (Arc::new(Int64Array::from(vec![Some(-5), None, Some(i64::MAX)])), ["-5", "1", "9223372036854775807"]),
        (Arc::new(UInt64Array::from(vec![0, 1 << 63, u64::MAX])), ["0", "9223372036854775808", "18446744073709551615"]),
        (Arc::new(Int32Array::from(vec![7, -7, 7])), ["7", "-7", "7"]),
    ] {
        assert_eq!(ids(&mut table(&[("id", column), ("text", text(3))])), expected);
    }
}

#[test]
fn media_are_paths_or_bytes_also_within_a_struct() {
    let path: ArrayRef = Arc::new(StringArray::from(vec![Some("a.gif"), None, None, Some("b.gif")]));
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![None, Some(&b"GIF"[..]), None, Some(b"GIF")]));
    let question: ArrayRef = Arc::new(StringArray::from(vec![None, Some("who?"), None, None]));
    let check = |mut place: Place| {
        let directory = place.input().parent().expect("a folder").to_owned();
        for rows_a_part in [1, 3] {
            let rows = place.read_all(rows_a_part);
            let media = |place, question: Option<&str>| Ok(Item::Media { place, question: question.map(String::from) });
            assert_eq!(rows[0].item, media(MediaPlace::File(directory.join("a.gif")), None));
            assert_eq!(rows[1].item, media(MediaPlace::Bytes(b"GIF".to_vec()), Some("who?")));
            let failure = |row: &Row| row.item.clone().expect_err("not one").message;
            assert!(failure(&rows[2]).starts_with("row: has none of text, "));
            assert!(failure(&rows[3]).ends_with(", must have one of them"), "{}", failure(&rows[3]));
        }
    };
    check(table(&[("media", path.clone()), ("bytes", bytes.clone()), ("question", question.clone())]));
    let field = |name: &str, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), true));
    let image = StructArray::from(vec![(field("path", &path), path.clone()), (field("bytes", &bytes), bytes.clone())]);
    let mut nested = table(&[("image", Arc::new(image)), ("question", question)]);
    (nested.spec.input.columns.media, nested.spec.input.columns.bytes) = ("image.path".into(), "image.bytes".into());
    check(nested);
    let fixed = FixedSizeBinaryArray::try_from_iter([b"GIF", b"PNG"].into_iter()).expect("of one length");
    let rows = table(&[("bytes", Arc::new(fixed))]).read_all(2);
    let png = MediaPlace::Bytes(b"PNG".to_vec());
    assert_eq!(rows[1].item, Ok(Item::Media { place: png, question: None }));
}

#[test]
fn a_cell_that_is_no_text_or_too_long_fails_alone() {
    let cells: Vec<&[u8]> = vec![b"red", b"r\xE9d", b"blue", b"longer than that"];
    let mut place = table(&[("text", Arc::new(BinaryArray::from(cells)))]);
    place.settings.text.bytes_max = 10;
    let rows = place.read_all(4);
    let expected = [
        (0, "0", "red"),
        (1, "1", "text: is no UTF-8 from byte 1 on"),
        (2, "2", "blue"),
        (3, "3", "text: has 16 bytes, at most 10"),
    ];
    assert_eq!(texts(&rows), expected);
    assert!(rows.iter().filter_map(|row| row.item.as_ref().err()).all(|failure| failure.code == Code::InvalidArgument));
}

#[test]
fn ranges_of_rows_are_found_in_any_layout_of_pages() {
    let words: Vec<String> = (0..2000).map(|at| format!("word {}", at * 7919 % 1000)).collect();
    let column: ArrayRef = Arc::new(StringArray::from(words.clone()));
    let zstd = Compression::ZSTD(ZstdLevel::try_new(3).expect("a level"));
    for (rows_a_group, rows_a_page, dictionary, compression) in [
        (1 << 20, 50, true, Compression::SNAPPY),
        (700, 64, false, zstd),
        (1, 1, false, Compression::UNCOMPRESSED),
        (1024, 1 << 20, true, Compression::LZ4_RAW),
    ] {
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(rows_a_group))
            .set_data_page_row_count_limit(rows_a_page)
            .set_write_batch_size(rows_a_page.min(1024))
            .set_dictionary_enabled(dictionary)
            .set_compression(compression)
            .build();
        let file = table_with(&[("text", column.clone())], properties);
        let mut place = Place::new(InputKind::Parquet, "in.parquet", &file);
        for rows_a_part in [37, 256, 701, 5000] {
            let rows = place.read_all(rows_a_part);
            assert!(texts(&rows).iter().map(|(_, _, text)| *text).eq(words.iter()), "{rows_a_group}, {rows_a_part}");
        }
    }
}

#[test]
fn what_is_no_table_or_another_one_is_told() {
    let words = |word: &str| -> ArrayRef { Arc::new(StringArray::from(vec![word; 5])) };
    let fault = |place: &Place| match place.plan() {
        Err(Fault::Broken(told)) => told,
        other => panic!("{other:?}"),
    };
    let numbers: ArrayRef = Arc::new(Float32Array::from(vec![1.0; 5]));
    let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1)]); 5]));
    for (columns, problem) in [
        (
            vec![("a", words("x")), ("b", numbers.clone())],
            "has the columns a, b; must have one of text, media and bytes",
        ),
        (vec![("text", numbers.clone())], "column text holds FLOAT, must hold texts or bytes"),
        (vec![("text", words("x")), ("id", numbers)], "column id holds FLOAT, must hold texts or whole numbers"),
        (vec![("text", lists)], "has the columns text.list.item; must have one of text, media and bytes"),
    ] {
        let told = fault(&table(&columns));
        assert!(told.ends_with(problem), "{told}");
    }
    let sound = std::fs::read(table(&[("text", words("red"))]).input()).expect("readable");
    for (file, problem) in [
        (&b""[..], "is no Parquet table: it has 0 bytes"),
        (b"{\"text\": \"red\"}", "must end with \"PAR1\""),
        (b"\xFF\xFF\xFF\xFFPAR1", "has a footer of 4294967295 bytes in 8, at most 67108864"),
        (b"PAR1\x00\x00\x00\x00PAR1", "is no Parquet table: "),
        (&sound[..sound.len() - 1], "must end with \"PAR1\""),
    ] {
        let told = fault(&Place::new(InputKind::Parquet, "in.parquet", file));
        assert!(told.contains(problem), "{told}");
    }

    let place = table(&[("text", words("red"))]);
    let (shards, rows) = place.plan().expect("a plan");
    assert_eq!((shards.len(), rows), (1, 5));
    std::fs::write(place.input(), std::fs::read(table(&[("text", words("blue"))]).input()).expect("read"))
        .expect("written");
    let told = place.read(&shards[0]).expect_err("another table").to_string();
    assert!(told.contains("has changed since it was planned: SHA-256 of its footer was"), "{told}");
    let mut few = table(&[("text", words("red"))]);
    (few.settings.jobs.shards_max, few.spec.output.rows_a_part) = (2, 2);
    assert!(fault(&few).ends_with("has 3 shards of 2 rows, at most 2: output.rows_a_part must be larger"));
}

#[test]
fn any_byte_changed_gives_rows_or_a_fault() {
    let words: Vec<String> = (0..40).map(|at| format!("word {at}")).collect();
    let sound = table_with(&[("text", Arc::new(StringArray::from(words)))], WriterProperties::default());
    let (mut read, mut refused) = (0, 0);
    for at in 0..sound.len() {
        let mut file = sound.clone();
        file[at] ^= 1 << (at % 8);
        let mut place = Place::new(InputKind::Parquet, "in.parquet", &file);
        place.spec.output.rows_a_part = 16;
        let rows = place.plan().and_then(|(shards, _)| {
            shards.iter().take(8).try_fold(0, |rows, shard| Ok(rows + place.read(shard)?.len()))
        });
        match rows {
            Ok(_) => read += 1,
            Err(Fault::Broken(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}
