//! Which instruction set the integer kernels use, and the proof that this chip has it.
//!
//! A token such as [`Avx2`] can only be made by detection, so whoever holds one may call that kernel. The choice is
//! process-wide and made before matrices are packed: a packed matrix keeps the kernel that it was packed for.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that the integer kernels are written for; of each kind of chip the slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust; runs everywhere and is the meaning that the others must equal.
    Scalar,
    /// 256-bit vectors, byte products summed in 16 bits.
    Avx2,
    /// 256-bit vectors with the byte dot product `vpdpbusd`.
    AvxVnni,
    /// 512-bit vectors with the byte dot product `vpdpbusd`.
    Avx512Vnni,
    /// 128-bit vectors of aarch64, byte products summed in 16 bits.
    Neon,
    /// The same with the byte dot product `sdot`.
    NeonDot,
}

/// Why an instruction set cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// The name is none of ours.
    #[error("instruction set {0:?} is unknown: expected one of scalar, avx2, avxvnni, avx512vnni, neon, neondot")]
    Unknown(String),
    /// The chip lacks it.
    #[error("instruction set {0} is not available on this machine: the best here is {best}", best = Isa::best())]
    Unavailable(Isa),
}

impl Isa {
    /// Every instruction set, of each kind of chip the slowest first.
    pub const ALL: [Isa; 6] = [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni, Isa::Neon, Isa::NeonDot];

    /// Reads a name as [`Isa::name`] writes it, in any case.
    pub fn parse(name: &str) -> Result<Isa, IsaError> {
        let known = Isa::ALL.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(name.trim()));
        known.ok_or_else(|| IsaError::Unknown(name.to_owned()))
    }

    /// The name in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Neon => "neon",
            Isa::NeonDot => "neondot",
        }
    }

    /// Whether it multiplies bytes several times faster than this chip multiplies floats.
    pub fn multiplies_bytes(self) -> bool {
        !matches!(self, Isa::Scalar | Isa::Avx2 | Isa::Neon)
    }

    /// Whether this chip and operating system can run it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => Avx2::detect().is_some(),
            Isa::AvxVnni => AvxVnni::detect().is_some(),
            Isa::Avx512Vnni => Avx512Vnni::detect().is_some(),
            Isa::Neon => Neon::detect().is_some(),
            Isa::NeonDot => NeonDot::detect().is_some(),
        }
    }

    /// The fastest instruction set of this machine.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Isa, IsaError> {
        Isa::parse(name)
    }
}

/// The forced choice as an index into [`Isa::ALL`], or `UNFORCED`. It guards no other memory, hence relaxed.
static FORCED: AtomicU8 = AtomicU8::new(UNFORCED);
const UNFORCED: u8 = u8::MAX;

/// Makes every later packing and quantisation of this process use `isa`; refuses what the chip lacks.
pub fn force(isa: Isa) -> Result<(), IsaError> {
    if !isa.is_available() {
        return Err(IsaError::Unavailable(isa));
    }
    FORCED.store(isa as u8, Ordering::Relaxed);
    Ok(())
}

/// The instruction set in use: the forced one, else the best.
pub fn current() -> Isa {
    let forced = FORCED.load(Ordering::Relaxed);
    Isa::ALL.get(usize::from(forced)).copied().unwrap_or_else(Isa::best)
}

/// Proof that this chip has AVX2.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// A token if the chip and the operating system offer AVX2.
    pub fn detect() -> Option<Avx2> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            return Some(Avx2(()));
        }
        None
    }
}

/// Proof that this chip has AVX2 and AVX-VNNI.
#[derive(Clone, Copy, Debug)]
pub struct AvxVnni(());

impl AvxVnni {
    /// A token if the chip and the operating system offer AVX2 and AVX-VNNI.
    pub fn detect() -> Option<AvxVnni> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni") {
            return Some(AvxVnni(()));
        }
        None
    }
}

/// Proof that this chip has AVX-512 F, BW, VL and VNNI.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Vnni(());

impl Avx512Vnni {
    /// A token if the chip and the operating system offer AVX-512 F, BW, VL and VNNI.
    pub fn detect() -> Option<Avx512Vnni> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
        {
            return Some(Avx512Vnni(()));
        }
        None
    }
}

/// Proof that this chip has what [`Avx512Vnni`] proves, and byte permutations (VBMI).
#[derive(Clone, Copy, Debug)]
pub struct Avx512Vbmi(());

impl Avx512Vbmi {
    /// A token if the chip and the operating system offer all of it.
    pub fn detect() -> Option<Avx512Vbmi> {
        #[cfg(target_arch = "x86_64")]
        if Avx512Vnni::detect().is_some() && is_x86_feature_detected!("avx512vbmi") {
            return Some(Avx512Vbmi(()));
        }
        None
    }
}

/// Proof that this chip has NEON.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl Neon {
    /// A token if the chip and the operating system offer NEON.
    pub fn detect() -> Option<Neon> {
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            return Some(Neon(()));
        }
        None
    }
}

/// Proof that this chip has NEON and its byte dot product.
#[derive(Clone, Copy, Debug)]
pub struct NeonDot(());

impl NeonDot {
    /// A token if the chip and the operating system offer NEON and the byte dot product.
    pub fn detect() -> Option<NeonDot> {
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") && std::arch::is_aarch64_feature_detected!("dotprod") {
            return Some(NeonDot(()));
        }
        None
    }
}

/// Proof that this chip has the AVX-512 of the float loops and its bf16 dot product.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Bf16(());

impl Avx512Bf16 {
    /// A token if the chip and the operating system offer AVX-512 F, BW, DQ, VL and BF16.
    pub fn detect() -> Option<Avx512Bf16> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
        {
            return Some(Avx512Bf16(()));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_refused() {
        for (index, isa) in Isa::ALL.into_iter().enumerate() {
            assert_eq!(Isa::parse(isa.name()), Ok(isa));
            assert_eq!(Isa::parse(&format!(" {} ", isa.name().to_uppercase())), Ok(isa));
            assert_eq!(isa as usize, index, "FORCED stores the index into ALL");
        }
        let refused = Isa::parse("sse9").expect_err("no such set");
        assert!(refused.to_string().contains("sse9"));
    }

    #[test]
    fn the_best_is_available_and_what_the_chip_lacks_is_refused() {
        assert!(Isa::best().is_available());
        assert!(current().is_available());
        for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
            println!("this machine cannot run {isa}");
            assert_eq!(force(isa), Err(IsaError::Unavailable(isa)));
        }
    }
}
