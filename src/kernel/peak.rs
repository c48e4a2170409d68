//! What this chip can do at most, measured where and when the figures that are compared with it are measured: byte,
//! bf16 and f32 products out of registers, and reading from each level of memory.
//!
//! The loops hold nothing but the instruction in question, on more independent sums than it has latency.

use std::hint::black_box;
use std::time::Duration;

use super::clock::Moment;
use super::isa::Isa;
use super::{threads, wide::wide};

/// The limits of the threads that measured them, together. A rate is absent where the chip lacks the instruction or this
/// file has no loop for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Peaks {
    /// Byte operations a second (a product and its sum are two) with the best instruction of the instruction set.
    pub int8: Option<f64>,
    /// bf16 operations a second.
    pub bf16: Option<f64>,
    /// f32 operations a second with the widest vectors.
    pub f32: Option<f64>,
    /// Reading from buffers of [`READ_BYTES`], bytes a second.
    pub reads: [f64; READ_BYTES.len()],
}

/// Sizes of the buffers read, bytes a thread: usual chips hold them in the first, second and third cache and in memory.
pub const READ_BYTES: [usize; 4] = [16 << 10, 512 << 10, 8 << 20, 128 << 20];

/// Independent sums: more than the latency of any of these instructions times their rate.
const SUMS: usize = 12;
/// Instructions a sum in one sample, which takes about a millisecond.
const STEPS: usize = 1 << 18;
/// Bytes read in one sample, where the buffer is not larger.
const SAMPLE_BYTES: usize = 16 << 20;
/// Samples, of which the best counts.
const SAMPLES: usize = 9;

impl Peaks {
    /// Measures with the threads that kernels may use here ([`threads::available`]); takes about half a second.
    pub fn measure(isa: Isa) -> Peaks {
        let product = |kind| chip::product(kind, isa).map(|(amount, work)| rate(amount * SUMS * STEPS, || work));
        Peaks {
            int8: product(Kind::Int8),
            bf16: product(Kind::Bf16),
            f32: product(Kind::F32),
            reads: READ_BYTES.map(read),
        }
    }

    /// The most bytes a second that reading so many can have: the rate of the largest buffer that is not larger.
    pub fn read(&self, bytes: usize) -> f64 {
        let level = READ_BYTES.iter().rposition(|level| *level <= bytes).unwrap_or(0);
        self.reads[level]
    }
}

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Int8,
    Bf16,
    F32,
}

/// The best rate at which each thread does `amount` by the work that it is given, all at once: their sum.
fn rate<W: FnMut()>(amount: usize, work: impl Fn() -> W + Sync) -> f64 {
    let count = threads::available();
    let best = || {
        let mut work = work();
        let sample = |_| {
            let start = Moment::now(count);
            work();
            start.elapsed()
        };
        let best = (0..SAMPLES).map(sample).min().unwrap_or_default();
        amount as f64 / best.max(Duration::from_nanos(1)).as_secs_f64()
    };
    if count == 1 { best() } else { rayon::broadcast(|_| best()).iter().sum() }
}

/// Eight cache lines that begin where one begins: loads across two of them would halve the rate.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Lines([u64; 64]);

fn read(bytes: usize) -> f64 {
    let passes = (SAMPLE_BYTES / bytes).max(1);
    rate(passes * bytes, || {
        let buffer = vec![Lines([1; 64]); bytes / size_of::<Lines>()];
        move || {
            black_box(folded(black_box(&buffer), passes));
        }
    })
}

wide! {
    /// Reads everything `passes` times, into as many sums as keep up with the loads.
    fn folded(buffer: &[Lines], passes: usize) -> u64 {
        let mut lanes = [0u64; 64];
        for _ in 0..passes {
            for lines in buffer {
                for (lane, word) in lanes.iter_mut().zip(&lines.0) {
                    *lane = lane.wrapping_add(*word);
                }
            }
        }
        lanes.iter().fold(0, |folded, lane| folded.wrapping_add(*lane))
    }
}

