//! `vljepa bench`: how fast this machine computes, as figures beside the limits of its chip, which are measured in the
//! same process. `bench --preset` takes whole parts of a model, `bench kernel` kernels alone, `bench load` a server.

mod kernel;
mod load;
mod memory;
mod part;
mod samples;
mod whole;
mod workloads;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::kernel::peak::{Peaks, READ_BYTES};
use crate::settings::Settings;

/// Measures kernels, the parts of a model of a published size, or a server under load, beside their limits.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(super) struct Bench {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    whole: whole::Whole,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Products, attention, rounding and element-wise loops, shape by shape.
    Kernel(kernel::Kernel),
    /// A server under load: latency at a rate, the knee, overload, fairness, memory.
    Load(Box<load::Load>),
    /// Serves answers without a model, for the limit of the transport.
    #[command(hide = true)]
    Echo(load::echo::EchoServer),
}

impl Bench {
    /// Runs the measurement and returns the exit status.
    pub(super) fn run(self, settings: &Settings) -> anyhow::Result<i32> {
        match self.what {
            Some(What::Kernel(kernel)) => kernel.run(),
            Some(What::Load(load)) => load.run(settings),
            Some(What::Echo(echo)) => echo.run(),
            None => self.whole.run(),
        }
    }
}

const GIGA: f64 = 1e9;
const REPEATS_MAX: usize = 1000;

fn check_repeats(repeats: usize) -> anyhow::Result<()> {
    anyhow::ensure!((1..=REPEATS_MAX).contains(&repeats), "--repeats is {repeats}, must be 1 to {REPEATS_MAX}");
    Ok(())
}

fn peaks_json(peaks: &Peaks) -> Value {
    let giga = |rate: Option<f64>| rate.map(|rate| rate / GIGA);
    let reads = READ_BYTES.iter().zip(peaks.reads);
    json!({
        "int8_gops": giga(peaks.int8),
        "bf16_gflops": giga(peaks.bf16),
        "f32_gflops": giga(peaks.f32),
        "read": reads.map(|(bytes, rate)| json!({"bytes": bytes, "gb_per_s": rate / GIGA})).collect::<Vec<_>>(),
    })
}

/// The limits on one line each.
fn peaks_text(peaks: &Peaks) -> String {
    let rate = |rate: Option<f64>| rate.map_or("not measured".into(), |rate| format!("{:.0} G/s", rate / GIGA));
    let [int8, bf16, f32] = [peaks.int8, peaks.bf16, peaks.f32].map(rate);
    let level = |(bytes, rate): (usize, f64)| match bytes >> 20 {
        0 => format!("{} KiB {:.1}", bytes >> 10, rate / GIGA),
        mebibytes => format!("{mebibytes} MiB {:.1}", rate / GIGA),
    };
    let reads: Vec<String> = READ_BYTES.into_iter().zip(peaks.reads).map(level).collect();
    format!("limits    int8 {int8}, bf16 {bf16}, f32 {f32}\nreading   {} GB/s\n", reads.join(", "))
}
