//! CIDEr-D: how much a text says what its reference says, counting most what few references say.
//!
//! Vedantam, Zitnick and Parikh, "CIDEr: Consensus-based Image Description Evaluation", 2015, section 4 with the changes of
//! its section on CIDEr-D: for n = 1 to 4 the cosine of TF-IDF vectors of n-grams, where a text cannot gain by repeating
//! (counts are clipped to the reference's), times `exp(-(difference in words)^2 / (2 * 6^2))`; their mean times 10. Document
//! frequencies are those of the references. Each document has one reference here.

use std::collections::{BTreeMap, BTreeSet};

/// Longest n-grams.
const LONGEST: usize = 4;
/// Standard deviation of the penalty on length, words.
const SIGMA: f64 = 6.0;
const SCALE: f64 = 10.0;

/// The references, and how rare their words are. Ordered maps, so that sums are the same on every run.
pub struct Cider {
    references: Vec<String>,
    documents: f64,
    frequency: BTreeMap<String, f64>,
}

/// A text as weights of n-grams.
struct Profile {
    /// By length of the n-grams less 1.
    weights: [BTreeMap<String, f64>; LONGEST],
    norms: [f64; LONGEST],
    words: f64,
}

impl Cider {
    /// A scorer for these references, a document each; equal ones count each time.
    pub fn new<S: AsRef<str>>(references: &[S]) -> Cider {
        let mut frequency = BTreeMap::new();
        for reference in references {
            let different: BTreeSet<String> = grams(&words(reference.as_ref())).map(|(_, gram)| gram).collect();
            different.into_iter().for_each(|gram| *frequency.entry(gram).or_insert(0.0) += 1.0);
        }
        let own = |reference: &S| reference.as_ref().to_owned();
        Cider { references: references.iter().map(own).collect(), documents: references.len() as f64, frequency }
    }

    /// The score of a text against a reference, by its index: 0 to 10. 0 where there is but one document, whose words are
    /// no rarer than others.
    ///
    /// # Panics
    /// If there is no such reference.
    pub fn score(&self, text: &str, reference: usize) -> f64 {
        let (text, reference) = (self.profile(text), self.profile(&self.references[reference]));
        let penalty = (-(text.words - reference.words).powi(2) / (2.0 * SIGMA * SIGMA)).exp();
        let cosine = |n: usize| {
            let norms = text.norms[n] * reference.norms[n];
            let shared = text.weights[n].iter().filter_map(|(gram, weight)| {
                let other = reference.weights[n].get(gram)?;
                Some(weight.min(*other) * other)
            });
            if norms > 0.0 { shared.sum::<f64>() / norms } else { 0.0 }
        };
        SCALE * penalty * (0..LONGEST).map(cosine).sum::<f64>() / LONGEST as f64
    }

    fn profile(&self, text: &str) -> Profile {
        let words = words(text);
        let mut weights: [BTreeMap<String, f64>; LONGEST] = Default::default();
        for (n, gram) in grams(&words) {
            let rarity = self.documents.ln() - self.frequency.get(&gram).map_or(0.0, |count| count.ln());
            *weights[n].entry(gram).or_insert(0.0) += rarity;
        }
        let norm = |weights: &BTreeMap<String, f64>| weights.values().map(|weight| weight * weight).sum::<f64>().sqrt();
        Profile { norms: weights.each_ref().map(norm), words: words.len() as f64, weights }
    }
}

/// Words in lower case without the marks around them.
pub fn words(text: &str) -> Vec<String> {
    let word = |part: &str| part.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    text.split_whitespace().map(word).filter(|word| !word.is_empty()).collect()
}

/// Every n-gram with its length less 1.
fn grams(words: &[String]) -> impl Iterator<Item = (usize, String)> {
    (0..LONGEST).flat_map(move |n| words.windows(n + 1).map(move |gram| (n, gram.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
    }

    #[test]
    fn scores_are_those_that_a_hand_computes() {
        let cider = Cider::new(&["a b", "a c"]);
        let penalty = (-1.0f64 / 72.0).exp();
        // "a" is in both references and weighs nothing; "b", "a b" and "b a" weigh ln 2.
        near(cider.score("a b a", 0), 10.0 / 4.0 * (1.0 + 1.0 / 2f64.sqrt()) * penalty);
        near(cider.score("c", 1), 10.0 / 4.0 * penalty);
        near(cider.score("a b", 0), 5.0); // it has no n-grams of three
        near(cider.score("", 0), 0.0);
        near(Cider::new(&["a b c d"]).score("a b c d", 0), 0.0);
    }

    /// The second figures are what pycocoevalcap 1.2 gives for these texts.
    #[test]
    fn scores_are_those_of_the_common_implementation() {
        let references = [
            "a large red circle moves left on a striped background",
            "a small blue square grows on a plain background",
            "three objects on a plain background",
            "a red circle and a blue square collide on a striped background",
            "a small blue square grows on a plain background",
        ];
        let cider = Cider::new(&references);
        let long = "a red circle and a blue square move on a gradient background and a red circle";
        let texts =
            [references[0], "a small red square grows on a plain background", "three objects", long, "unrelated"];
        for (index, expected) in
            [10.0, 4.853124384497194, 3.3024452490382785, 3.1440233908141386, 0.0].iter().enumerate()
        {
            near(cider.score(texts[index], index), *expected);
        }
        near(cider.score(texts[1], 0), 0.37007636844814673);
        near(cider.score(texts[3], 4), 0.11311818771976964);
    }

    #[test]
    fn repeating_does_not_pay_and_marks_do_not_count() {
        let cider = Cider::new(&["a red circle", "a blue square", "the sun"]);
        assert!(cider.score("red red red circle", 0) < cider.score("red circle", 0));
        near(cider.score("A red, circle!", 0), cider.score("a red circle", 0));
        assert_eq!(words(" - It's \u{e9}t\u{e9}. "), ["it's", "\u{e9}t\u{e9}"]);
    }
}
