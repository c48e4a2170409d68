//! A study as a table for people.

use std::fmt::{self, Display, Formatter};

use super::curve::{Point, Way};
use super::study::{Ratio, Study, VoiceReport};
use super::words::Voice;

impl Way {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Way::Uniform => "uniform",
            Way::WardMiddle => "Ward, middle",
            Way::WardMean => "Ward, mean",
            Way::Gate => "causal rule",
        }
    }
}

impl Display for Study {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Study { streams, seconds, windows, stretches, events, candidates, .. } = self;
        writeln!(
            f,
            "{streams} streams, {seconds:.0} s: {windows} windows, {stretches} stretches, {events} of them events"
        )?;
        let (own, control) = (self.separation, self.untrained);
        writeln!(f, "\nconsecutive embeddings    cut AUC  event AUC   mean distance: cut  event   hold")?;
        for (name, s) in [("model", Some(own)), ("untrained predictor", control)] {
            let Some(s) = s else { continue };
            let means = format!("{:.3}  {:.3}  {:.3}", s.cut_mean, s.event_mean, s.hold_mean);
            writeln!(f, "{name:<24} {:>8.3} {:>10.3}                {means}", s.cut_auc, s.event_auc)?;
        }
        let policy = &self.rule.policy;
        writeln!(f, "\nthe causal rule, chosen on other streams: {policy:?}, says {:?}", self.rule.said)?;
        let there = self.rule.point;
        writeln!(f, "there: {:.3} decodes a second, CIDEr {:.3}", there.rate_hz, there.score.cider)?;
        for voice in &self.voices {
            match voice.voice {
                Voice::Decoder => writeln!(f, "\nTHE DECODER SPEAKS")?,
                Voice::Nearest => writeln!(f, "\nTHE NEAREST OF {candidates} CAPTIONS")?,
            }
            write!(f, "{voice}")?;
        }
        Ok(())
    }
}

impl Display for VoiceReport {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let percent = |share: f64| 100.0 * share;
        let (rule, others): (Vec<_>, Vec<_>) = self.curves.iter().partition(|curve| curve.way == Way::Gate);
        write!(f, "CIDEr, % of events exact")?;
        others.iter().try_for_each(|curve| write!(f, "{:>16}", curve.way.name()))?;
        writeln!(f)?;
        for at in (0..others.first().map_or(0, |curve| curve.points.len())).rev() {
            for (column, point) in others.iter().filter_map(|curve| curve.points.get(at)).enumerate() {
                if column == 0 {
                    write!(f, "{:>21.4} Hz", point.rate_hz)?;
                }
                write!(f, "{:>9.3} {:>6.1}", point.score.cider, percent(point.score.events))?;
            }
            writeln!(f)?;
        }
        writeln!(f, "causal rule by threshold   rate Hz   CIDEr  exact %  events %  holds %")?;
        for curve in rule {
            let mut points: Vec<_> = curve.points.iter().rev().collect();
            points.dedup_by(|b, a| (a.rate_hz, a.score) == (b.rate_hz, b.score));
            for Point { rate_hz, threshold, score } in points {
                let [exact, events, holds] = [score.exact, score.events, score.holds].map(percent);
                let threshold = threshold.unwrap_or_default();
                write!(f, "{threshold:>24.3} {rate_hz:>9.4} {:>7.3} ", score.cider)?;
                writeln!(f, "{exact:>8.1} {events:>9.1} {holds:>8.1}")?;
            }
        }
        let (all, chosen) = (self.all, self.chosen);
        writeln!(
            f,
            "every embedding: {:.3} Hz, CIDEr {:.3}, events {:.1} %",
            all.rate_hz,
            all.score.cider,
            percent(all.score.events)
        )?;
        writeln!(f, "events that any window within says exactly: {:.1} %", percent(self.ceiling))?;
        let kept = chosen.score.cider / all.score.cider.max(f64::MIN_POSITIVE);
        writeln!(
            f,
            "the rule as chosen: {:.4} Hz, CIDEr {:.3}, {:.1} % of every embedding",
            chosen.rate_hz,
            chosen.score.cider,
            percent(kept)
        )?;
        writeln!(f, "\nat equal quality   share %  uniform Hz   Ward Hz  uniform/Ward   rule Hz  uniform/rule")?;
        for (index, ratio) in self.ratios.iter().enumerate() {
            let name = if index + 1 == self.ratios.len() { "uniform at 1 Hz" } else { "" };
            writeln!(f, "{}", ratio.line(name))?;
        }
        writeln!(f, "{}", self.kept.line("nearly everything"))
    }
}

impl Ratio {
    /// How many times as many decodes uniform decoding takes as another way.
    pub fn of_uniform(&self, other_hz: Option<f64>) -> Option<f64> {
        Some(self.uniform_hz? / other_hz?)
    }

    fn line(&self, name: &str) -> String {
        let number =
            |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        format!(
            "{name:<17} {:>8.1} {:>11} {:>9} {:>13} {:>9} {:>13}",
            100.0 * self.share,
            number(self.uniform_hz, 4),
            number(self.ward_hz, 4),
            number(self.of_uniform(self.ward_hz), 2),
            number(self.gate_hz, 4),
            number(self.of_uniform(self.gate_hz), 2),
        )
    }
}
