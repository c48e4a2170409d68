//! What a training run does, as data: the model, the world, and the stages one after the other.
//!
//! A recipe is a JSON file, so a run can be repeated from what it wrote beside its checkpoint. The named ones are
//! compiled in; any value can be changed from the command line by its path.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schedule::Schedule;
use super::world::{OBJECTS_MAX, SIDES};
use crate::model::config::VlJepaConfig;

/// Everything that decides a run, apart from the seed and the data.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Its name; the bundle is called so too.
    pub name: String,
    /// What it is for and what was measured, for a reader.
    #[serde(default)]
    pub about: String,
    /// The model to train, as its bundle's config.json says it. Vocabulary sizes follow the tokenizer.
    pub model: VlJepaConfig,
    /// The bundle's preprocessor_config.json.
    pub preprocessor: Value,
    /// The generator's clips; used when no data file is named.
    #[serde(default)]
    pub world: WorldSettings,
    /// The stages in their order.
    pub stages: Vec<Stage>,
}

/// What the generator draws.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldSettings {
    /// Frames a clip.
    pub frames: usize,
    /// Widths of a (square) frame, pixels, one drawn for each clip: a model that only ever saw frames drawn at its own
    /// size would not know those that were scaled down to it.
    pub sizes: Vec<usize>,
    /// Fewest and most objects of a clip.
    pub objects: [usize; 2],
    /// Share of clips drawn for one family, so that its question surely exists with a balanced answer.
    pub for_family: f32,
    /// Chance that a filler word of a question is left out.
    pub drop_words: f32,
    /// Share of clips that are windows over streams: frames that begin anywhere in a scene that holds still, has events,
    /// and ends with a cut.
    pub streams: f32,
}

impl Default for WorldSettings {
    fn default() -> WorldSettings {
        let sizes = vec![64, 64, 64, 128];
        WorldSettings { frames: 8, sizes, objects: [1, 4], for_family: 0.5, drop_words: 0.1, streams: 0.0 }
    }
}

/// What a stage's loss looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// The vision encoder alone, against the generator's dense labels.
    Dense,
    /// Predictions against answer texts (InfoNCE), all parts but the decoder; dense labels may stay as a helper.
    Joint,
    /// The decoder alone, from embeddings to words.
    Decoder,
}

/// One stage: an objective, a batch, an optimiser with its schedule, and weights of the loss terms.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stage {
    /// What is learnt.
    pub objective: Objective,
    /// Steps of the stage.
    pub steps: u64,
    /// Clips a step, over all threads.
    pub clips: usize,
    /// Questions a clip, at most.
    pub questions: usize,
    /// Peak learning rate.
    pub rate: f32,
    /// Last learning rate as a share of the peak.
    pub floor: f32,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// AdamW's decay of the first and second moment.
    pub betas: (f32, f32),
    /// Weight decay of matrices; norms, biases, positions and embeddings have none.
    pub decay: f32,
    /// Bound of the gradient's global norm.
    pub clip_norm: f32,
    /// Learning-rate multipliers by the beginning of a parameter's name; the longest match counts.
    pub rates: BTreeMap<String, f32>,
    /// Weight of the dense labels at the beginning and at the end of the stage.
    pub dense_weight: [f32; 2],
    /// Weight of the penalty on answers that lie closer than `spread_margin`.
    pub spread_weight: f32,
    /// Cosine above which two different answers of a batch are too close.
    pub spread_margin: f32,
    /// Joint: descriptions of a clip that are nearly right, which no prediction may come close to; what differs in one word,
    /// or in the order of words, is else hardly ever told apart within a batch. The generator alone has them.
    pub decoys: usize,
    /// Weights of question families; absent ones count 1.
    pub families: BTreeMap<String, f32>,
    /// Decoder: answer texts a step whose own embeddings are decoded, beside the predictions of the clips.
    pub texts: usize,
    /// Decoder: length of the noise added to a text's own embedding.
    pub noise: f32,
}

impl Default for Stage {
    fn default() -> Stage {
        Stage {
            objective: Objective::Joint,
            steps: 1000,
            clips: 8,
            questions: 12,
            rate: 1.5e-3,
            floor: 0.05,
            warmup_steps: 60,
            betas: (0.9, 0.98),
            decay: 0.05,
            clip_norm: 1.0,
            rates: BTreeMap::new(),
            dense_weight: [0.0, 0.0],
            spread_weight: 0.0,
            spread_margin: 0.5,
            decoys: 0,
            families: BTreeMap::new(),
            texts: 0,
            noise: 0.0,
        }
    }
}

