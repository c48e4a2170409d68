//! `vljepa inspect DIR`: what a bundle is made of, what it costs, and what computes it here.

use std::fmt::Write;
use std::path::PathBuf;

use super::bundle::PrecisionArgs;
use crate::kernel::isa::Isa;
use crate::model::bundle::Bundle;
use crate::model::facts::ModelFacts;
use crate::model::vl_jepa::VlJepa;
use crate::settings::Settings;

/// Shows a bundle's parts, parameters, precision, sizes, kernel and space.
#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// The bundle's directory [default: the bundled model]
    dir: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    precision: PrecisionArgs,
}

impl Inspect {
    /// Loads the bundle, prints its facts and returns the exit status.
    pub(super) fn run(self, settings: &Settings) -> anyhow::Result<i32> {
        let asked = self.precision.asked(settings)?;
        let bundle = match &self.dir {
            Some(dir) => Bundle::open(dir),
            None => Bundle::bundled(),
        };
        let model = match bundle.and_then(|bundle| VlJepa::load(&bundle.with_precisions(asked))) {
            Ok(model) => model,
            Err(error) => {
                eprintln!("error: {error}");
                return Ok(2);
            }
        };
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(model.facts())?),
            false => print!("{}", table(model.facts())),
        }
        Ok(0)
    }
}

/// A row a part, their sum, and what holds for the whole.
fn table(facts: &ModelFacts) -> String {
    let mut text = format!("{}\n\n", facts.name);
    let mut line = |cells: [&str; 7]| {
        let [part, architecture, parameters, ternary, precision, disk, memory] = cells;
        let row = format!(
            "{part:<10} {architecture:<42} {parameters:>13} {ternary:>13}  {precision:<9} {disk:>10} {memory:>10}"
        );
        writeln!(text, "{}", row.trim_end()).expect("a string takes every line");
    };
    line(["part", "architecture", "parameters", "of them 1.58b", "precision", "on disk", "in memory"]);
    for part in &facts.parts {
        let counts = [part.parameters, part.ternary_parameters].map(|count| count.to_string());
        let sizes = [part.bytes_on_disk, part.bytes_in_memory].map(bytes);
        line([part.part, &part.architecture, &counts[0], &counts[1], part.precision, &sizes[0], &sizes[1]]);
    }
    let sum = |of: fn(&crate::model::facts::PartFacts) -> u64| facts.parts.iter().map(of).sum::<u64>();
    let counts = [sum(|part| part.parameters), sum(|part| part.ternary_parameters)].map(|count| count.to_string());
    let sizes = [sum(|part| part.bytes_on_disk), sum(|part| part.bytes_in_memory)].map(bytes);
    line(["all", "", &counts[0], &counts[1], "", &sizes[0], &sizes[1]]);
    let available = Isa::ALL.iter().filter(|isa| isa.is_available()).map(|isa| isa.name());
    let available = available.collect::<Vec<_>>().join(", ");
    let facts = [
        ("space", format!("{} ({} dimensions)", facts.space, facts.dimensions)),
        ("kernel", format!("ternary products with {} (this machine has {available})", facts.instruction_set)),
        ("clip", format!("{0} frames of {1} x {1}, {2} tokens", facts.frames, facts.frame_side, facts.visual_tokens)),
        ("question", format!("at most {} tokens", facts.question_tokens_max)),
        ("text", format!("at most {} tokens", facts.text_tokens_max)),
        ("answer", format!("at most {} tokens", facts.answer_tokens_max)),
    ];
    facts.iter().fold(text + "\n", |text, (name, fact)| text + &format!("{name:<10} {fact}\n"))
}

/// A size in the unit that leaves at least one digit before the point.
fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (1..units.len()).take_while(|&power| count >> (10 * power) > 0).count();
    match power {
        0 => format!("{count} B"),
        _ => format!("{:.1} {}", count as f64 / (1u64 << (10 * power)) as f64, units[power]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_the_unit_that_fits() {
        assert_eq!([0, 1023, 1024, 1536, 16 << 20].map(bytes), ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "16.0 MiB"]);
    }
}
