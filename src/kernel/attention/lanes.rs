//! Vectors of floats of one instruction set, for attention's products and its softmax.
//!
//! A product is a sum of steps `sum + left * right`, where `left` is one word for all lanes and `right` a word a lane.
//! A word is a float, or two bf16 that one step multiplies and adds ([`Pairs`]): the loops over them are the same.

/// A vector of 32-bit words of one instruction set; `f32` itself is the vector of one.
///
/// # Safety
/// Every method needs the instruction set of its type; loads and stores need a pointer that is valid for
/// [`Lanes::WIDTH`] words.
pub(super) trait Lanes: Copy {
    /// Words of a vector.
    const WIDTH: usize;
    /// Vectors of a tile's line: with 6 lines, what the registers hold.
    const COLUMNS: usize;
    /// Values of a word.
    const PER_WORD: usize = 1;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + left * right`, of floats or of both halves of words.
    unsafe fn add_product(self, left: Self, right: Self) -> Self;
    unsafe fn plus(self, other: Self) -> Self;
    unsafe fn minus(self, other: Self) -> Self;
    unsafe fn times(self, other: Self) -> Self;
    /// The greater of each two, `other` where either is not a number.
    unsafe fn greater(self, other: Self) -> Self;
    /// `2^self`, 0 from -150 on down (from -127 where there is no instruction for it).
    unsafe fn power_of_two(self) -> Self;
    /// Words of the floats of `low` and `high` as bf16. Not called where a word is a float.
    unsafe fn pairs(low: Self, high: Self) -> Self;

    /// Stores the first `WIDTH` lines turned: lane `j` of line `i` at `to + j * step + i`, for `j` below `count`.
    /// `to` must be valid for vectors at these `count` places.
    #[inline(always)]
    unsafe fn store_turned(lines: &[Self; 16], to: *mut f32, step: usize, count: usize) {
        let mut lanes = [0.0; 16];
        for (index, line) in lines.iter().take(Self::WIDTH).enumerate() {
            // SAFETY: the caller vouches for the instruction set and the places.
            unsafe {
                line.store(lanes.as_mut_ptr());
                for (lane, &value) in lanes.iter().take(Self::WIDTH.min(count)).enumerate() {
                    *to.add(lane * step + index) = value;
                }
            }
        }
    }
}

/// `2^f` for `|f| <= 1/2`: minimax polynomial that is exact at 0, to 1.1e-7.
const FINE: [f32; 5] = [0.001_330_060_5, 0.009_669_691, 0.055_505_585, 0.240_222_83, std::f32::consts::LN_2];

/// `1 + f * (...)`, highest coefficient first.
///
/// # Safety
/// The instruction set of `L` is there.
#[inline(always)]
unsafe fn polynomial<L: Lanes>(f: L, coefficients: &[f32]) -> L {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let mut sum = L::splat(coefficients[0]);
        for &coefficient in &coefficients[1..] {
            sum = L::splat(coefficient).add_product(sum, f);
        }
        L::splat(1.0).add_product(sum, f)
    }
}

impl Lanes for f32 {
    const WIDTH: usize = 1;
    const COLUMNS: usize = 2;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        value
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for the pointer.
        unsafe { *from }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for the pointer.
        unsafe { *to = self }
    }
    #[inline(always)]
    unsafe fn add_product(self, left: Self, right: Self) -> Self {
        self + left * right
    }
    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        self - other
    }
    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        self * other
    }
    #[inline(always)]
    unsafe fn greater(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        let x = if self < -127.0 { -127.0 } else { self };
        let n = x.round_ties_even();
        // SAFETY: plain floats need no instruction set.
        let p = unsafe { polynomial(x - n, &FINE) };
        p * f32::from_bits(((n as i32 + 127) as u32) << 23)
    }
    #[inline(always)]
    unsafe fn pairs(_: Self, _: Self) -> Self {
        unreachable!("a word is a float")
    }
}

/// Implements [`Lanes`] by intrinsics: vector type, its words, vectors of a tile's line, then the operations.
macro_rules! lanes {
    (
        $vector:ty, $width:expr, $columns:expr, splat $splat:path, load $load:path, store $store:path,
        plus $plus:path, minus $minus:path, times $times:path, greater $greater:path,
        add_product($sum:ident, $left:ident, $right:ident) $product:expr,
        power_of_two($x:ident) $power:expr $(, turned $turned:path)? $(,)?
    ) => {
        impl Lanes for $vector {
            const WIDTH: usize = $width;
            const COLUMNS: usize = $columns;
            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $splat(value) }
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the caller vouches for the instruction set and the pointer.
                unsafe { $load(from) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: the caller vouches for the instruction set and the pointer.
                unsafe { $store(to, self) }
            }
            #[inline(always)]
            unsafe fn add_product(self, $left: Self, $right: Self) -> Self {
                let $sum = self;
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $product }
            }
            #[inline(always)]
            unsafe fn plus(self, other: Self) -> Self {
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $plus(self, other) }
            }
            #[inline(always)]
            unsafe fn minus(self, other: Self) -> Self {
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $minus(self, other) }
            }
            #[inline(always)]
            unsafe fn times(self, other: Self) -> Self {
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $times(self, other) }
            }
            #[inline(always)]
            unsafe fn greater(self, other: Self) -> Self {
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $greater(self, other) }
            }
            #[inline(always)]
            unsafe fn power_of_two(self) -> Self {
                let $x = self;
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $power }
            }
            #[inline(always)]
            unsafe fn pairs(_: Self, _: Self) -> Self {
                unreachable!("a word is a float")
            }
            $(#[inline(always)]
            unsafe fn store_turned(lines: &[Self; 16], to: *mut f32, step: usize, count: usize) {
                // SAFETY: the caller vouches for the instruction set and the places.
                unsafe {
                    for (lane, line) in $turned(lines).iter().take(count).enumerate() {
                        line.store(to.add(lane * step));
                    }
                }
            })?
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Pairs;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{FINE, Lanes, polynomial};

    /// The same to 1e-4, for sums that are rounded to bf16.
    const COARSE: [f32; 3] = [0.055_008_933, 0.242_210_95, 0.693_282_9];

    lanes!(
        __m512, 16, 4, splat _mm512_set1_ps, load _mm512_loadu_ps, store _mm512_storeu_ps,
        plus _mm512_add_ps, minus _mm512_sub_ps, times _mm512_mul_ps, greater _mm512_max_ps,
        add_product(sum, left, right) _mm512_fmadd_ps(left, right, sum),
        power_of_two(x) {
            let n = _mm512_roundscale_ps::<8>(x);
            _mm512_scalef_ps(polynomial(x.minus(n), &FINE), n)
        },
        turned turned_512,
    );

    /// The transposed 16 x 16 matrix: pairs of lines, pairs of pairs, then quarters of vectors.
    ///
    /// # Safety
    /// AVX-512 F is there.
    #[inline(always)]
    unsafe fn turned_512(lines: &[__m512; 16]) -> [__m512; 16] {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let mut twos = [_mm512_setzero_pd(); 16];
            for i in 0..8 {
                let (a, b) = (lines[2 * i], lines[2 * i + 1]);
                twos[2 * i] = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
                twos[2 * i + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
            }
            let mut fours = [_mm512_setzero_ps(); 16]; // [4 i + c]: columns c, c + 4, c + 8, c + 12 of four lines
            for i in 0..4 {
                for half in 0..2 {
                    let (a, b) = (twos[4 * i + half], twos[4 * i + half + 2]);
                    fours[4 * i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                    fours[4 * i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
                }
            }
            let mut columns = [_mm512_setzero_ps(); 16];
            for c in 0..4 {
                let [a, b, d, e] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
                let even = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(d, e));
                let odd = (_mm512_shuffle_f32x4::<0xDD>(a, b), _mm512_shuffle_f32x4::<0xDD>(d, e));
                columns[c] = _mm512_shuffle_f32x4::<0x88>(even.0, even.1);
                columns[4 + c] = _mm512_shuffle_f32x4::<0x88>(odd.0, odd.1);
                columns[8 + c] = _mm512_shuffle_f32x4::<0xDD>(even.0, even.1);
                columns[12 + c] = _mm512_shuffle_f32x4::<0xDD>(odd.0, odd.1);
            }
            columns
        }
    }

    lanes!(
        __m256, 8, 2, splat _mm256_set1_ps, load _mm256_loadu_ps, store _mm256_storeu_ps,
        plus _mm256_add_ps, minus _mm256_sub_ps, times _mm256_mul_ps, greater _mm256_max_ps,
        add_product(sum, left, right) _mm256_fmadd_ps(left, right, sum),
        power_of_two(x) {
            let x = Self::splat(-127.0).greater(x);
            let n = _mm256_cvtps_epi32(x);
            let bits = _mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)));
            polynomial(x.minus(_mm256_cvtepi32_ps(n)), &FINE).times(_mm256_castsi256_ps(bits))
        },
    );

    lanes!(
        __m128, 4, 2, splat _mm_set1_ps, load _mm_loadu_ps, store _mm_storeu_ps,
        plus _mm_add_ps, minus _mm_sub_ps, times _mm_mul_ps, greater _mm_max_ps,
        add_product(sum, left, right) _mm_add_ps(sum, _mm_mul_ps(left, right)),
        power_of_two(x) {
            let x = Self::splat(-127.0).greater(x);
            let n = _mm_cvtps_epi32(x);
            let bits = _mm_slli_epi32::<23>(_mm_add_epi32(n, _mm_set1_epi32(127)));
            polynomial(x.minus(_mm_cvtepi32_ps(n)), &FINE).times(_mm_castsi128_ps(bits))
        },
    );

    /// AVX-512 with words of two bf16 in products; sums and everything else are f32.
    #[derive(Clone, Copy)]
    pub struct Pairs(__m512);

    impl Lanes for Pairs {
        const WIDTH: usize = 16;
        const COLUMNS: usize = 4;
        const PER_WORD: usize = 2;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller vouches for the instruction set.
            Pairs(unsafe { __m512::splat(value) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller vouches for the instruction set and the pointer.
            Pairs(unsafe { __m512::load(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller vouches for the instruction set and the pointer.
            unsafe { self.0.store(to) }
        }
        #[inline(always)]
        unsafe fn add_product(self, left: Self, right: Self) -> Self {
            // SAFETY: the caller vouches for the instruction set; the three types are 64 bytes without meaning.
            unsafe {
                let (left, right) = (_mm512_castps_si512(left.0), _mm512_castps_si512(right.0));
                Pairs(_mm512_dpbf16_ps(
                    self.0,
                    std::mem::transmute::<__m512i, __m512bh>(left),
                    std::mem::transmute::<__m512i, __m512bh>(right),
                ))
            }
        }
        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            // SAFETY: the caller vouches for the instruction set.
            Pairs(unsafe { self.0.plus(other.0) })
        }
        #[inline(always)]
        unsafe fn minus(self, other: Self) -> Self {
            // SAFETY: the caller vouches for the instruction set.
            Pairs(unsafe { self.0.minus(other.0) })
        }
        #[inline(always)]
        unsafe fn times(self, other: Self) -> Self {
            // SAFETY: the caller vouches for the instruction set.
            Pairs(unsafe { self.0.times(other.0) })
        }
        #[inline(always)]
        unsafe fn greater(self, other: Self) -> Self {
            // SAFETY: the caller vouches for the instruction set.
            Pairs(unsafe { self.0.greater(other.0) })
        }
        #[inline(always)]
        unsafe fn power_of_two(self) -> Self {
            // SAFETY: the caller vouches for the instruction set.
            unsafe {
                let n = _mm512_roundscale_ps::<8>(self.0);
                Pairs(_mm512_scalef_ps(polynomial(self.0.minus(n), &COARSE), n))
            }
        }
        #[inline(always)]
        unsafe fn pairs(low: Self, high: Self) -> Self {
            // SAFETY: the caller vouches for the instruction set; __m512bh is 64 bytes like __m512i.
            unsafe {
                let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high.0, low.0));
                let order = _mm512_loadu_si512(INTERLEAVED.as_ptr().cast());
                Pairs(_mm512_castsi512_ps(_mm512_permutexvar_epi16(order, halves)))
            }
        }
        #[inline(always)]
        unsafe fn store_turned(lines: &[Self; 16], to: *mut f32, step: usize, count: usize) {
            // SAFETY: the caller vouches for the instruction set and the places.
            unsafe { __m512::store_turned(&lines.map(|line| line.0), to, step, count) }
        }
    }

    /// 0, 16, 1, 17 ...: what brings value i of the low and of the high half into word i.
    const INTERLEAVED: [u16; 32] = {
        let mut order = [0; 32];
        let mut word = 0;
        while word < 16 {
            order[2 * word] = word as u16;
            order[2 * word + 1] = word as u16 + 16;
            word += 1;
        }
        order
    };
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::aarch64::*;

    use super::{FINE, Lanes, polynomial};

    lanes!(
        float32x4_t, 4, 4, splat vdupq_n_f32, load vld1q_f32, store vst1q_f32,
        plus vaddq_f32, minus vsubq_f32, times vmulq_f32, greater vmaxq_f32,
        add_product(sum, left, right) vfmaq_f32(sum, left, right),
        power_of_two(x) {
            let x = Self::splat(-127.0).greater(x);
            let n = vcvtnq_s32_f32(x);
            let bits = vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127)));
            polynomial(x.minus(vcvtq_f32_s32(n)), &FINE).times(vreinterpretq_f32_s32(bits))
        },
    );
}

/// The widest vectors that every machine of the architecture has.
#[cfg(target_arch = "x86_64")]
pub(super) type Baseline = std::arch::x86_64::__m128;
/// The widest vectors that every machine of the architecture has.
#[cfg(target_arch = "aarch64")]
pub(super) type Baseline = std::arch::aarch64::float32x4_t;
/// Vectors of one, where we know of no others.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) type Baseline = f32;
