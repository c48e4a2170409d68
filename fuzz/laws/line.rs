//! Lines of a job's input: any bytes are nothing, a row, or a row that fails with a message that a client can take.

use std::sync::OnceLock;

use vljepa::engine::Code;
use vljepa::jobs::inputs::row_of_line;
use vljepa::jobs::{Format, Input, InputKind, Item, MediaPlace, Output, OutputDtype, Rank, Spec, Vectors};
use vljepa::settings::Settings;

/// Reads `bytes` as a line.
pub fn line(bytes: &[u8]) {
    static JOB: OnceLock<(Spec, Settings)> = OnceLock::new();
    let (spec, settings) = JOB.get_or_init(|| {
        let mut settings = Settings::default();
        settings.text.bytes_max = 100;
        (spec(), settings)
    });
    let number = bytes.len() as u64 % 3;
    let Some(row) = row_of_line(bytes, number, spec, settings) else {
        let content = if number == 0 { bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes) } else { bytes };
        assert!(content.trim_ascii().is_empty(), "something was in it");
        return;
    };
    assert_eq!(row.number, number);
    match row.item {
        Ok(Item::Text(text)) => assert!(text.len() <= settings.text.bytes_max, "{} bytes of text", text.len()),
        Ok(Item::Media { place: MediaPlace::File(path), question }) => {
            assert!(path.is_absolute(), "{path:?}");
            assert!(question.is_none_or(|question| question.len() <= settings.text.bytes_max));
        }
        Ok(Item::Media { place: MediaPlace::Bytes(_), .. }) => panic!("a line has no bytes of media"),
        Err(failure) => {
            assert_eq!(failure.code, Code::InvalidArgument);
            assert!((1..1000).contains(&failure.message.len()), "{} bytes of message", failure.message.len());
        }
    }
}

fn spec() -> Spec {
    Spec {
        model: "tiny".into(),
        input: Input::new("/in/in.jsonl", InputKind::Jsonl),
        output: Output { location: "/out".into(), format: Format::Jsonl, rows_a_part: 10 },
        question: Some("what?".into()),
        candidates: vec![],
        segments: None,
        vectors: Vectors { dimensions: Some(8), normalize: true, dtype: OutputDtype::F32 },
        errors_max: None,
        item_ms_max: 60_000,
        rank: Rank::Normal,
    }
}
