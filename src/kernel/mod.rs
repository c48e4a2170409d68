//! Products, attention and element-wise loops on plain slices, one instruction set a file.
//!
//! The only floor with `std::arch`, rayon and (but for the mmap of weights) `unsafe`. Kernels return no errors: their
//! preconditions are types and asserts.

pub mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
pub mod clock;
pub mod dense;
pub mod elementwise;
mod finish;
pub mod gemm;
pub mod int8;
mod interleave;
pub mod isa;
pub mod lookup;
pub mod micro;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neondot;
pub mod packed;
pub mod peak;
pub mod pulse;
pub mod quantize;
mod scalar;
mod shared;
pub mod tally;
pub mod ternary;
pub mod threads;
pub mod trits;
#[cfg(target_arch = "x86_64")]
mod trits_avx512;
mod wide;
