//! `vljepa bench kernel`: the matrix of kernels and shapes. Every figure stands beside the limit that was measured in
//! this process a moment before; kernels that do the same work run in turn, and the later ones' gain over the first is
//! told.

use clap::ValueEnum;
use serde_json::{Value, json};

use super::samples::{self, Samples};
use super::workloads::{Case, Shape, Work};
use super::{GIGA, check_repeats, peaks_json, peaks_text, workloads};
use crate::cli::{print_line, threads_or_cores};
use crate::kernel::isa::{self, Isa};
use crate::kernel::peak::Peaks;
use crate::kernel::threads::Pool;

/// The predictor's products: q or o; q, k and v; gate and up; down.
const SHAPES: [&str; 4] = ["2048x2048", "3072x2048", "16384x2048", "2048x8192"];
/// More than any cache holds.
const MEMORY: [Shape; 2] = [Shape { outputs: 1 << 18, inputs: 2048 }, Shape { outputs: 1 << 16, inputs: 8192 }];
const ROWS: [usize; 7] = [1, 8, 64, 256, 512, 1024, 2112];
const ROWS_MAX: usize = 1 << 16;

/// Measures products, attention, rounding and element-wise loops, shape by shape.
#[derive(Debug, clap::Args)]
pub(super) struct Kernel {
    /// Which kernels [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Group>,
    /// Sizes of weights, OUTPUTSxINPUTS
    #[arg(long, value_delimiter = ',', value_name = "NxK", default_values = SHAPES)]
    shapes: Vec<Shape>,
    /// Rows of activations
    #[arg(long, value_delimiter = ',', value_name = "M", default_values_t = ROWS)]
    rows: Vec<usize>,
    /// Threads; one is measured in its processor time, several on the wall [default: one a core]
    #[arg(long)]
    threads: Option<usize>,
    /// Instruction set of the integer kernels [default: the best of this machine, or VLJEPA_ISA]
    #[arg(long, value_name = "NAME")]
    isa: Option<Isa>,
    /// Samples of each figure
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Kernels that are compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Group {
    /// Ternary weights, rounded activations.
    Ternary,
    /// One row of activations, and 128 MiB of ternary weights that lie in memory; the limits are those of two bits.
    TernaryMemory,
    /// int8 weights, rounded activations.
    Int8,
    /// bf16 weights and activations.
    Bf16,
    /// f32 weights and activations.
    F32,
    /// Scores, softmax, mixing.
    Attention,
    /// Floats to bytes.
    Rounding,
    /// Norms, activations, rotation.
    Elementwise,
}

impl Kernel {
    /// Measures, prints and returns the exit status.
    pub(super) fn run(self) -> anyhow::Result<i32> {
        let count = threads_or_cores(self.threads)?;
        check_repeats(self.repeats)?;
        for rows in &self.rows {
            anyhow::ensure!((1..=ROWS_MAX).contains(rows), "--rows has {rows}, must be 1 to {ROWS_MAX}");
        }
        self.isa.map_or(Ok(()), isa::force)?;
        Pool::new(count)?.run(|| self.measure(count));
        Ok(0)
    }

    fn measure(&self, threads: usize) {
        let peaks = Peaks::measure(isa::current());
        if !self.json {
            print!("{}", peaks_text(&peaks));
            println!("kernels   {} on {threads} thread(s), {} samples\n", isa::current(), self.repeats);
            println!("{}", Row::HEAD);
        }
        let mut rows = Vec::new();
        self.for_each_case(&mut |mut case| {
            let samples = samples::take(self.repeats, threads, &mut case.contestants);
            for ((name, _), own) in case.contestants.iter().zip(&samples) {
                let row = Row::new(&case, name, (own, &samples[0]), &peaks);
                if !self.json {
                    println!("{}", row.text());
                }
                rows.push(row.json());
            }
        });
        if self.json {
            let isa = isa::current().name();
            print_line(&json!({ "isa": isa, "threads": threads, "limits": peaks_json(&peaks), "rows": rows }));
        }
    }

    fn for_each_case(&self, visit: &mut dyn FnMut(Case<'_>)) {
        let wanted = |group| self.only.is_empty() || self.only.contains(&group);
        for shape in &self.shapes {
            if wanted(Group::Ternary) {
                workloads::ternary(*shape, &self.rows, visit);
            }
            if wanted(Group::Int8) {
                workloads::int8(*shape, &self.rows, visit);
            }
            if wanted(Group::Bf16) {
                workloads::halves(*shape, &self.rows, visit);
            }
            if wanted(Group::F32) {
                workloads::floats(*shape, &self.rows, visit);
            }
        }
        if wanted(Group::TernaryMemory) {
            for shape in MEMORY {
                workloads::ternary(shape, &[1], visit);
            }
        }
        if wanted(Group::Attention) {
            workloads::attention(visit);
        }
        if wanted(Group::Rounding) {
            workloads::rounding(visit);
        }
        if wanted(Group::Elementwise) {
            workloads::elementwise(visit);
        }
    }
}

/// One contestant's figures.
struct Row {
    kernel: String,
    shape: String,
    rows: usize,
    best: f64,
    median: f64,
    /// How many times faster than the case's first contestant.
    gain: f64,
    /// In units of a thousand million a second: operations, or bytes where none are counted.
    rates: [f64; 2],
    unit: &'static str,
    /// The better rate and the limit that binds it.
    limit: Option<(&'static str, f64)>,
}

impl Row {
    const HEAD: &str =
        "kernel            shape         rows    best ms  median ms       best     median  of the limit      gain";

    fn new(case: &Case<'_>, name: &str, (own, first): (&Samples, &Samples), peaks: &Peaks) -> Row {
        let (amount, unit) = match case.work {
            Work::Products { operations, .. } => (operations, "GOPS"),
            Work::Passes { bytes } => (bytes, "GB/s"),
        };
        let rate = |seconds: f64| amount / seconds / GIGA;
        Row {
            kernel: name.into(),
            shape: case.shape.clone(),
            rows: case.rows,
            best: own.best() * 1e3,
            median: own.median() * 1e3,
            gain: own.times_faster_than(first),
            rates: [rate(own.best()), rate(own.median())],
            unit,
            limit: case.work.limit(peaks).map(|(name, seconds)| (name, seconds / own.median())),
        }
    }

    fn text(&self) -> String {
        let Row { kernel, shape, rows, best, median, gain, rates: [high, middle], unit, .. } = self;
        let limit = self.limit.map_or(String::new(), |(name, share)| format!("{:.0} % {name}", 100.0 * share));
        format!(
            "{kernel:<17} {shape:<12} {rows:>5} {best:>10.3} {median:>10.3} {high:>10.1} {middle:>10.1} {unit} \
             {limit:>12} {gain:>9.2}"
        )
    }

    fn json(&self) -> Value {
        let (limit, share) = self.limit.unzip();
        json!({
            "kernel": self.kernel, "shape": self.shape, "rows": self.rows, "best_ms": self.best,
            "median_ms": self.median, "unit": self.unit, "best": self.rates[0], "median": self.rates[1],
            "limit": limit, "of_limit": share, "gain": self.gain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_shapes_are_shapes_and_others_are_refused() {
        for shape in SHAPES {
            assert_eq!(shape.parse::<Shape>().map(|shape| shape.to_string()).as_deref(), Ok(shape));
        }
        for wrong in ["", "2048", "0x5", "5x0", "ax5", "1x999999999"] {
            assert!(wrong.parse::<Shape>().is_err_and(|error| error.contains("NxK")), "{wrong}");
        }
    }
}
