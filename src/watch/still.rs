//! Whether a frame is the one before it again: asked of every frame of every session, so it must cost next to nothing.

/// Levels that are summed before it is asked whether the bound is passed; their sum fits 32 bits by far.
const RUN: usize = 4096;

const _: () = assert!(RUN * (u8::MAX as usize) <= u32::MAX as usize);

/// Whether the mean absolute difference of two pictures' levels is at most `still`, 0 to 255. Pictures of different size
/// are never the same, and where `still` is negative or no number none are.
pub fn is_still(one: &[u8], other: &[u8], still: f32) -> bool {
    if one.len() != other.len() || still.is_nan() || still < 0.0 {
        return false;
    }
    let most = f64::from(still) * one.len() as f64;
    let mut sum = 0;
    for (one, other) in one.chunks(RUN).zip(other.chunks(RUN)) {
        let run: u32 = one.iter().zip(other).map(|(&a, &b)| u32::from(a.abs_diff(b))).sum();
        sum += u64::from(run);
        if sum as f64 > most {
            return false;
        }
    }
    sum as f64 <= most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_the_same_up_to_the_bound_and_not_beyond() {
        let flat = vec![100; 10_000];
        let mut dot = flat.clone();
        dot[9_999] = 90;
        let brighter = vec![101; 10_000];
        let (black, white) = (vec![0; 10_000], vec![255; 10_000]);
        for (one, other, still, same) in [
            (&flat, &flat, 0.0, true),
            (&flat, &dot, 0.0, false),
            (&flat, &dot, 0.001, true),
            (&flat, &dot, 0.000_9, false),
            (&flat, &brighter, 1.0, true),
            (&flat, &brighter, 0.999, false),
            (&black, &white, 254.9, false),
            (&black, &white, 255.0, true),
            (&flat, &flat, -1.0, false),
            (&flat, &flat, f32::NAN, false),
            (&black, &white, f32::INFINITY, true),
        ] {
            assert_eq!(is_still(one, other, still), same, "{still}");
            assert_eq!(is_still(other, one, still), same, "{still}, the other way round");
        }
        assert!(!is_still(&flat, &flat[1..], 255.0), "of different size");
        assert!(is_still(&[], &[], 0.0) && !is_still(&[], &[], -1.0));
    }
}
