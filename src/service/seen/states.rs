//! States in Prometheus' words: read when somebody asks, from this server alone, so that they are never stale and never
//! another server's.

use std::fmt::Write;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::engine::Models;
use crate::service::connections::Connections;
use crate::service::inflight::Budget;

/// What is known from the beginning.
pub(in crate::service) struct States {
    started: SystemTime,
    connections: Connections,
    budget: Budget,
}

/// Name, kind and meaning of a metric.
type About<'a> = (&'a str, &'a str, &'a str);

impl States {
    /// Those of a server that begins now.
    pub fn new(connections: Connections, budget: Budget) -> Self {
        Self { started: SystemTime::now(), connections, budget }
    }

    /// All of them, as they are now.
    pub fn text(&self, models: &Models) -> String {
        let mut page = Page::default();
        page.one(("vljepa_models", "gauge", "Models that are served"), models.all().len() as f64);
        page.one(("vljepa_connections", "gauge", "Connections that are open"), self.connections.count() as f64);
        let about = "Messages of all calls, in and not answered or out and not written, bytes";
        page.one(("vljepa_inflight_bytes", "gauge", about), self.budget.held() as f64);
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
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            page.one(("process_open_fds", "gauge", "Open files and sockets"), open.count() as f64);
        }
    }
}

/// Memory of this process, bytes.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
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
    fn memory_is_told() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
