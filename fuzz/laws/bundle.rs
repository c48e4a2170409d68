//! Bundles: one file of a sound bundle is replaced by any bytes. It is refused with a line that a person can use, or it
//! loads, and then it answers.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use vljepa::input::{Frame, Sampling};
use vljepa::model::bundle::{Bundle, BundleError};
use vljepa::model::vl_jepa::{Scene, VlJepa};

use crate::tiny;

/// The files, in the order that a law's first byte picks them in.
pub const FILES: [&str; 7] = [
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "vision/model.safetensors",
    "predictor/model.safetensors",
    "text/model.safetensors",
    "decoder/model.safetensors",
];

/// Puts all but the first byte in place of the file which that one picks, and loads the bundle.
pub fn bundle(bytes: &[u8]) {
    static ROOT: OnceLock<Mutex<tempfile::TempDir>> = OnceLock::new();
    let [picked, replacement @ ..] = bytes else { return };
    let root = ROOT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        tiny::bundle(folder.path(), tiny::BERT);
        Mutex::new(folder)
    });
    let root = root.lock().expect("a law that did not hold ends the process");
    let path = root.path().join(FILES[usize::from(*picked) % FILES.len()]);
    let sound = std::fs::read(&path).expect("readable");
    std::fs::write(&path, replacement).expect("writable");
    if let Err(error) = answer(root.path()) {
        let told = error.to_string();
        assert!(!told.is_empty() && told.len() < 1 << 16, "{} bytes of message", told.len());
    }
    std::fs::write(&path, sound).expect("writable");
}

/// Weights may be any numbers, so what is answered may be too; that it is answered is the law.
fn answer(root: &Path) -> Result<(), BundleError> {
    let opened = Bundle::open(root)?;
    let (model, preprocessor) = (VlJepa::load(&opened)?, opened.preprocessor()?);
    let frame = |pts_ms| Frame { width: 20, height: 10, rgb: vec![pts_ms as u8; 600], pts_ms };
    let Ok(clip) = preprocessor.clip(&[0, 40, 80, 120].map(frame), &Sampling::default()) else { return Ok(()) };
    let Ok(seen) = model.see(&[Arc::new(clip)]) else { return Ok(()) };
    let Ok(question) = model.tokenize_question("word1 word2") else { return Ok(()) };
    let scenes: Vec<Scene> = seen.into_iter().map(|visual| Scene { visual, question: question.clone() }).collect();
    if let Ok(embeddings) = model.predict(&scenes) {
        assert_eq!(embeddings.len(), 1);
    }
    Ok(())
}
