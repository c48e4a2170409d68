//! Models that come and go while others serve: off the async threads, below one directory, in the name's own time.

use std::path::{Path, PathBuf};

use super::error::{EngineError, shortened, summary};
use super::models::{ModelState, Models};
use super::{Engine, ThreadState};
use crate::model::bundle::Bundle;
use crate::model::vl_jepa::VlJepa;
use crate::settings::Settings;

impl Models {
    /// Loads the bundle in `directory`, which is below the setting models.root, and serves it under `name`. Goes on,
    /// and serves the model, if the caller leaves. Fails without a trace if there is no such bundle, or a torn one.
    pub async fn load(&self, name: &str, directory: PathBuf) -> Result<Engine, EngineError> {
        let root = self.settings().models.root.clone();
        let root = root.ok_or_else(|| unfit("models.root", "is not set: clients may load no models"))?;
        // From here on the name is taken.
        let passing = self.pass(name, ModelState::Loading)?;
        let (models, name) = (self.clone(), name.to_owned());
        let loading = tokio::task::spawn_blocking(move || {
            let model = open(&below(&root, &directory)?, models.settings())?;
            let (engine, thread) = Engine::start(model, models.settings().clone())
                .map_err(|error| EngineError::Internal(format!("no thread for a model: {error}")))?;
            // Another one of this name cannot come between: both wait for the same lock.
            passing.serve(engine.clone(), thread)?;
            tracing::info!(model = name, "loaded");
            Ok(engine)
        });
        loading.await.unwrap_or_else(|_| Err(EngineError::Internal("loading a model panicked".into())))
    }

    /// Takes the model called `name` away and waits until what it has begun is answered and its memory is free.
    pub async fn unload(&self, name: &str) -> Result<(), EngineError> {
        let (mut thread, passing) = self.take_away(name)?;
        let name = shortened(name);
        // A task, for the name must be taken until the end even if the caller leaves.
        let ending = tokio::spawn(async move {
            let state = thread.ended().await;
            drop(passing);
            tracing::info!(model = name, ?state, "unloaded");
            state
        });
        match ending.await {
            Ok(ThreadState::Finished) => Ok(()),
            _ => Err(EngineError::Internal("the thread of the model panicked".into())),
        }
    }
}

fn open(directory: &Path, settings: &Settings) -> Result<VlJepa, EngineError> {
    let precision = settings.model.precision.as_deref().unwrap_or_default().parse();
    let precision = precision.map_err(|error| unfit("model.precision", &format!("{error}")))?;
    let torn = |error: crate::model::bundle::BundleError| unfit("bundle", &error.to_string());
    VlJepa::load(&Bundle::open(directory).map_err(torn)?.with_precisions(precision)).map_err(torn)
}

/// The directory, links followed, if it is below `root`.
fn below(root: &Path, directory: &Path) -> Result<PathBuf, EngineError> {
    let unreadable = |error: std::io::Error| unfit("models.root", &error.to_string());
    let root = root.canonicalize().map_err(unreadable)?;
    let told = shortened(&directory.display().to_string());
    let invalid = |problem| EngineError::Invalid { field: "directory".into(), problem };
    let found = root.join(directory).canonicalize().map_err(|error| invalid(format!("is {told:?}: {error}")))?;
    match found.starts_with(&root) && found != root {
        true => Ok(found),
        false => Err(invalid(format!("is {told:?}, which leads out of models.root"))),
    }
}

fn unfit(subject: &str, problem: &str) -> EngineError {
    EngineError::Unfit { subject: subject.into(), problem: summary(problem) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_while_its_model_comes_or_goes() {
        let mut settings = Settings::default();
        settings.models.items_max = 2;
        let models = Models::new(settings);
        let coming = models.pass("a", ModelState::Loading).expect("free");
        let taken = models.pass("a", ModelState::Loading).err();
        assert_eq!(taken, Some(EngineError::Present { what: "model", name: "a".into() }));
        let going = models.pass("b", ModelState::Unloading).expect("free");
        let passing = [("a".to_string(), ModelState::Loading), ("b".to_string(), ModelState::Unloading)];
        assert_eq!(models.passing(), passing);
        assert!(matches!(models.pass("c", ModelState::Loading).err(), Some(EngineError::Unfit { .. })), "too many");
        drop((coming, going));
        assert!(models.passing().is_empty() && models.pass("a", ModelState::Loading).is_ok());
    }

    #[test]
    fn only_what_lies_below_the_root_is_found() {
        let (root, outside) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        std::fs::create_dir_all(root.path().join("a/b")).expect("a folder");
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).expect("a link");
        std::os::unix::fs::symlink(root.path().join("a"), root.path().join("inner")).expect("a link");
        for (directory, found) in [("a", true), ("a/b", true), ("inner/b", true), ("link", false), ("none", false)] {
            let outcome = below(root.path(), Path::new(directory));
            assert_eq!(outcome.is_ok(), found, "{directory}: {outcome:?}");
        }
        assert!(matches!(below(Path::new("/no/such/root"), Path::new("a")), Err(EngineError::Unfit { .. })));
    }
}
