//! `vljepa demo`: the main job from end to end, with nothing but this program: a server on loopback, questions about
//! files that the binary carries, and everything that comes back.

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::ask::timing_text;
use super::bundle::BundleArgs;
use super::client::{Remote, Source};
use super::embed::first_values;
use super::{runtime, start_models, waiting};
use crate::engine::{Answer, Manner, Media, Question};
use crate::input::Sampling;
use crate::model::decoder::{DecodeOptions, TokenSampling};
use crate::service;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    #[command(flatten)]
    bundle: BundleArgs,
}

/// A question about a file, its answers to choose from, and the true one: the generator that drew the file knows it.
struct Exhibit {
    file: &'static str,
    bytes: &'static [u8],
    question: &'static str,
    choices: &'static [&'static str],
    truth: &'static str,
}

macro_rules! exhibits {
    ($($file:literal: $question:literal, $choices:expr, $truth:literal;)*) => {
        &[$(Exhibit {
            file: $file,
            bytes: include_bytes!(concat!("../../fixtures/demo/", $file)),
            question: $question,
            choices: &$choices,
            truth: $truth,
        }),*]
    };
}

const COLOURS: [&str; 8] = ["red", "orange", "yellow", "green", "blue", "purple", "white", "black"];
const SHAPES: [&str; 7] = ["circle", "square", "triangle", "star", "cross", "ring", "heart"];
const EVENTS: [&str; 6] = [
    "nothing happens",
    "an object enters from the bottom",
    "an object leaves",
    "an object changes colour",
    "two objects collide",
    "an object grows",
];

const EXHIBITS: &[Exhibit] = exhibits! {
    "squares.jpg": "which colour does the small square have?", COLOURS, "blue";
    "squares.jpg": "what kind of background is there?", ["plain", "gradient", "striped", "checkered", "spotted"], "striped";
    "shapes.png": "name the shape of the orange object.", SHAPES, "triangle";
    "shapes.png": "can you see a blue star in the picture?", ["yes", "no"], "no";
    "star.gif": "what is happening in the clip?", EVENTS, "an object enters from the bottom";
    "star.gif": "which colour does the star have?", COLOURS, "blue";
    "star.mp4": "what is happening in the clip?", EVENTS, "an object enters from the bottom";
    "circles.webp": "in which direction is the red circle moving?", ["left", "right", "up", "down"], "right";
    "triangle.webp": "which event do you see?", EVENTS, "an object changes colour";
    "hearts.webp": "how many shapes are there?", ["one", "two", "three", "four"], "three";
    "hearts.webp": "which event do you see?", EVENTS, "two objects collide";
};

impl Demo {
    pub(super) fn run(self, mut settings: Settings) -> anyhow::Result<i32> {
        // It asks itself.
        (settings.tls, settings.keys, settings.client) = Default::default();
        let bundle = self.bundle.open(&settings)?;
        let models = start_models(vec![(bundle.name.clone(), bundle)], settings.clone())?;
        let (name, engine) = models.entry("")?;
        let speaks = engine.model().decoder.is_some();
        // What is kept of an engine would hold the end.
        drop(engine);
        runtime()?.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?.to_string();
            println!("serving {name} on {address}; everything below came over gRPC");
            let (stop, stopped) = oneshot::channel::<()>();
            let served = tokio::spawn(service::serve(listener, models, async { drop(stopped.await) }));
            let mut source = Source::There(Box::new(Remote::connect(&address, &settings).await?));
            let max_tokens = settings.text.answer_tokens_max;
            let mut right = 0;
            for exhibit in EXHIBITS {
                let waiting = waiting(format!("asking {}", exhibit.file));
                let choices = exhibit.choices.iter().map(|choice| choice.to_string()).collect();
                let chosen = source.answer(exhibit.question(), Manner::Choose(choices)).await?;
                let spoken = match speaks {
                    true => {
                        let options = DecodeOptions { max_tokens, sampling: TokenSampling::Greedy };
                        Some(source.answer(exhibit.question(), Manner::Speak(options)).await?)
                    }
                    false => None,
                };
                waiting.finish_and_clear();
                right += usize::from(chosen.text == exhibit.truth);
                exhibit.show(&chosen, spoken.as_ref());
            }
            println!("\n{right} of {} choices are the true one", EXHIBITS.len());
            drop((source, stop));
            served.await??;
            Ok(0)
        })
    }
}

impl Exhibit {
    fn question(&self) -> Question {
        Question { media: Media::File(self.bytes.to_vec()), sampling: Sampling::default(), text: self.question.into() }
    }

    fn show(&self, chosen: &Answer, spoken: Option<&Answer>) {
        let embedding = &chosen.embedded.embedding;
        let mut choices = chosen.choices.clone();
        choices.sort_by(|a, b| b.score.total_cmp(&a.score));
        let scores: Vec<String> =
            choices.iter().take(3).map(|choice| format!("{} {:.3}", choice.text, choice.score)).collect();
        println!("\n{}: {}", self.file, self.question);
        println!("  chosen     {}   (true: {})", chosen.text, self.truth);
        println!("  scores     {}", scores.join(", "));
        println!("  embedding  {} ({} dimensions)", first_values(&embedding.values), embedding.values.len());
        println!("  took       {}", timing_text(&chosen.embedded.timing));
        if let Some(spoken) = spoken {
            println!("  decoded    \"{}\"", spoken.text);
            println!("  took       {}", timing_text(&spoken.embedded.timing));
        }
    }
}
