//! From a scenario to pixels: coverage-antialiased outlines over a procedural background, then light and
//! noise. Apart because it is the only hot code here: about a millisecond a clip of 8 frames of 64x64.

use super::palette::Pattern;
use super::scenario::{Background, Light, Object, Pose, Scenario};
use super::shapes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::OnceLock;

impl Scenario {
    /// The frames, each `size * size` RGB8 pixels, rows from the top. The same scenario gives the same bytes.
    pub fn render(&self, size: usize) -> Vec<Vec<u8>> {
        let drawn = if self.still { 1 } else { self.frames };
        let mut painter = Painter::new(&self.objects, &self.background, &self.light, self.grain, size);
        let mut frames: Vec<_> = (0..drawn).map(|frame| painter.frame(self.time(frame), frame as u64)).collect();
        let last = frames[drawn - 1].clone();
        frames.resize(self.frames, last);
        frames
    }
}

/// Draws one scene, frame after frame; the background, and objects that stay as they are, are worked out once.
pub(super) struct Painter<'a> {
    objects: &'a [Object],
    light: &'a Light,
    grain: u64,
    size: usize,
    backdrop: Vec<[f32; 3]>,
    canvas: Vec<[f32; 3]>,
    stamps: Vec<Option<Stamp>>,
}

impl<'a> Painter<'a> {
    /// A painter of frames of `size * size` pixels.
    pub fn new(objects: &'a [Object], background: &Background, light: &'a Light, grain: u64, size: usize) -> Self {
        let backdrop = background.paint(size, grain);
        let stamps = objects.iter().map(|_| None).collect();
        Self { objects, light, grain, size, canvas: backdrop.clone(), backdrop, stamps }
    }

    /// The scene at `time`, in the unit of the objects' tracks; every number has a noise of its own.
    pub fn frame(&mut self, time: f32, number: u64) -> Vec<u8> {
        self.canvas.copy_from_slice(&self.backdrop);
        for (object, stamp) in self.objects.iter().zip(&mut self.stamps).rev() {
            let Some(pose) = object.at(time) else {
                continue;
            };
            if stamp.as_ref().is_none_or(|stamp| stamp.pose != pose) {
                *stamp = Some(Stamp::cut(object, pose, self.size));
            }
            if let Some(stamp) = stamp {
                stamp.press(&mut self.canvas, self.size);
            }
        }
        self.light.expose(&self.canvas, self.size, self.grain ^ number)
    }
}

/// An object's coverage of the pixels of its bounding box; kept while the object stays as it is.
struct Stamp {
    pose: Pose,
    left: usize,
    top: usize,
    width: usize,
    coverage: Vec<f32>,
}

impl Stamp {
    fn cut(object: &Object, pose: Pose, size: usize) -> Self {
        let scale = size as f32;
        let reach = 1.2 * pose.radius + 1.0 / scale;
        let pixel = |at: f32| (at * scale).clamp(0.0, scale) as usize;
        let (left, right) = (pixel(pose.x - reach), pixel(pose.x + reach + 1.0 / scale));
        let (top, bottom) = (pixel(pose.y - reach), pixel(pose.y + reach + 1.0 / scale));
        let mut coverage = Vec::with_capacity((right - left) * (bottom - top));
        for row in top..bottom {
            let y = (row as f32 + 0.5) / scale;
            coverage.extend((left..right).map(|column| {
                let x = (column as f32 + 0.5) / scale;
                let distance = shapes::distance_at(object.shape, object.tilt, &pose, x, y);
                (0.5 - distance * scale).clamp(0.0, 1.0)
            }));
        }
        Self { pose, left, top, width: right - left, coverage }
    }

    fn press(&self, canvas: &mut [[f32; 3]], size: usize) {
        if self.width == 0 {
            return;
        }
        for (row, coverage) in self.coverage.chunks_exact(self.width).enumerate() {
            let start = (self.top + row) * size + self.left;
            for (pixel, share) in canvas[start..start + self.width].iter_mut().zip(coverage) {
                *pixel = mix(*pixel, self.pose.paint, *share);
            }
        }
    }
}

