//! Lines of a job's input: any bytes are nothing, a row, or a row that fails with a message that a client can take.

use std::sync::OnceLock;

use vljepa::engine::Code;
use vljepa::jobs::inputs::row_of_line;
use vljepa::jobs::{Input, InputKind, Item, MediaPlace, Output, Spec, Vectors};
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
    let vectors = Vectors { dimensions: Some(8), ..Vectors::default() };
    let spec = Spec::new(Input::new("/in/in.jsonl", InputKind::Jsonl), Output::new("/out"));
    Spec { question: Some("what?".into()), vectors, ..spec }
}
