//! One line of JSON and the row that it is: an object with the names of the job's columns, or a line of OpenAI's batch
//! format for embeddings. Fields of other names are passed over; a field of a wrong type fails its row alone.

use serde_json::{Map, Value};

use super::fields::{Fields, Rules, invalid};
use crate::engine::shortened;
use crate::jobs::{Failure, Row};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
const BATCH_URL: &str = "/v1/embeddings";

/// The row of a line, without its line feed; none where there is nothing in it.
pub(super) fn row(line: &[u8], number: u64, rules: &Rules) -> Option<Row> {
    let line = if number == 0 { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) } else { line };
    let line = line.trim_ascii();
    if line.is_empty() {
        return None;
    }
    Some(match serde_json::from_slice(line) {
        Ok(Value::Object(object)) => of_object(&object, number, rules),
        Ok(other) => {
            rules.unreadable(number, None, invalid("line", &format!("is {}, must be an object", kind(&other))))
        }
        Err(error) => rules.unreadable(number, None, invalid("line", &broken(&error))),
    })
}

/// What is wrong with JSON, without the number of a line, which is always the first.
fn broken(error: &serde_json::Error) -> String {
    let told = error.to_string();
    let problem = told.split(" at line ").next().unwrap_or_default();
    format!("is no JSON: {problem} at byte {}", error.column())
}

fn of_object(object: &Map<String, Value>, number: u64, rules: &Rules) -> Row {
    let columns = &rules.columns;
    let is_batch =
        object.contains_key("body") && !object.contains_key(&columns.text) && !object.contains_key(&columns.media);
    let name = if is_batch { "custom_id" } else { &columns.id };
    let id = match id(object, name) {
        Ok(id) => id,
        Err(failure) => return rules.unreadable(number, None, failure),
    };
    let fields = match is_batch {
        true => batch_text(object, rules).map(|text| Fields { text: Some(text), ..Fields::default() }),
        false => fields(object, rules),
    };
    match fields {
        Ok(fields) => rules.row(number, Fields { id, ..fields }),
        Err(failure) => rules.unreadable(number, id, failure),
    }
}

fn id(object: &Map<String, Value>, name: &str) -> Result<Option<String>, Failure> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) => Ok(Some(id.clone())),
        Some(Value::Number(id)) if !id.is_f64() => Ok(Some(id.to_string())),
        Some(other) => Err(wrong(name, other, "a text or a whole number")),
    }
}

fn fields(object: &Map<String, Value>, rules: &Rules) -> Result<Fields, Failure> {
    let columns = &rules.columns;
    Ok(Fields {
        text: text(object, &columns.text)?,
        media: text(object, &columns.media)?,
        question: text(object, &columns.question)?,
        ..Fields::default()
    })
}

fn text(object: &Map<String, Value>, name: &str) -> Result<Option<String>, Failure> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong(name, other, "a text")),
    }
}

/// The text of a line as OpenAI's batches have it. Its model is passed over: a job has one. A list of several texts
/// would be several rows of one name, so each wants a line of its own.
fn batch_text(object: &Map<String, Value>, rules: &Rules) -> Result<String, Failure> {
    for (field, expected) in [("method", "POST"), ("url", BATCH_URL)] {
        match object.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(value)) if value == expected => {}
            Some(other) => return Err(wrong(field, other, &format!("{expected:?}"))),
        }
    }
    let body = match object.get("body") {
        Some(Value::Object(body)) => body,
        other => return Err(wrong("body", other.unwrap_or(&Value::Null), "an object")),
    };
    match body.get("dimensions") {
        None | Some(Value::Null) => {}
        Some(value) if value.as_u64().is_some_and(|asked| rules.dimensions == usize::try_from(asked).ok()) => {}
        Some(other) => {
            let job = rules.dimensions.map_or("the job does not shorten".into(), |all| format!("the job's is {all}"));
            return Err(invalid("body.dimensions", &format!("is {}, {job}", shown(other))));
        }
    }
    let input = match body.get("input") {
        Some(Value::Array(inputs)) if inputs.len() == 1 => &inputs[0],
        Some(Value::Array(inputs)) => {
            let problem = format!("has {} items, must have one: each text wants a line of its own", inputs.len());
            return Err(invalid("body.input", &problem));
        }
        other => other.unwrap_or(&Value::Null),
    };
    match input {
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong("body.input", other, "a text or a list of one text")),
    }
}

