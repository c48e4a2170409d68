//! States in Prometheus' words: read when somebody asks, from this server alone, so that they are never stale and never
//! another server's.

use std::fmt::Write;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Seen;
use crate::engine::{Load, Models, Passed, Snapshot};
use crate::jobs::State;
use crate::service::connections::Connections;
use crate::service::inflight::Budget;
use crate::service::watch::Live;
use crate::watch::Counted;

/// What is known from the beginning.
pub(in crate::service) struct States {
    started: SystemTime,
    connections: Connections,
    budget: Budget,
    seen: Seen,
    /// None where no sessions are served.
    sessions: Option<Live>,
}

/// Name, kind and meaning of a metric.
type About<'a> = (&'a str, &'a str, &'a str);

impl States {
    /// Those of a server that begins now.
    pub fn new(connections: Connections, budget: Budget, sessions: Option<Live>, seen: Seen) -> Self {
        Self { started: SystemTime::now(), connections, budget, seen, sessions }
    }

    /// All of them, as they are now; `jobs` by state, if their store could be read.
    pub fn text(&self, models: &Models, jobs: Option<&[(State, usize)]>) -> String {
        let mut page = Page::default();
        engines(&mut page, models);
        if let Some(jobs) = jobs {
            let counts = jobs.iter().map(|(state, count)| ([("state", state.name().into())], *count as f64));
            page.all(("vljepa_jobs", "gauge", "Jobs that are kept, by state"), counts);
        }
        page.one(("vljepa_connections", "gauge", "Connections that are open"), self.connections.count() as f64);
        page.one(("vljepa_calls_in_flight", "gauge", "Calls that have not ended"), self.seen.calls_open() as f64);
        let about = "Messages of all calls, in and not answered or out and not written, bytes";
        page.one(("vljepa_inflight_bytes", "gauge", about), self.budget.held() as f64);
        if let Some(sessions) = &self.sessions {
            let Counted { attached, detached } = sessions.counted();
            let counts = [("attached", attached), ("detached", detached)];
            let counts = counts.map(|(state, count)| ([("state", state.into())], count as f64));
            let about = "Live sessions, by whether a client has them or they wait for one";
            page.all(("vljepa_watch_sessions", "gauge", about), counts);
        }
        let (items, bytes) = models.uploads().held();
        page.one(("vljepa_uploads", "gauge", "Uploads on the disk"), items as f64);
        page.one(("vljepa_uploads_bytes", "gauge", "Their size together, bytes"), bytes as f64);
        self.process(&mut page);
        page.0
    }

    fn process(&self, page: &mut Page) {
        let build = [("version", env!("CARGO_PKG_VERSION").into()), ("target", std::env::consts::ARCH.into())];
        page.all(("vljepa_build_info", "gauge", "The program that runs, by its labels; always 1"), [(build, 1.0)]);
        let started = self.started.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        page.one(("process_start_time_seconds", "gauge", "When the server began, Unix time"), started);
        // Elsewhere than on Linux these are not told.
        if let Some(bytes) = resident_bytes() {
            page.one(("process_resident_memory_bytes", "gauge", "Memory that is held, bytes"), bytes as f64);
        }
        if let Some(seconds) = processor_seconds() {
            page.one(("process_cpu_seconds_total", "counter", "Processor time spent"), seconds);
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            page.one(("process_open_fds", "gauge", "Open files and sockets"), open.count() as f64);
        }
    }
}

/// How the models stand; each value has the name of its model.
fn engines(page: &mut Page, models: &Models) {
    let all: Vec<(String, Snapshot)> = models.all().into_iter().map(|(name, one)| (name, one.load())).collect();
    page.one(("vljepa_models", "gauge", "Models that are served"), all.len() as f64);
    let waiting = |count: fn(Load) -> usize| {
        let classes = all.iter().flat_map(|(name, one)| one.waiting.map(|(class, load)| (name, class, load)));
        classes.map(move |(name, class, load)| {
            ([("model", name.clone()), ("class", class.name().into())], count(load) as f64)
        })
    };
    page.all(("vljepa_queue_depth", "gauge", "Pieces of work that wait for the model"), waiting(|load| load.items));
    page.all(("vljepa_queue_cost_tokens", "gauge", "Cost of what waits, tokens"), waiting(|load| load.cost));
    let tokens = all.iter().flat_map(|(name, one)| {
        let Passed { vision, predictor, text, decoder } = one.passed;
        [("vision", vision), ("predictor", predictor), ("text", text), ("decoder", decoder)]
            .map(|(stage, tokens)| ([("model", name.clone()), ("stage", stage.into())], tokens as f64))
    });
    page.all(("vljepa_tokens_total", "counter", "Tokens that passed through each stage, equal ones once"), tokens);
    let mut each = |about: About, value: fn(&Snapshot) -> f64| {
        page.all(about, all.iter().map(|(name, one)| ([("model", name.clone())], value(one))));
    };
    let about = "How full the fullest bound is, 0 to 1; at 1 somebody is refused";
    each(("vljepa_saturation", "gauge", about), |one| one.saturation);
    let about = "Memory of what is decoded and not answered yet, bytes";
    each(("vljepa_media_bytes", "gauge", about), |one| one.media_bytes as f64);
    let about = "Texts whose embedding was remembered";
    each(("vljepa_text_cache_hits_total", "counter", about), |one| one.texts.hits as f64);
    let about = "Texts whose embedding was not remembered";
    each(("vljepa_text_cache_misses_total", "counter", about), |one| one.texts.misses as f64);
}

/// Memory of this process, bytes.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// Processor time of this process, seconds.
fn processor_seconds() -> Option<f64> {
    // Linux tells it in hundredths on every machine.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, in brackets, may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: Option<Vec<f64>> = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse().ok()).collect();
    Some(ticks?.iter().sum::<f64>() / TICKS_PER_SECOND)
}

/// What is written so far.
#[derive(Default)]
struct Page(String);

impl Page {
    /// A metric with all its values, each with its labels.
    fn all<L: AsRef<[(&'static str, String)]>>(&mut self, about: About, values: impl IntoIterator<Item = (L, f64)>) {
        self.begin(about);
        for (labels, value) in values {
            self.line(about.0, labels.as_ref(), value);
        }
    }

    /// A metric with one value and no label.
    fn one(&mut self, about: About, value: f64) {
        self.begin(about);
        self.line(about.0, &[], value);
    }

    fn begin(&mut self, (name, kind, about): About) {
        let _ = writeln!(self.0, "# HELP {name} {about}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, String)], value: f64) {
        let labels: Vec<_> = labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.all(("depth", "gauge", "How deep"), [([("model", "a\"b\\c\nd".to_string())], 1.5)]);
        page.one(("up", "gauge", "Well"), 0.0);
        let depth = "# HELP depth How deep\n# TYPE depth gauge\ndepth{model=\"a\\\"b\\\\c\\nd\"} 1.5\n";
        assert_eq!(page.0, format!("{depth}# HELP up Well\n# TYPE up gauge\nup 0\n"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_and_processor_time_are_told() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        let before = processor_seconds().expect("told");
        let began = std::time::Instant::now();
        while began.elapsed().as_millis() < 60 {
            std::hint::black_box(began);
        }
        assert!((0.01..60.0).contains(&(processor_seconds().expect("told") - before)));
    }
}
