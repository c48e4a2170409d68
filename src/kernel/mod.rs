//! Products, attention and element-wise loops on plain slices, one instruction set a file.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod isa;
pub mod micro;
pub mod packed;
pub mod quantize;
mod scalar;
pub mod ternary;
