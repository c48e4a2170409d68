//! A bundle: one directory (or one table inside the program) with everything a model needs. `config.json` with one
//! sub-config a part, `vision/`, `predictor/`, `text/` and `decoder/` with safetensors under published names,
//! `tokenizer.json` (a part's folder may hold its own), `preprocessor_config.json` and a model card. Opening reads the
//! small files and reports all that is missing at once; weights are mapped when a model is loaded.

use super::config::{ConfigError, VlJepaConfig};
use super::files::{Embedded, Files};
use super::precision::Precisions;
use super::text::modules;
use crate::embedding::Space;
use crate::input::InputError;
use crate::input::Preprocessor;
use crate::input::Tokenizer;
use crate::nn::linear::Dense;
use crate::nn::weights::{Mode, Weights, WeightsError};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file that cannot be read or written.
    #[error("{file}: {source}")]
    File {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Files that are not there.
    #[error("{}: missing {}", root.display(), names.join(", "))]
    Missing {
        /// The directory.
        root: PathBuf,
        /// All names that were looked for in vain.
        names: Vec<String>,
    },
    /// A config that cannot be used.
    #[error("{file}: {source}")]
    Config {
        /// The file.
        file: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// A tokenizer or preprocessor that cannot be used.
    #[error("{file}: {source}")]
    Input {
        /// The file.
        file: String,
        /// What is wrong.
        source: InputError,
    },
    /// A weights file that cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Names, shapes and relations that do not hold, over all parts.
    #[error("{} fault(s) in the bundle:\n  {}", .0.len(), .0.join("\n  "))]
    Faults(Vec<String>),
    /// A weight that cannot be written.
    #[error("{tensor}: {what}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong with it.
        what: String,
    },
}

/// Names and bytes of files under `fixtures/bundles/world-small`.
macro_rules! embedded {
    ($($file:literal),* $(,)?) => {
        &[$(($file, include_bytes!(concat!("../../fixtures/bundles/world-small/", $file)))),*]
    };
}

/// The files of the bundled model. Each part is one file: embedded bundles have no shards.
static BUNDLED: Embedded = embedded![
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "README.md",
    "vision/model.safetensors",
    "predictor/model.safetensors",
    "text/model.safetensors",
    "decoder/model.safetensors",
];

/// A part of the model, by its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The vision encoder.
    Vision,
    /// The predictor.
    Predictor,
    /// The text encoder.
    Text,
    /// The decoder.
    Decoder,
}

impl Part {
    /// All parts, in the order of a forward pass.
    pub const ALL: [Part; 4] = [Part::Vision, Part::Predictor, Part::Text, Part::Decoder];

    /// Its folder and its key in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Part::Vision => "vision",
            Part::Predictor => "predictor",
            Part::Text => "text",
            Part::Decoder => "decoder",
        }
    }

    /// The paper's name of the folder, read too.
    fn other_name(self) -> &'static str {
        match self {
            Part::Vision => "x_encoder",
            Part::Predictor => "predictor",
            Part::Text => "y_encoder",
            Part::Decoder => "y_decoder",
        }
    }
}

/// An opened bundle.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// `config.json`.
    pub config: VlJepaConfig,
    /// The model's name: the config's, or the directory's.
    pub name: String,
    files: Files,
}

impl Bundle {
    /// Opens a directory.
    pub fn open(root: &Path) -> Result<Bundle, BundleError> {
        Bundle::from_files(Files::Directory(root.to_path_buf()))
    }

    /// The model inside this program.
    pub fn bundled() -> Result<Bundle, BundleError> {
        Bundle::from_files(Files::Embedded(BUNDLED))
    }

    fn from_files(files: Files) -> Result<Bundle, BundleError> {
        let root = files.root().map(Path::to_path_buf).unwrap_or_default();
        let absent = |names| Err(BundleError::Missing { root: root.clone(), names });
        if !files.has("config.json") {
            return absent(vec!["config.json".into()]);
        }
        let bundle = Bundle::read_config(files)?;
        bundle.check_modules()?;
        let mut names: Vec<String> = Vec::new();
        for part in bundle.parts() {
            if bundle.weight_files(part)?.is_empty() {
                names.push(format!("{}/model.safetensors", part.name()));
            }
            if part != Part::Vision && !bundle.files.has(&bundle.tokenizer_file(part)) {
                names.push(format!("tokenizer.json (or {}/tokenizer.json)", part.name()));
            }
        }
        if !bundle.files.has("preprocessor_config.json") {
            names.push("preprocessor_config.json".into());
        }
        if names.is_empty() { Ok(bundle) } else { absent(names) }
    }

    fn read_config(files: Files) -> Result<Bundle, BundleError> {
        let file = files.describe("config.json");
        let json = files.read("config.json").map_err(|source| BundleError::File { file: file.clone(), source })?;
        let config = VlJepaConfig::parse(&String::from_utf8_lossy(&json));
        let config = config.map_err(|source| BundleError::Config { file, source })?;
        let directory = files.root().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let name = Some(config.name.clone()).filter(|name| !name.is_empty()).or(directory).unwrap_or_default();
        Ok(Bundle { config, name, files })
    }