#[cfg(target_arch = "x86_64")]
mod chip {
    use super::super::isa::{Avx2, Avx512Vnni, Isa};
    use super::{Kind, STEPS, SUMS};
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Operations of one instruction, and the loop over [`STEPS`] of them for each of [`SUMS`] sums.
    pub(super) fn product(kind: Kind, isa: Isa) -> Option<(usize, fn())> {
        let wide = Avx512Vnni::detect().is_some();
        let fused = Avx2::detect().is_some() && is_x86_feature_detected!("fma");
        match (kind, isa) {
            (Kind::Int8, Isa::Avx512Vnni) if wide => Some((128, vnni)),
            (Kind::Int8, Isa::Avx2) if fused => Some((64, bytes)),
            (Kind::Bf16, _) if wide && is_x86_feature_detected!("avx512bf16") => Some((64, halves)),
            (Kind::F32, _) if wide => Some((32, floats)),
            (Kind::F32, _) if fused => Some((16, narrow_floats)),
            _ => None,
        }
    }

    /// A safe function that runs `sum = step(sum, a, b)` on independent sums.
    macro_rules! product_loop {
        ($(#[$about:meta])* $name:ident, $features:literal, $zero:expr, ($a:expr, $b:expr), $step:expr) => {
            $(#[$about])*
            fn $name() {
                #[target_feature(enable = $features)]
                fn run() {
                    let (a, b) = (black_box($a), black_box($b));
                    let mut sums = [$zero; SUMS];
                    for _ in 0..STEPS {
                        for sum in &mut sums {
                            *sum = $step(*sum, a, b);
                        }
                    }
                    black_box(sums);
                }
                // SAFETY: `product` hands this function out only after detection saw these features.
                unsafe { run() }
            }
        };
    }

    product_loop!(
        vnni,
        "avx512f,avx512vnni",
        _mm512_setzero_si512(),
        (_mm512_set1_epi8(1), _mm512_set1_epi8(1)),
        _mm512_dpbusd_epi32
    );
    product_loop!(
        bytes,
        "avx2",
        _mm256_setzero_si256(),
        (_mm256_set1_epi8(1), _mm256_set1_epi8(1)),
        // The sum is a factor too, or one product would do for all.
        |sum, a, b| _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(sum, b), a))
    );
    product_loop!(
        halves,
        "avx512f,avx512bf16",
        _mm512_setzero_ps(),
        (
            _mm512_cvtne2ps_pbh(_mm512_set1_ps(1.0), _mm512_set1_ps(1.0)),
            _mm512_cvtne2ps_pbh(_mm512_set1_ps(1.0), _mm512_set1_ps(1.0))
        ),
        _mm512_dpbf16_ps
    );
    product_loop!(floats, "avx512f", _mm512_setzero_ps(), (_mm512_set1_ps(1.0), _mm512_set1_ps(1.0)), |sum, a, b| {
        _mm512_fmadd_ps(a, b, sum)
    });
    product_loop!(
        narrow_floats,
        "avx2,fma",
        _mm256_setzero_ps(),
        (_mm256_set1_ps(1.0), _mm256_set1_ps(1.0)),
        |sum, a, b| _mm256_fmadd_ps(a, b, sum)
    );
}

#[cfg(not(target_arch = "x86_64"))]
mod chip {
    use super::super::isa::Isa;
    use super::Kind;

    /// No loop for this chip yet.
    pub(super) fn product(_: Kind, _: Isa) -> Option<(usize, fn())> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_bounded_by_the_level_below() {
        let peaks = Peaks { int8: None, bf16: None, f32: None, reads: [4.0, 3.0, 2.0, 1.0] };
        for (bytes, rate) in [(1, 4.0), (READ_BYTES[1] - 1, 4.0), (READ_BYTES[1], 3.0), (usize::MAX, 1.0)] {
            assert_eq!(peaks.read(bytes), rate, "{bytes}");
        }
    }

    #[test]
    fn every_word_is_read() {
        for index in [0, 63, 64, 255] {
            let mut buffer = vec![Lines([0; 64]); 4];
            buffer[index / 64].0[index % 64] = 1 << (index % 60);
            assert_eq!(folded(&buffer, 3), 3 << (index % 60));
        }
    }
}
