//! Strings become tokens and back, by a tokenizer.json.
//!
//! The file's own truncation and padding are switched off: published files carry the settings of someone's
//! training run (MiniLM's: 128 and 128), while here the caller says how many tokens fit and nothing is padded.
//! [`word_level`] writes the tokenizer of our own bundles.

use std::path::Path;

use serde_json::json;
use tokenizers::{PostProcessor, TruncationDirection};

use super::InputError;

/// Tokens of one text, special tokens of the file's template included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tokens {
    /// Rows of the embedding table.
    pub ids: Vec<u32>,
    /// Whether the text's end was cut off.
    pub truncated: bool,
}

/// A tokenizer.json, ready to use from any thread.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

/// The most that the settings may allow for one text; here so that no caller can forget it.
const TEXT_BYTES_MAX: usize = 1 << 24;

fn broken(file: &str, reason: impl ToString) -> InputError {
    InputError::File { file: file.into(), reason: reason.to_string() }
}

impl Tokenizer {
    /// Reads a tokenizer.json.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| broken(&file, error))?;
        Self::read(&bytes, &file)
    }

    /// Reads the contents of a tokenizer.json.
    pub fn parse(json: &[u8]) -> Result<Self, InputError> {
        Self::read(json, "tokenizer.json")
    }

    fn read(json: &[u8], file: &str) -> Result<Self, InputError> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|error| broken(file, error))?;
        inner.with_truncation(None).map_err(|error| broken(file, error))?;
        inner.with_padding(None);
        // "<eos>" written by a user is five characters, not the end of the sequence.
        inner.set_encode_special_tokens(true);
        Ok(Self { inner })
    }

    /// At most `tokens_max` tokens of a text; the text's end gives way, the template's special tokens stay.
    /// Fails when these alone do not fit.
    pub fn encode(&self, text: &str, tokens_max: usize) -> Result<Tokens, InputError> {
        if text.len() > TEXT_BYTES_MAX {
            let max = TEXT_BYTES_MAX as u64;
            return Err(InputError::TooLarge { field: "text bytes", value: text.len().to_string(), max });
        }
        let special = self.inner.get_post_processor().map_or(0, |template| template.added_tokens(false));
        let Some(room) = tokens_max.checked_sub(special) else {
            let bound = format!("at least {special}, the special tokens of tokenizer.json");
            return Err(InputError::Field { field: "tokens_max", value: tokens_max.to_string(), bound });
        };
        let unusable = |error| broken("tokenizer.json", format!("cannot encode this text: {error}"));
        let mut encoding = self.inner.encode_fast(text, false).map_err(unusable)?;
        let truncated = encoding.len() > room;
        if truncated {
            encoding.truncate(room, 0, TruncationDirection::Right);
        }
        let encoding = self.inner.post_process(encoding, None, true).map_err(unusable)?;
        Ok(Tokens { ids: encoding.get_ids().to_vec(), truncated })
    }

    /// The text of tokens, special ones left out. Where the file's decoder fails on them, the tokens' own
    /// spellings, a space between.
    pub fn decode(&self, ids: &[u32]) -> String {
        let spelled = |_| ids.iter().filter_map(|&id| self.inner.id_to_token(id)).collect::<Vec<_>>().join(" ");
        self.inner.decode(ids, true).unwrap_or_else(spelled)
    }

    /// The id of a token, "[BOS]" for example.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Rows an embedding table needs: the greatest id, and one.
    pub fn rows(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }
}

/// Special tokens of [`word_level`], at the ids of their places.
const SPECIAL: [&str; 4] = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"];

/// The bytes of a tokenizer.json that takes lower-cased words and single punctuation marks apart and knows
/// `vocabulary`, whose first word has id 4; before it \[PAD\] 0, \[UNK\] 1, \[BOS\] 2, \[EOS\] 3. It adds no
/// special tokens itself. Fails on a word that such a tokenizer would never see: empty, twice, with a capital.
pub fn word_level(vocabulary: &[String]) -> Result<Vec<u8>, InputError> {
    let words = || SPECIAL.into_iter().chain(vocabulary.iter().map(String::as_str));
    let ids: serde_json::Map<_, _> = words().zip(0..).map(|(word, id)| (word.to_owned(), json!(id))).collect();
    let added = |(id, content)| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": SPECIAL.into_iter().enumerate().map(added).collect::<Vec<_>>(),
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": null,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": SPECIAL[1]},
    });
    let bytes = file.to_string().into_bytes();
    let tokenizer = Tokenizer::parse(&bytes)?;
    for (word, id) in vocabulary.iter().zip(SPECIAL.len() as u32..) {
        if tokenizer.encode(word, usize::MAX)?.ids != [id] {
            let bound = "one lower-case word or punctuation mark that stands there once".into();
            return Err(InputError::Field { field: "vocabulary", value: format!("{word:?}"), bound });
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Tokenizer {
        let words = ["is", "the", "circle", "red", "?", "left", "."].map(String::from);
        Tokenizer::parse(&word_level(&words).expect("seven words")).expect("as written")
    }

    fn ids(text: &str) -> Vec<u32> {
        small().encode(text, 16).expect("fits").ids
    }

    #[test]
    fn words_and_punctuation_stand_alone() {
        assert_eq!(ids("Is the  circle RED?"), [4, 5, 6, 7, 8]);
        assert_eq!(ids("the triangle."), [5, 1, 10]);
        assert!(ids(" \n").is_empty());
        assert_eq!(small().decode(&[2, 5, 6, 4, 7, 10, 3, 0]), "the circle is red.");
        assert_eq!(small().decode(&[]), "");
        assert_eq!((small().rows(), small().id("[EOS]"), small().id("blue")), (11, Some(3), None));
    }

    #[test]
    fn a_user_cannot_write_a_special_token() {
        assert!(ids("red [EOS] [PAD]").iter().all(|&id| id == 7 || id == 1), "{:?}", ids("red [EOS] [PAD]"));
    }

    #[test]
    fn the_end_gives_way_to_the_bound() {
        let cut = small().encode("is the circle red ?", 3).expect("three fit");
        assert_eq!(cut, Tokens { ids: vec![4, 5, 6], truncated: true });
        let whole = small().encode("is the circle", 3).expect("three fit");
        assert_eq!(whole, Tokens { ids: vec![4, 5, 6], truncated: false });
        assert!(small().encode(&"a".repeat(TEXT_BYTES_MAX + 1), 3).is_err());
    }

    #[test]
    fn a_word_that_cannot_be_met_is_refused() {
        for wrong in [&["red", "red"][..], &[""], &["Red"], &["two words"], &["isn't"], &["[UNK]"]] {
            let words: Vec<String> = wrong.iter().map(|word| word.to_string()).collect();
            let error = word_level(&words).expect_err("never met").to_string();
            assert!(error.starts_with("vocabulary is \""), "{error}");
        }
    }
}
