//! What a row of any input says, and the rules by which it becomes something to embed, or the reason why it does not.
//! Lines and tables differ in how they are read; what counts as a row is the same, and stands here.

use std::path::PathBuf;

use crate::engine::{Code, shortened};
use crate::jobs::{Columns, Failure, Item, MediaPlace, Row, Spec};
use crate::settings::Settings;

/// What a row says; what is absent and what is null is none.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub id: Option<String>,
    pub text: Option<String>,
    pub media: Option<String>,
    pub bytes: Option<Vec<u8>>,
    pub question: Option<String>,
}

/// By which rules rows are read.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub columns: Columns,
    /// Where paths of media begin.
    pub directory: PathBuf,
    /// Dimensions of the job's embeddings, if it says so.
    pub dimensions: Option<usize>,
    pub line_bytes_max: usize,
    pub footer_bytes_max: u64,
    asks: bool,
    text_bytes_max: usize,
    media_bytes_max: usize,
}

impl Rules {
    pub fn new(spec: &Spec, settings: &Settings, directory: PathBuf) -> Self {
        Self {
            columns: spec.input.columns.clone(),
            directory,
            dimensions: spec.vectors.dimensions,
            line_bytes_max: settings.jobs.line_bytes_max,
            footer_bytes_max: settings.jobs.footer_bytes_max,
            asks: spec.question.is_some(),
            text_bytes_max: settings.text.bytes_max,
            media_bytes_max: settings.media.bytes_max,
        }
    }

    /// The row of that number that says `fields`.
    pub fn row(&self, number: u64, mut fields: Fields) -> Row {
        let id = fields.id.take().unwrap_or_else(|| number.to_string());
        Row { number, id, item: self.item(fields) }
    }

    /// The row of that number that cannot be read.
    pub fn unreadable(&self, number: u64, id: Option<String>, failure: Failure) -> Row {
        Row { number, id: id.unwrap_or_else(|| number.to_string()), item: Err(failure) }
    }

    fn item(&self, fields: Fields) -> Result<Item, Failure> {
        let Columns { text, media, bytes, question, .. } = &self.columns;
        let found = [(text, fields.text.is_some()), (media, fields.media.is_some()), (bytes, fields.bytes.is_some())];
        let given: Vec<&str> = found.iter().filter(|(_, given)| *given).map(|(name, _)| name.as_str()).collect();
        match given[..] {
            [_] => {}
            [] => return Err(invalid("row", &format!("has none of {text}, {media} and {bytes}, must have one"))),
            [..] => return Err(invalid("row", &format!("has {}, must have one of them", given.join(" and ")))),
        }
        if let Some(words) = fields.text {
            check_length(text, words.len(), self.text_bytes_max)?;
            return Ok(Item::Text(words));
        }
        match &fields.question {
            Some(words) => check_length(question, words.len(), self.text_bytes_max)?,
            None if self.asks => {}
            None => return Err(invalid(question, "is missing, and the job has none for all rows")),
        }
        let place = match (fields.bytes, fields.media) {
            (Some(content), _) => {
                check_length(bytes, content.len(), self.media_bytes_max)?;
                MediaPlace::Bytes(content)
            }
            (None, path) => MediaPlace::File(self.directory.join(path.unwrap_or_default())),
        };
        Ok(Item::Media { place, question: fields.question })
    }
}

fn check_length(field: &str, length: usize, bytes_max: usize) -> Result<(), Failure> {
    match length <= bytes_max {
        true => Ok(()),
        false => Err(invalid(field, &format!("has {length} bytes, at most {bytes_max}"))),
    }
}

/// A fault of a row.
pub(super) fn invalid(field: &str, problem: &str) -> Failure {
    Failure { code: Code::InvalidArgument, message: format!("{}: {problem}", shortened(field)) }
}
