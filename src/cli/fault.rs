//! A fault that tests ask a whole process for; a release build has no such thing.

use tokio::signal::unix::{SignalKind, signal};

use crate::engine::Models;

/// From now on SIGUSR1 makes the threads of all models panic.
pub(super) fn panic_by_signal(models: Models) -> anyhow::Result<()> {
    let mut asked = signal(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        asked.recv().await;
        models.all().iter().for_each(|(_, engine)| engine.panic_model_thread());
    });
    Ok(())
}
