//! The log of a server: lines on standard error, written by a thread of their own.
//!
//! Nobody who answers calls may wait for whoever reads the log: lines stand in a bounded queue, and those for which
//! there is no room are lost, counted and told.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::settings::LogSettings;

/// Lines that may wait to be written.
const LINES_MAX: usize = 8192;

/// How long the end of the process waits for the last lines to be read.
const FLUSH_MAX: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    /// All lines before this one are to be written; then it is answered.
    Flush(SyncSender<()>),
}

/// Where lines go; all clones are one.
#[derive(Clone)]
struct Lines {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

/// The log; its end waits for the last lines.
pub(super) struct Log(Lines);

impl Log {
    /// Logs to standard error from now on.
    pub(super) fn to_stderr(settings: &LogSettings) -> anyhow::Result<Self> {
        let named = || format!("log.filter is {:?}", settings.filter);
        let filter = EnvFilter::try_new(&settings.filter).with_context(named)?;
        let lines = Lines::to(io::stderr())?;
        let colours = io::stderr().is_terminal();
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(lines.clone());
        if settings.format == "json" {
            // Fields at the top, where programs look for them.
            log.json().flatten_event(true).init()
        } else {
            log.init()
        }
        Ok(Self(lines))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush(FLUSH_MAX);
    }
}

impl Lines {
    /// Starts the thread that writes to `out`. Fails if the system gives none.
    fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, messages) = sync_channel(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let lines = Self { queue, lost: lost.clone() };
        std::thread::Builder::new().name("log".into()).spawn(move || write(&messages, &lost, BufWriter::new(out)))?;
        Ok(lines)
    }

    /// Waits until all lines are written, at most `longest`; says whether they are.
    fn flush(&self, longest: Duration) -> bool {
        let (done, flushed) = sync_channel(1);
        let until = Instant::now() + longest;
        while self.queue.try_send(Message::Flush(done.clone())).is_err() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        flushed.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok()
    }
}

/// Writes until nobody can send any more. That nobody reads is no reason to end: there is nobody to tell it to.
fn write(messages: &Receiver<Message>, lost: &AtomicU64, mut out: impl Write) {
    while let Ok(first) = messages.recv() {
        for message in std::iter::once(first).chain(messages.try_iter()) {
            match message {
                Message::Line(line) => drop(out.write_all(&line)),
                Message::Flush(done) => {
                    let _ = out.flush();
                    let _ = done.try_send(());
                }
            }
            let lost = lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let _ = writeln!(out, "{lost} log lines were lost: the log is read too slowly");
            }
        }
        let _ = out.flush();
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Lines {
    /// Takes a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.into())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// A reader that takes lines only while the gate is open.
    #[derive(Clone, Default)]
    struct Reader(Arc<(Mutex<()>, Mutex<Vec<u8>>)>);

    impl Reader {
        fn closed(&self) -> MutexGuard<'_, ()> {
            self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.1.lock().expect("no panic").clone()).expect("UTF-8")
        }
    }

    struct Out(Reader, Option<Sender<()>>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.take().map(|stuck| stuck.send(()));
            drop(self.0.closed());
            self.0.0.1.lock().expect("no panic").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_arrive_whole_and_in_their_order() {
        let reader = Reader::default();
        let mut lines = Lines::to(Out(reader.clone(), None)).expect("a thread");
        for at in 0..100 {
            writeln!(lines.make_writer(), "line {at}").expect("never fails");
        }
        lines.write_all(b"last\n").expect("never fails");
        assert!(lines.flush(Duration::from_secs(10)));
        let expected: String = (0..100).map(|at| format!("line {at}\n")).collect();
        assert_eq!(reader.text(), expected + "last\n");
    }

    #[test]
    fn a_log_that_nobody_reads_stops_nobody_and_tells_what_was_lost() {
        let reader = Reader::default();
        let closed = reader.closed();
        let (stuck, is_stuck) = channel();
        let mut lines = Lines::to(Out(reader.clone(), Some(stuck))).expect("a thread");
        lines.write_all(&[b'x'; 1 << 16]).expect("never fails");
        is_stuck.recv().expect("it writes");
        for _ in 0..LINES_MAX + 7 {
            lines.write_all(b"line\n").expect("never fails");
        }
        assert!(!lines.flush(Duration::from_millis(20)), "nobody reads");
        drop(closed);
        assert!(lines.flush(Duration::from_secs(10)));
        assert!(reader.text().contains("7 log lines were lost"));
        assert_eq!(reader.text().matches("line\n").count(), LINES_MAX);
    }
}
