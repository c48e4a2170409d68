//! Requests: bytes that are a message of any kind are taken or refused with a status that a client can receive and that
//! names what is wrong, and nothing is asked of the model.

use std::sync::OnceLock;

use vljepa::engine::{Engine, Models};
use vljepa::model::vl_jepa::VlJepa;
use vljepa::service::{Refusal, refusals};
use vljepa::settings::Settings;

use crate::tiny;

/// What every client takes in the headers of a response; the status with its details is there.
const HEADER_BYTES_MAX: usize = 8 << 10;

/// Reads `bytes` as every kind of request.
pub fn convert(bytes: &[u8]) {
    static MODELS: OnceLock<Models> = OnceLock::new();
    let models = MODELS.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let model = VlJepa::load(&tiny::bundle(folder.path(), tiny::BERT)).expect("a model");
        let (engine, thread) = Engine::start(model, Settings::default()).expect("a thread");
        let models = Models::new(Settings::default());
        models.add("tiny", engine, thread).expect("the first");
        models
    });
    for Refusal { code, message, fields, header_bytes } in refusals(bytes, models) {
        assert!(!message.is_empty() && header_bytes < HEADER_BYTES_MAX, "{code}, {header_bytes} bytes: {message}");
        match code {
            // INVALID_ARGUMENT names a field; NOT_FOUND is an upload.
            3 => assert!(!fields.is_empty() && fields.iter().all(|field| !field.is_empty()), "{message}"),
            5 => assert!(message.contains("upload"), "{message}"),
            _ => panic!("{code}: {message}"),
        }
    }
}