fn mix(from: [f32; 3], to: [f32; 3], share: f32) -> [f32; 3] {
    [0, 1, 2].map(|channel| from[channel] + (to[channel] - from[channel]) * share)
}

impl Background {
    /// `size * size` pixels, RGB 0..255.
    fn paint(&self, size: usize, grain: u64) -> Vec<[f32; 3]> {
        let scale = size as f32;
        let (sin, cos) = self.angle.sin_cos();
        let mut pixels = Vec::with_capacity(size * size);
        for row in 0..size {
            let y = (row as f32 + 0.5) / scale - 0.5;
            pixels.extend((0..size).map(|column| {
                let x = (column as f32 + 0.5) / scale - 0.5;
                let (u, v) = (cos * x + sin * y, cos * y - sin * x);
                mix(self.first, self.second, self.share(u, v, scale, grain))
            }));
        }
        pixels
    }

    /// How much of the second shade lies at (`u`, `v`), the picture's middle being the origin.
    fn share(&self, u: f32, v: f32, scale: f32, grain: u64) -> f32 {
        let wave = |at: f32| {
            let within = (at / self.period + self.phase).rem_euclid(1.0);
            (0.5 + ((within - 0.5).abs() - 0.25) * self.period * scale).clamp(0.0, 1.0)
        };
        match self.pattern {
            Pattern::Plain => 0.0,
            Pattern::Gradient => (0.5 + u / 1.2).clamp(0.0, 1.0),
            Pattern::Striped => wave(u),
            Pattern::Checkered => {
                let (a, b) = (wave(u), wave(v));
                a + b - 2.0 * a * b
            }
            Pattern::Spotted => {
                let (a, b) = (u / self.period + self.phase, v / self.period + self.phase);
                let cell = (a.floor() as i64 as u64) << 32 ^ (b.floor() as i64 as u64 & 0xffff_ffff);
                let bits = scramble(cell ^ grain);
                let jitter = |shift: u32| 0.5 + 0.16 * ((bits >> shift & 0xff) as f32 / 127.5 - 1.0);
                let radius = 0.24 + 0.1 * ((bits >> 16 & 0xff) as f32 / 255.0);
                let (a, b) = (a - a.floor() - jitter(0), b - b.floor() - jitter(8));
                (0.5 - (a.hypot(b) - radius) * self.period * scale).clamp(0.0, 1.0)
            }
        }
    }
}

impl Light {
    /// The canvas as a camera would store it.
    fn expose(&self, canvas: &[[f32; 3]], size: usize, grain: u64) -> Vec<u8> {
        let table = noise_table();
        let mut bytes = Vec::with_capacity(canvas.len() * 3);
        for (row, pixels) in canvas.chunks_exact(size).enumerate() {
            let start = scramble(grain.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ row as u64) as usize;
            let noise = table.iter().cycle().skip(start % table.len());
            let lit = pixels
                .iter()
                .flat_map(|pixel| [0, 1, 2].map(|channel| pixel[channel] * self.gain[channel] + self.offset + 0.5));
            // A float cast saturates at 0 and 255.
            bytes.extend(lit.zip(noise).map(|(value, noise)| (value + noise * self.noise) as u8));
        }
        bytes
    }
}

/// Standard normal values, the same in every process; rows of pixels read it from random places.
fn noise_table() -> &'static [f32] {
    static TABLE: OnceLock<Vec<f32>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut rng = ChaCha8Rng::seed_from_u64(0x6e_6f69_7365);
        // Twelve even draws sum to a variance of one: close enough to a bell for pixel noise.
        (0..8191).map(|_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0).collect()
    })
}

/// A fixed, well-mixed hash of 64 bits (the finaliser of SplitMix64).
fn scramble(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
