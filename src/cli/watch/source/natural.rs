//! The order in which people count: `frame_2` before `frame_10`.

use std::cmp::Ordering;

/// Compares names by turns of letters and numbers; where they are the same so far, byte by byte.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        match (left.first(), right.first()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, y) = (number(&mut left), number(&mut right));
                // Numbers of any length: the longer is the larger.
                let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
                if order.is_ne() {
                    return order;
                }
            }
            (Some(x), Some(y)) => {
                if x != y {
                    return x.cmp(y);
                }
                (left, right) = (&left[1..], &right[1..]);
            }
        }
    }
}

/// Takes the digits that it begins with; without the zeros before them.
fn number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|letter| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    let zeros = digits.iter().position(|&digit| digit != b'0').unwrap_or(digits.len());
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_count_as_numbers() {
        let sorted = [
            "",
            "0",
            "1",
            "01",
            "2",
            "10",
            "99999999999999999999998",
            "99999999999999999999999",
            "a",
            "a1",
            "a1b",
            "a1b2",
            "a1b10",
            "a02",
            "a10",
            "b",
        ];
        for (at, a) in sorted.iter().enumerate() {
            for (other, b) in sorted.iter().enumerate() {
                let expected = match (*a, *b) {
                    // Equal as numbers: then the bytes decide, "01" before "1".
                    ("1", "01") => Ordering::Greater,
                    ("01", "1") => Ordering::Less,
                    _ => at.cmp(&other),
                };
                assert_eq!(compare(a, b), expected, "{a:?} {b:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_an_order(a in "[a0-2]{0,6}", b in "[a0-2]{0,6}", c in "[a0-2]{0,6}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &b).is_eq(), a == b);
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
