//! One loop body, compiled for each vector width.
//!
//! The `wide!` macro writes a plain Rust loop once and compiles it three times: for AVX-512, for AVX2 and for the
//! baseline of the build. The compiler vectorises each copy; the choice is made at run time. Only float loops use it:
//! their results may differ in the last bits between widths. Integer kernels, which must not, live in files of their own.

use std::sync::OnceLock;

/// The widest vectors that this chip offers to the float loops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Width {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Baseline,
}

/// Detects once, then answers from memory.
pub(crate) fn width() -> Width {
    static WIDTH: OnceLock<Width> = OnceLock::new();
    *WIDTH.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if fma
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                return Width::Avx512;
            }
            if fma {
                return Width::Avx2;
            }
        }
        Width::Baseline
    })
}

/// Declares a function whose body is compiled once for each vector width and chosen at run time.
macro_rules! wide {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            match $crate::kernel::wide::width() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: width() answers Avx512 only after it detected every feature enabled above.
                $crate::kernel::wide::Width::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: width() answers Avx2 only after it detected avx2 and fma.
                $crate::kernel::wide::Width::Avx2 => unsafe { avx2($($arg),*) },
                $crate::kernel::wide::Width::Baseline => body($($arg),*),
            }
        }
    };
}
pub(crate) use wide;
