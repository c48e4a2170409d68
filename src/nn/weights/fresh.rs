//! Parameters that no file holds: random numbers, the same for the same seed and name whatever the order of asking.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Init;

impl Init {
    /// The standard deviation of random values; None for constants.
    pub(super) fn deviation(self, shape: &[usize]) -> Option<f32> {
        match self {
            Init::Zeros | Init::Ones => None,
            Init::Normal(deviation) => Some(deviation),
            Init::FanIn(gain) => Some(gain / (shape[1..].iter().product::<usize>().max(1) as f32).sqrt()),
        }
    }
}

/// FNV-1a: any fixed hash will do, it only has to be the same everywhere.
pub(super) fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// A stream of random numbers for each name, so that the order of asking does not matter.
pub(super) fn fresh_values(seed: u64, name: &str, shape: &[usize], init: Init) -> Vec<f32> {
    let count = shape.iter().product();
    let Some(deviation) = init.deviation(shape) else {
        return vec![if init == Init::Ones { 1.0 } else { 0.0 }; count];
    };
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ hash(name));
    let mut unit = || (random.next_u32() >> 8) as f32 / (1u32 << 24) as f32;
    let mut normal = || loop {
        // Box-Muller
        let (radius, angle) = ((-2.0 * (1.0 - unit()).ln()).sqrt(), std::f32::consts::TAU * unit());
        let value = radius * angle.cos();
        if value.abs() <= 2.0 {
            return value;
        }
    };
    (0..count).map(|_| normal() * deviation).collect()
}