impl Stage {
    /// The learning rate over the stage.
    pub fn schedule(&self) -> Schedule {
        Schedule { peak: self.rate, floor: self.floor, warmup_steps: self.warmup_steps, steps: self.steps }
    }

    /// The learning-rate multiplier of a parameter.
    pub fn multiplier(&self, name: &str) -> f32 {
        let matching = self.rates.iter().filter(|(prefix, _)| name.starts_with(prefix.as_str()));
        matching.max_by_key(|(prefix, _)| prefix.len()).map_or(1.0, |(_, rate)| *rate)
    }
}

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// No compiled-in recipe has this name.
    #[error("recipe {0:?} is not known; known are {known}", known = Recipe::names().join(", "))]
    Unknown(String),
    /// It is not a recipe in JSON.
    #[error("recipe {name}: {source}")]
    Syntax {
        /// Which recipe.
        name: String,
        /// Where and what.
        source: serde_json::Error,
    },
    /// An override names a value that is not there.
    #[error("recipe has no value at {0:?}; write a path such as stages.1.steps=5000")]
    Path(String),
    /// A value is outside its bounds.
    #[error("recipe {field} is {value}, expected {bound}")]
    Bound {
        /// Path of the value.
        field: String,
        /// What it is.
        value: String,
        /// What it must be.
        bound: &'static str,
    },
}

/// Clips, questions or texts of one step: beyond it is a typing error.
const BATCH_MAX: usize = 1 << 16;

const NAMED: [(&str, &str); 3] = [
    ("world-small", include_str!("recipes/world-small.json")),
    ("world-streams", include_str!("recipes/world-streams.json")),
    ("world-tiny", include_str!("recipes/world-tiny.json")),
];

impl Recipe {
    /// The names of the compiled-in recipes.
    pub fn names() -> Vec<&'static str> {
        NAMED.iter().map(|(name, _)| *name).collect()
    }

    /// A compiled-in recipe, with `changes` of the form `path=value` applied.
    pub fn named(name: &str, changes: &[String]) -> Result<Recipe, RecipeError> {
        let found = NAMED.iter().find(|(known, _)| *known == name);
        let (_, text) = found.ok_or_else(|| RecipeError::Unknown(name.to_owned()))?;
        Recipe::parse(name, text, changes)
    }

    /// A recipe from JSON, with `changes` applied; `name` says in errors where it came from.
    pub fn parse(name: &str, text: &str, changes: &[String]) -> Result<Recipe, RecipeError> {
        let syntax = |source| RecipeError::Syntax { name: name.to_owned(), source };
        let parsed: Recipe = serde_json::from_str(text).map_err(syntax)?;
        let mut value = serde_json::to_value(parsed).map_err(syntax)?; // with every default written out
        for change in changes {
            apply(&mut value, change)?;
        }
        let recipe: Recipe = serde_json::from_value(value).map_err(syntax)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// The model card of what this recipe trained.
    pub fn card(&self) -> String {
        let stages =
            self.stages.iter().map(|s| format!("- {:?}: {} steps of {} clips\n", s.objective, s.steps, s.clips));
        format!(
            "# {}\n\n{}\n\nTrained by `vljepa train --recipe {}`:\n\n{}",
            self.name,
            self.about,
            self.name,
            stages.collect::<String>()
        )
    }

    /// Bounds of the values that serde cannot know.
    pub fn check(&self) -> Result<(), RecipeError> {
        let bound = |field: String, value: String, bound| Err(RecipeError::Bound { field, value, bound });
        if self.stages.is_empty() {
            return bound("stages".into(), "empty".into(), "at least one stage");
        }
        for (index, stage) in self.stages.iter().enumerate() {
            let field = |name: &str| format!("stages.{index}.{name}");
            if stage.clips == 0 && stage.texts == 0 {
                return bound(field("clips"), "0".into(), "at least 1");
            }
            if stage.questions == 0 {
                return bound(field("questions"), "0".into(), "at least 1");
            }
            for (name, count) in counts(stage) {
                if count > BATCH_MAX {
                    return bound(field(name), count.to_string(), "at most 65536");
                }
            }
            if !(stage.rate > 0.0 && stage.rate < 1.0) {
                return bound(field("rate"), stage.rate.to_string(), "more than 0 and less than 1");
            }
            if stage.clip_norm.is_nan() || stage.clip_norm <= 0.0 {
                return bound(field("clip_norm"), stage.clip_norm.to_string(), "more than 0");
            }
        }
        let [least, most] = self.world.objects;
        if least == 0 || least > most || most > OBJECTS_MAX {
            return bound(
                "world.objects".into(),
                format!("[{least}, {most}]"),
                "[least, most] with 1 <= least <= most <= 4",
            );
        }
        let (frames, taken) = (self.world.frames, self.model.vision.frames_per_clip);
        if frames != 1 && frames != taken {
            return bound("world.frames".into(), frames.to_string(), "1, or model.vision.frames_per_clip");
        }
        let streams = self.world.streams;
        if !(0.0..=1.0).contains(&streams) {
            return bound("world.streams".into(), streams.to_string(), "0 to 1");
        }
        if streams > 0.0 && frames < 2 {
            return bound("world.frames".into(), frames.to_string(), "2 or more where world.streams is above 0");
        }
        let sizes = &self.world.sizes;
        if sizes.is_empty() || sizes.iter().any(|size| !SIDES.contains(size)) {
            return bound("world.sizes".into(), format!("{sizes:?}"), "one or more of 16 to 1024 pixels");
        }
        Ok(())
    }
}

