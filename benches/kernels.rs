//! A few kernels at the predictor's sizes, for a quick look at a change. The whole matrix, beside the limits of the
//! chip, is `vljepa bench kernel`.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use vljepa::kernel::attention::{self, Heads, Inputs, Plan, Products};
use vljepa::kernel::packed::{Output, PackedMatrix};
use vljepa::kernel::quantize::{QuantizedRows, quantize};
use vljepa::kernel::ternary::TernaryMatrix;

fn main() {
    divan::main();
}

/// Values that repeat, but not in step with any tile.
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|at| (at * 7919 % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// Operations a second of ternary products of rounded rows: outputs, inputs.
#[divan::bench(args = [1, 8, 64, 512], consts = [2048, 8192])]
fn ternary<const INPUTS: usize>(bencher: Bencher, rows: usize) {
    const OUTPUTS: usize = 2048;
    let signs: Vec<i8> = (0..OUTPUTS * INPUTS).map(|at| (at * 7919 % 2003 % 3) as i8 - 1).collect();
    let packed = PackedMatrix::pack(&[&TernaryMatrix::from_signs(OUTPUTS, INPUTS, &signs, 0.02)]);
    let x = quantize(rows, INPUTS, &values(rows * INPUTS));
    let mut out = vec![0.0; rows * OUTPUTS];
    bencher
        .counter(ItemsCount::new(2 * rows * OUTPUTS * INPUTS))
        .bench_local(|| packed.multiply(black_box(&x), &mut [Output::plain(&mut out)]));
}

/// Floats a second that become bytes.
#[divan::bench(args = [64, 2112])]
fn rounding(bencher: Bencher, rows: usize) {
    let x = values(rows * 2048);
    let mut quantized = QuantizedRows::default();
    bencher.counter(ItemsCount::new(x.len())).bench_local(|| quantized.assign(rows, 2048, black_box(&x)));
}

/// Operations a second of attention with the vision encoder's heads.
#[divan::bench(args = [64, 512])]
fn attending(bencher: Bencher, rows: usize) {
    let (heads, width) = (16, 64);
    let x = values(rows * heads * width);
    let inputs = Inputs { queries: &x, keys: &x, values: &x, width };
    let plan = Plan::full(std::slice::from_ref(&(0..rows)));
    let mut out = vec![0.0; x.len()];
    bencher.counter(ItemsCount::new(4 * heads * width * rows * rows)).bench_local(|| {
        let heads = Heads { query: heads, key_value: heads, scale: 0.125 };
        attention::forward(black_box(inputs), heads, &plan, Products::F32, &mut out);
    });
}
