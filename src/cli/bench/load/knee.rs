//! The knee: the highest rate at which a server still keeps its word.
//!
//! The search knows nothing of servers: it is given a measurement, so that its rule is a table.

use serde::Serialize;

use super::ledger::Figures;

/// What a server must do at a rate for the rate to count.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Rule {
    /// The latency of OK answers from their intended start, 99th percentile.
    pub(super) p99_max_ms: f64,
    /// The share of OK answers among all that was scheduled.
    pub(super) ok_share_min: f64,
}

impl Rule {
    /// Whether these figures keep it.
    pub(super) fn holds(&self, figures: &Figures) -> bool {
        figures.scheduled > 0 && figures.ok.p99_ms <= self.p99_max_ms && figures.ok_share() >= self.ok_share_min
    }
}

/// How the rates go: by factors up to the first that fails, then by halves between the last two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search {
    pub(super) first: f64,
    pub(super) factor: f64,
    /// Ends when the knee is known to this factor.
    pub(super) precision: f64,
    pub(super) rate_max: f64,
    pub(super) rate_min: f64,
}

/// The knee and every rate on the way there.
pub(super) async fn find<R>(
    search: Search,
    mut measure: impl AsyncFnMut(f64) -> anyhow::Result<R>,
    holds: impl Fn(&R) -> bool,
) -> anyhow::Result<(Option<f64>, Vec<(f64, R)>)> {
    let Search { first, factor, precision, rate_max, rate_min } = search;
    let (mut below, mut above) = (None::<f64>, None::<f64>);
    let mut steps = Vec::new();
    let mut rate = first.clamp(rate_min, rate_max);
    loop {
        let measured = measure(rate).await?;
        match holds(&measured) {
            true => below = Some(rate),
            false => above = Some(rate),
        }
        steps.push((rate, measured));
        rate = match (below, above) {
            (Some(below), Some(above)) if above / below <= precision => break,
            (Some(below), Some(above)) => (below * above).sqrt(),
            (Some(below), None) if below < rate_max => (below * factor).min(rate_max),
            (None, Some(above)) if above > rate_min => (above / factor).max(rate_min),
            // All rates hold, or none.
            _ => break,
        };
    }
    Ok((below, steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEARCH: Search = Search { first: 10.0, factor: 2.0, precision: 1.05, rate_max: 1000.0, rate_min: 1.0 };

    async fn knee(holds_to: f64) -> (Option<f64>, usize) {
        let (knee, steps) =
            find(SEARCH, async |rate| Ok(rate), |&rate| rate <= holds_to).await.expect("measuring works");
        (knee, steps.len())
    }

    #[tokio::test]
    async fn the_knee_is_found_from_both_sides() {
        for truth in [1.5, 9.0, 10.0, 137.0, 999.0] {
            let (knee, steps) = knee(truth).await;
            let knee = knee.expect("there is one");
            assert!(knee <= truth && truth / knee <= 1.05, "{knee} for {truth}");
            assert!(steps <= 14, "{steps} steps for {truth}");
        }
    }

    #[tokio::test]
    async fn without_a_knee_the_search_ends() {
        assert_eq!(knee(0.1).await.0, None);
        assert_eq!(knee(1e9).await.0, Some(1000.0));
    }

    #[tokio::test]
    async fn a_measurement_that_fails_ends_it() {
        let outcome = find(SEARCH, async |_| -> anyhow::Result<f64> { anyhow::bail!("no server") }, |_| true).await;
        assert_eq!(outcome.expect_err("it failed").to_string(), "no server");
    }
}
