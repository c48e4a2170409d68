//! Models whose sizes are known while their weights are not at hand: for measuring what they would cost here.
//!
//! `vl-jepa-1.6b` has the published sizes of VL-JEPA (V-JEPA 2 ViT-L; the last 8 of the 16 layers of Llama-3.2-1B, here
//! ternary; EmbeddingGemma-300M; arXiv 2512.10942). Its decoder is not published: 12 ternary layers of 768 are our
//! choice. `world-small` has those of the model inside this program.

use super::bundle::{Bundle, BundleError};
use super::config::VlJepaConfig;

/// The presets' names.
pub const NAMES: [&str; 2] = ["vl-jepa-1.6b", "world-small"];

/// The sizes of a preset; None unless it is one of [`NAMES`].
pub fn config(name: &str) -> Option<Result<VlJepaConfig, BundleError>> {
    match name {
        "vl-jepa-1.6b" => Some(published(include_str!("presets/vl-jepa-1.6b.json"))),
        "world-small" => Some(Bundle::bundled().map(|bundle| bundle.config)),
        _ => None,
    }
}

fn published(json: &str) -> Result<VlJepaConfig, BundleError> {
    VlJepaConfig::parse(json).map_err(|source| BundleError::Config { file: "preset".into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_model_and_no_other_is() {
        for name in NAMES {
            let config = config(name).expect("a preset").expect("a sound config");
            assert_eq!(config.name, name);
        }
        assert!(config("vl-jepa-9b").is_none());
    }
}
