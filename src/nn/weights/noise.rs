//! Random parameters that cost next to nothing: of the right spread, uniform instead of normal, ternary codes drawn as
//! they are stored. For measuring models whose weights nobody has; training begins from better ones.

use super::Init;

/// A stream of 32-bit words (Marsaglia's xorshift with a multiplied output), one for each name.
pub(super) struct Noise(u64);

impl Noise {
    /// The stream of a name.
    pub(super) fn new(seed: u64, name: &str) -> Noise {
        Noise((seed ^ super::fresh::hash(name)) | 1)
    }

    fn word(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// Values with the standard deviation that `init` asks for.
    pub(super) fn values(mut self, shape: &[usize], init: Init) -> Vec<f32> {
        let count = shape.iter().product();
        let width = match init.deviation(shape) {
            Some(deviation) => deviation * 12f32.sqrt(),
            None => return vec![if init == Init::Ones { 1.0 } else { 0.0 }; count],
        };
        let value = |word: u32| ((word >> 8) as f32 / (1 << 24) as f32 - 0.5) * width;
        (0..count).map(|_| value(self.word())).collect()
    }

    /// Bytes of four ternary codes each (see kernel/ternary.rs), every sign as often as the others.
    pub(super) fn codes(mut self, count: usize) -> Vec<u8> {
        let pair = |code: usize, place: u32| (code / 3usize.pow(place) % 3) << (2 * place);
        let bytes: [u8; 81] = std::array::from_fn(|code| (0..4).map(|place| pair(code, place)).sum::<usize>() as u8);
        (0..count).map(|_| bytes[((self.word() >> 16) as usize * bytes.len()) >> 16]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ternary::TernaryMatrix;

    #[test]
    fn values_have_the_spread_asked_for() {
        let values = Noise::new(1, "a").values(&[64, 1024], Init::FanIn(2.0));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let square = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 1e-3 && (square.sqrt() - 0.0625).abs() < 1e-3, "{mean} {square}");
        assert_eq!(Noise::new(1, "a").values(&[3], Init::Ones), [1.0; 3]);
        assert_eq!(Noise::new(1, "a").values(&[3], Init::Zeros), [0.0; 3]);
    }

    #[test]
    fn codes_are_signs_each_as_often() {
        let matrix = TernaryMatrix::from_packed(64, 512, Noise::new(1, "a").codes(16 * 512), 1.0).expect("signs only");
        let mut counts = [0; 3];
        for at in 0..64 * 512 {
            counts[(matrix.sign(at / 512, at % 512) + 1) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (10_500..11_400).contains(count)), "{counts:?}");
    }
}
