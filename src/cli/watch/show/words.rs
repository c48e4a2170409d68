//! How times, texts and drifts are written for people.

/// A text on one line and without what could steer a terminal: answers come from models and from servers.
pub(super) fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Its beginning, if it is longer than so many characters.
pub(super) fn beginning(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// Values as a row of bars, the largest full, unless all are below `full`. What is no number is a gap.
pub(super) fn sparkline(values: impl Iterator<Item = f64> + Clone, full: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.clone().filter(|value| value.is_finite()).fold(full, f64::max);
    let bar = |value: f64| match value.is_finite() && most > 0.0 {
        // A cast saturates.
        true => BARS[((value / most * 8.0) as usize).min(7)],
        false => ' ',
    };
    values.map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_on_their_line() {
        assert_eq!(one_line(" a\r\n\tb \u{1b}[31mc\u{7}  d "), "a b [31mc d");
        assert_eq!([beginning("häuser", 2), beginning("hä", 2)], ["hä…", "hä"]);
    }

    #[test]
    fn bars_are_in_proportion() {
        let bars = |values: &[f64], full| sparkline(values.iter().copied(), full);
        assert_eq!(bars(&[0.0, 0.5, 1.0, f64::NAN, -1.0, f64::INFINITY], 0.2), "▁▅█ ▁ ");
        assert_eq!(bars(&[0.01, 0.02], 0.2), "▁▁");
        assert_eq!(bars(&[0.0], 0.0), " ");
        assert_eq!(bars(&[], 1.0), "");
    }
}