/// What is counted in one step.
fn counts(stage: &Stage) -> [(&'static str, usize); 4] {
    [("clips", stage.clips), ("questions", stage.questions), ("texts", stage.texts), ("decoys", stage.decoys)]
}

/// Sets the value at `a.0.b` in `a.0.b=value`; the value is JSON, or else a string. Only objects get new keys.
fn apply(recipe: &mut Value, change: &str) -> Result<(), RecipeError> {
    let unknown = || RecipeError::Path(change.to_owned());
    let (path, text) = change.split_once('=').ok_or_else(unknown)?;
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let pointer = parents.split('.').filter(|s| !s.is_empty()).map(|s| format!("/{s}")).collect::<String>();
    let slot = match recipe.pointer_mut(&pointer).ok_or_else(unknown)? {
        Value::Object(map) => map.entry(last).or_insert(Value::Null),
        Value::Array(items) => {
            let index = last.parse::<usize>().map_err(|_| unknown())?;
            items.get_mut(index).ok_or_else(unknown)?
        }
        _ => return Err(unknown()),
    };
    *slot = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_recipe_is_sound() {
        for name in Recipe::names() {
            let recipe = Recipe::named(name, &[]).expect("a compiled-in recipe");
            assert_eq!(recipe.name, name);
        }
        let error = Recipe::named("nobody", &[]).expect_err("no such recipe");
        assert!(error.to_string().contains("world-small"), "{error}");
    }

    #[test]
    fn changes_reach_any_value() {
        let changes = ["stages.0.steps=7", "stages.1.families.colour=4", "world.sizes=[32]"];
        let recipe = Recipe::named("world-small", &changes.map(String::from)).expect("changed");
        assert_eq!((recipe.stages[0].steps, recipe.world.sizes), (7, vec![32]));
        assert_eq!(recipe.stages[1].families["colour"], 4.0);
        for wrong in [
            "stages.99.steps=7",
            "steps",
            "stages.0.nonsense=1",
            "stages.0.clips=0",
            "stages.0.rate=5",
            "stages.0.clips=65537",
            "world.frames=0",
            "world.frames=7",
            "world.objects=[1,5]",
            "world.streams=1.5",
            "world.streams=-0.1",
        ] {
            assert!(Recipe::named("world-small", &[wrong.to_owned()]).is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn the_longest_prefix_sets_the_rate() {
        let rates = [("text.", 0.05), ("text.y_head", 0.5)].map(|(k, v)| (k.to_owned(), v));
        let stage = Stage { rates: rates.into(), ..Stage::default() };
        assert_eq!(stage.multiplier("text.layer.0"), 0.05);
        assert_eq!(stage.multiplier("text.y_head.weight"), 0.5);
        assert_eq!(stage.multiplier("vision.x"), 1.0);
    }
}
