//! The thread that reads a shard's rows, and puts texts together into lots. It is a little ahead of the engine, by units
//! and by the bytes of media that stand in the input itself.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::jobs::files::Files;
use crate::jobs::inputs;
use crate::jobs::{Fault, Item, MediaPlace, Row, Shard, Spec};
use crate::settings::Settings;

/// Units that are read and not begun.
const UNITS_AHEAD: usize = 4;
/// Texts of one lot together, bytes; a longer text is alone.
const LOT_BYTES: usize = 1 << 20;

/// Rows that go through the engine together.
pub(super) enum Unit {
    /// Texts, and rows between them that have failed already.
    Words(Vec<Row>),
    /// A picture or a clip.
    Media(Box<MediaRow>),
}

/// A row with media, and the room that it takes.
pub(super) struct MediaRow {
    pub row: Row,
    pub _held: Option<OwnedSemaphorePermit>,
}

/// Bytes that may be held, counted in KiB: a permit is a number of 32 bits.
#[derive(Clone)]
pub(super) struct Room {
    free: Arc<Semaphore>,
    all: u32,
}

impl Room {
    pub fn new(bytes_max: usize) -> Self {
        let all = u32::try_from(bytes_max / 1024).unwrap_or(u32::MAX).max(1);
        Self { free: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Waits for room for `bytes`; what is larger than all gets all.
    pub async fn hold(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Fault> {
        let permits = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.all);
        self.free.clone().acquire_many_owned(permits).await.map_err(|_| Fault::Stopped)
    }
}

/// Where rows come from.
pub(super) struct Reader(mpsc::Receiver<Result<Option<Unit>, Fault>>);

impl Reader {
    /// Begins to read.
    pub fn start(settings: &Settings, spec: Arc<Spec>, shard: Shard, files: Files) -> Self {
        let (units, reader) = mpsc::channel(UNITS_AHEAD);
        let sorter = Sorter {
            units,
            lot: Vec::new(),
            lot_bytes: 0,
            lot_rows_max: settings.jobs.texts_at_once,
            room: Room::new(settings.jobs.ahead_bytes_max),
            runtime: tokio::runtime::Handle::current(),
        };
        let settings = settings.clone();
        tokio::task::spawn_blocking(move || {
            let units = sorter.units.clone();
            let last = match inputs::rows(&spec, &shard, &files, &settings) {
                Ok(rows) => sorter.sort(rows),
                Err(fault) => Err(fault),
            };
            // Nobody listens any more where the attempt has been dropped.
            let _ = units.blocking_send(last.map(|()| None));
        });
        Self(reader)
    }

    /// The next unit; none at the end.
    pub async fn next(&mut self) -> Result<Option<Unit>, Fault> {
        // A reader that ends without a word has panicked.
        self.0.recv().await.unwrap_or_else(|| Err(Fault::Broken("reading the shard panicked".into())))
    }
}

/// Makes units of rows.
struct Sorter {
    units: mpsc::Sender<Result<Option<Unit>, Fault>>,
    lot: Vec<Row>,
    lot_bytes: usize,
    lot_rows_max: usize,
    room: Room,
    runtime: tokio::runtime::Handle,
}

impl Sorter {
    fn sort(mut self, rows: impl Iterator<Item = Result<Row, Fault>>) -> Result<(), Fault> {
        for row in rows {
            let row = row?;
            let bytes = match &row.item {
                Ok(Item::Media { place, .. }) => {
                    let held = match place {
                        MediaPlace::Bytes(content) => Some(self.runtime.block_on(self.room.hold(2 * content.len()))?),
                        MediaPlace::File(_) => None,
                    };
                    self.send_lot()?;
                    self.send(Unit::Media(Box::new(MediaRow { row, _held: held })))?;
                    continue;
                }
                Ok(Item::Text(text)) => text.len(),
                Err(_) => 0,
            };
            if self.lot_bytes + bytes > LOT_BYTES {
                self.send_lot()?;
            }
            self.lot.push(row);
            self.lot_bytes += bytes;
            if self.lot.len() >= self.lot_rows_max {
                self.send_lot()?;
            }
        }
        self.send_lot()
    }

    fn send_lot(&mut self) -> Result<(), Fault> {
        self.lot_bytes = 0;
        match std::mem::take(&mut self.lot) {
            lot if lot.is_empty() => Ok(()),
            lot => self.send(Unit::Words(lot)),
        }
    }

    fn send(&self, unit: Unit) -> Result<(), Fault> {
        self.units.blocking_send(Ok(Some(unit))).map_err(|_| Fault::Stopped)
    }
}