    /// The parts that this model has.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        let decoder = self.config.decoder.is_some();
        Part::ALL.into_iter().filter(move |part| *part != Part::Decoder || decoder)
    }

    /// The same bundle, with what is asked of the parts' dense weights put before what its config says.
    pub fn with_precisions(mut self, asked: Precisions) -> Bundle {
        self.config.set_precisions(asked.or(self.config.precisions()));
        self
    }

    /// How a part holds its dense weights here, in serving.
    pub fn dense(&self, part: Part) -> Dense {
        self.config.precisions().of(part).unwrap_or_default().here()
    }

    /// The weights of a part, mapped.
    pub fn weights(&self, part: Part, mode: Mode) -> Result<Weights, BundleError> {
        Ok(self.files.weights(&self.weight_files(part)?, mode)?.holding(self.dense(part)))
    }

    /// How pixels are prepared.
    pub fn preprocessor(&self) -> Result<Preprocessor, BundleError> {
        self.input("preprocessor_config.json", Preprocessor::parse)
    }

    /// The tokenizer of a part.
    pub fn tokenizer(&self, part: Part) -> Result<Tokenizer, BundleError> {
        self.input(&self.tokenizer_file(part), Tokenizer::parse)
    }

    /// The bytes of one of the small files (`tokenizer.json`, `preprocessor_config.json`, `README.md`).
    pub fn read(&self, name: &str) -> Result<Cow<'static, [u8]>, BundleError> {
        self.files.read(name).map_err(|source| BundleError::File { file: self.files.describe(name), source })
    }

    /// The fingerprint of the space that this bundle's embeddings live in: SHA-256 over the configs of vision,
    /// predictor and text as we read them, the shared dimensions, preprocessing, tokenizers and weights (see
    /// [`Files::digest`]: large files are sampled). The decoder does not count, nor in which precision it is computed.
    pub fn space(&self) -> Result<Space, BundleError> {
        let mut config = self.config.clone();
        (config.decoder, config.name) = (None, String::new());
        config.set_precisions(Precisions::default());
        let config = serde_json::to_vec(&config).expect("a config is plain numbers and strings");
        let mut content = Sha256::new();
        let mut feed = |name: &str| {
            let fault = |source| BundleError::File { file: self.files.describe(name), source };
            self.files.digest(name, &mut content).map_err(fault)
        };
        feed("preprocessor_config.json")?;
        for part in [Part::Vision, Part::Predictor, Part::Text] {
            self.weight_files(part)?.iter().try_for_each(|name| feed(name))?;
            if part == Part::Text {
                self.dense_files().iter().try_for_each(|name| feed(name))?;
            }
            if part != Part::Vision {
                feed(&self.tokenizer_file(part))?;
            }
        }
        Ok(Space::of([config.as_slice(), content.finalize().as_slice()]))
    }

    /// The safetensors files of a part.
    pub(super) fn weight_files(&self, part: Part) -> Result<Vec<String>, BundleError> {
        for folder in [part.name(), part.other_name()] {
            let fault = |source| BundleError::File { file: self.files.describe(folder), source };
            let files = self.files.weight_files(folder).map_err(fault)?;
            if !files.is_empty() {
                return Ok(files);
            }
        }
        Ok(Vec::new())
    }

    /// The text encoder's Dense layers, where they lie in folders of their own as sentence-transformers writes them.
    pub(super) fn dense_files(&self) -> Vec<String> {
        let name = |(folder, layer)| format!("{folder}/{layer}/model.safetensors");
        let folder = |folder| [(folder, "2_Dense"), (folder, "3_Dense")].map(name).to_vec();
        let mut folders = [Part::Text.name(), Part::Text.other_name()].map(folder).into_iter();
        folders.find(|files| files.iter().all(|file| self.files.has(file))).unwrap_or_default()
    }

    /// Where the text encoder's folder lists modules, they are those that are computed: what it lists, each in its
    /// place, and no Dense layers beyond those of `dense_dim`.
    fn check_modules(&self) -> Result<(), BundleError> {
        let (hidden, wide) = (self.config.text.hidden_size(), self.config.dense_dim);
        for folder in [Part::Text.name(), Part::Text.other_name()] {
            let listed = modules::dense(&self.files, folder, hidden, Some(hidden))
                .map_err(|error| BundleError::Faults(vec![error.to_string()]))?;
            let computed = match listed.as_slice() {
                [] => true,
                [up, down] => {
                    let placed = (up.folder.as_str(), down.folder.as_str()) == ("2_Dense", "3_Dense");
                    placed && !up.bias && !down.bias && Some(up.outputs) == wide
                }
                _ => false,
            };
            if !computed {
                let widths: Vec<usize> = listed.iter().map(|dense| dense.outputs).collect();
                let wanted = "must list 2_Dense to dense_dim and 3_Dense back, without biases";
                let list = self.files.describe(&format!("{folder}/modules.json"));
                let what = format!("{list}: Dense layers to widths {widths:?}, dense_dim {wide:?}; it {wanted}");
                return Err(BundleError::Faults(vec![what]));
            }
        }
        Ok(())
    }

    /// Where the files are.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    fn tokenizer_file(&self, part: Part) -> String {
        let own = [part.name(), part.other_name()].map(|folder| format!("{folder}/tokenizer.json"));
        own.into_iter().find(|name| self.files.has(name)).unwrap_or("tokenizer.json".into())
    }

    fn input<T>(&self, name: &str, parse: impl FnOnce(&[u8]) -> Result<T, InputError>) -> Result<T, BundleError> {
        let bytes = self.read(name)?;
        parse(&bytes).map_err(|source| BundleError::Input { file: self.files.describe(name), source })
    }
}