fn wrong(field: &str, value: &Value, expected: &str) -> Failure {
    invalid(field, &format!("is {}, must be {expected}", shown(value)))
}

/// A value as messages show it, however long it is.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => kind(value).into(),
        Value::String(text) => format!("{:?}", shortened(text)),
        other => shortened(&other.to_string()),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::inputs::tests::spec;
    use crate::jobs::{InputKind, Item, MediaPlace, Spec};
    use crate::settings::Settings;

    fn rules(set: impl FnOnce(&mut Spec)) -> Rules {
        let mut spec = spec(InputKind::Jsonl, "unused");
        set(&mut spec);
        let mut settings = Settings::default();
        settings.text.bytes_max = 20;
        Rules::new(&spec, &settings, "/in".into())
    }

    #[test]
    fn what_is_a_row() {
        let text = |text: &str| Item::Text(text.into());
        let media = |path: &str, question: Option<&str>| Item::Media {
            place: MediaPlace::File(path.into()),
            question: question.map(String::from),
        };
        for (line, id, item) in [
            (r#"{"text": "red"}"#, "7", text("red")),
            ("\t{\"text\":\"red\",\"id\":\"a\"}\r", "a", text("red")),
            (r#"{"text": "", "id": ""}"#, "", text("")),
            (r#"{"id": 12, "text": "red", "media": null, "other": [1, {"x": 2}]}"#, "12", text("red")),
            (r#"{"id": -18446744073709551615, "text": "twenty bytes, no more"}"#, "", text("")),
            (r#"{"id": null, "text": "r\u00e9d"}"#, "7", text("réd")),
            (r#"{"media": "a/b.gif"}"#, "7", media("/in/a/b.gif", None)),
            (r#"{"media": "/x.gif", "question": "what?"}"#, "7", media("/x.gif", Some("what?"))),
            (
                r#"{"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {"input": "red"}}"#,
                "c",
                text("red"),
            ),
            (r#"{"custom_id": "c", "body": {"input": ["red"], "model": "m", "dimensions": 8}}"#, "c", text("red")),
            (r#"{"body": {"input": "no"}, "text": "red", "id": "mine"}"#, "mine", text("red")),
        ] {
            let row = row(line.as_bytes(), 7, &rules(|_| {})).expect("something is in it");
            if line.contains("twenty") {
                assert!(row.item.is_err(), "{line}");
                continue;
            }
            assert_eq!((row.number, row.id.as_str(), row.item), (7, id, Ok(item)), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_row_is_said_with_field_value_and_bound() {
        for (line, id, message) in [
            ("red", "7", "line: is no JSON: expected value at byte 1"),
            ("{\"text\": \"red\"", "7", "line: is no JSON: EOF while parsing an object at byte 14"),
            ("{\"text\": \"red\"} {}", "7", "line: is no JSON: trailing characters at byte 17"),
            ("[1]", "7", "line: is a list, must be an object"),
            ("7", "7", "line: is a number, must be an object"),
            ("{}", "7", "row: has none of text, media and bytes, must have one"),
            (r#"{"id": "a"}"#, "a", "row: has none of text, media and bytes, must have one"),
            (r#"{"id": "a", "text": "b", "media": "c"}"#, "a", "row: has text and media, must have one of them"),
            (r#"{"id": true, "text": "b"}"#, "7", "id: is true, must be a text or a whole number"),
            (r#"{"id": 1.5, "text": "b"}"#, "7", "id: is 1.5, must be a text or a whole number"),
            (r#"{"id": "a", "text": 3}"#, "a", "text: is 3, must be a text"),
            (r#"{"id": "a", "text": ["b"]}"#, "a", "text: is a list, must be a text"),
            (r#"{"id": "a", "media": {}}"#, "a", "media: is an object, must be a text"),
            (r#"{"media": "a.gif", "question": 1}"#, "7", "question: is 1, must be a text"),
            (r#"{"text": "twenty-one bytes long"}"#, "7", "text: has 21 bytes, at most 20"),
            (r#"{"custom_id": "c", "body": []}"#, "c", "body: is a list, must be an object"),
            (r#"{"custom_id": "c", "body": {}}"#, "c", "body.input: is null, must be a text or a list of one text"),
            (
                r#"{"custom_id": "c", "body": {"input": ["a", "b"]}}"#,
                "c",
                "body.input: has 2 items, must have one: each text wants a line of its own",
            ),
            (
                r#"{"custom_id": "c", "body": {"input": [[1, 2]]}}"#,
                "c",
                "body.input: is a list, must be a text or a list of one text",
            ),
            (
                r#"{"custom_id": "c", "body": {"input": "a", "dimensions": 9}}"#,
                "c",
                "body.dimensions: is 9, the job's is 8",
            ),
            (
                r#"{"custom_id": "c", "url": "/v1/chat/completions", "body": {}}"#,
                "c",
                r#"url: is "/v1/chat/completions", must be "/v1/embeddings""#,
            ),
            (r#"{"custom_id": "c", "method": "GET", "body": {}}"#, "c", r#"method: is "GET", must be "POST""#),
        ] {
            let row = row(line.as_bytes(), 7, &rules(|_| {})).expect("something is in it");
            let failure = row.item.expect_err(line);
            assert_eq!((row.id.as_str(), failure.message.as_str()), (id, message), "{line}");
        }
        let asks_nothing = rules(|spec| spec.question = None);
        let row = row(br#"{"media": "a.gif"}"#, 7, &asks_nothing).expect("something is in it");
        assert_eq!(
            row.item.expect_err("no question").message,
            "question: is missing, and the job has none for all rows"
        );
    }

    #[test]
    fn a_mark_at_the_beginning_of_a_file_is_no_content_and_blanks_are_nothing() {
        let rules = rules(|_| {});
        let line = b"\xEF\xBB\xBF{\"text\": \"red\"}";
        assert!(row(line, 0, &rules).is_some_and(|row| row.item.is_ok()));
        assert!(row(line, 1, &rules).is_some_and(|row| row.item.is_err()), "only there");
        for nothing in [&b""[..], b"\r", b" \t ", b"\xEF\xBB\xBF"] {
            assert_eq!(row(nothing, 0, &rules), None, "{nothing:?}");
        }
        let latin = row(b"{\"text\": \"r\xE9d\"}", 3, &rules).expect("something is in it");
        assert!(latin.item.expect_err("no UTF-8").message.starts_with("line: is no JSON: invalid unicode"));
        let deep = row("[".repeat(100_000).as_bytes(), 3, &rules).expect("something is in it");
        assert!(deep.item.is_err());
    }

    #[test]
    fn columns_have_the_names_that_the_job_gives_them() {
        let rules = rules(|spec| {
            let columns = &mut spec.input.columns;
            (columns.id, columns.text) = ("key".into(), "body".into());
        });
        let row = row(br#"{"key": "k", "body": "red", "id": "other", "text": 5}"#, 0, &rules).expect("a row");
        assert_eq!((row.id.as_str(), row.item), ("k", Ok(Item::Text("red".into()))));
    }

    #[test]
    fn messages_stay_short_whatever_is_in_the_row() {
        let long = "x".repeat(100_000);
        for line in [format!(r#"{{"id": ["{long}"]}}"#), format!(r#"{{"body": {{}}, "url": "{long}"}}"#)] {
            let failure = row(line.as_bytes(), 0, &rules(|_| {})).expect("a row").item.expect_err("wrong");
            assert!(failure.message.len() < 200, "{} bytes", failure.message.len());
        }
    }
}
