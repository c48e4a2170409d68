//! Subtitles as players read them, SubRip or WebVTT, and moments of a stream as people do.

/// How cues are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Srt,
    Vtt,
}

/// What is on the screen for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cue {
    /// From when to when, milliseconds; the end is above the start.
    pub ms: [u64; 2],
    pub lines: Vec<String>,
}

impl Format {
    /// What stands before all cues.
    pub fn opening(self) -> &'static str {
        match self {
            Self::Srt => "",
            Self::Vtt => "WEBVTT\n\n",
        }
    }

    /// A cue with its number, from 1.
    pub fn cue(self, number: u64, cue: &Cue) -> String {
        let point = if self == Self::Srt { ',' } else { '.' };
        let [start, end] = cue.ms.map(|ms| clock_with(ms, point));
        let lines: Vec<String> = cue.lines.iter().map(|line| self.escaped(line)).collect();
        format!("{number}\n{start} --> {end}\n{}\n\n", lines.join("\n"))
    }

    /// WebVTT has escapes. SubRip has none, and players take tags and braces for commands: there signs stand that look
    /// alike.
    fn escaped(self, line: &str) -> String {
        match self {
            Self::Vtt => line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"),
            Self::Srt => {
                line.replace("-->", "→").replace('<', "‹").replace('>', "›").replace('{', "(").replace('}', ")")
            }
        }
    }
}

/// A moment of the stream, such as `00:01:23.500`; hours grow as they must.
pub(super) fn clock(ms: u64) -> String {
    clock_with(ms, '.')
}

fn clock_with(ms: u64, point: char) -> String {
    let (seconds, ms) = (ms / 1000, ms % 1000);
    format!("{:02}:{:02}:{:02}{point}{ms:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cues_are_written_as_players_read_them() {
        let lines = ["a & b <i>x</i> --> {\\an8}", "two"].map(str::to_owned).to_vec();
        let cue = Cue { ms: [0, 3_601_500], lines };
        assert_eq!(Format::Srt.cue(1, &cue), "1\n00:00:00,000 --> 01:00:01,500\na & b ‹i›x‹/i› → (\\an8)\ntwo\n\n");
        assert_eq!(
            Format::Vtt.cue(2, &cue),
            "2\n00:00:00.000 --> 01:00:01.500\na &amp; b &lt;i&gt;x&lt;/i&gt; --&gt; {\\an8}\ntwo\n\n"
        );
    }

    #[test]
    fn moments_are_written_with_all_their_digits() {
        assert_eq!(
            [0, 83_500, 3_599_999, 360_000_001].map(clock),
            ["00:00:00.000", "00:01:23.500", "00:59:59.999", "100:00:00.001"]
        );
    }
}
