//! The connection to the servers of the queue. A request that they do not answer, because one of them has died and the
//! others elect its successor, is made again: every request of this room may be made twice.

use std::fmt::Display;
use std::time::Duration;

use async_nats::ServerAddr;
use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{self, Context};
use tokio::time::Instant;

use crate::jobs::StoreError;
use crate::settings::ClusterSettings;

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Time that one request gets before it is made again.
const REQUEST_MAX: Duration = Duration::from_secs(3);
const AGAIN_AFTER: Duration = Duration::from_millis(50);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(1);

/// A connection that is made again whenever it breaks; cheap to clone.
#[derive(Clone)]
pub(super) struct Connection {
    context: Context,
    place: String,
    patience: Duration,
    /// Bytes of one message.
    message_bytes_max: usize,
}

impl Connection {
    /// Connects to the first server that answers.
    pub(super) async fn open(settings: &ClusterSettings) -> Result<Self, StoreError> {
        let url = settings.url.as_deref().unwrap_or_default();
        let place = places(url);
        let broken = |problem: String| StoreError::Broken { place: place.clone(), problem };
        let servers: Vec<ServerAddr> = url
            .split(',')
            .map(|server| server.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(|error| broken(format!("cluster.url: {error}")))?;
        let mut options = async_nats::ConnectOptions::new()
            .name("vljepa")
            .connection_timeout(CONNECT_MAX)
            // A server that is stopped, not dead, answers no ping: then another one is asked.
            .ping_interval(Duration::from_millis((settings.lease_ms / 4).clamp(500, 20_000)))
            .reconnect_delay_callback(|attempt| (AGAIN_AFTER * attempt as u32).min(AGAIN_AFTER_MAX));
        if let Some(file) = &settings.credentials {
            let named = |error| broken(format!("cluster.credentials {}: {error}", file.display()));
            options = options.credentials_file(file).await.map_err(named)?;
        }
        if let Some(token) = &settings.token {
            options = options.token(token.reveal().into());
        }
        if let Some(ca) = &settings.ca {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        let client = options.connect(servers).await.map_err(|error| broken(error.to_string()))?;
        let message_bytes_max = client.server_info().max_payload;
        let mut context = jetstream::new(client);
        context.set_timeout(REQUEST_MAX);
        let patience = Duration::from_millis(settings.patience_ms);
        Ok(Self { context, place, patience, message_bytes_max })
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// The bytes that one value may have: the rest of a message is for its headers.
    pub(super) fn value_bytes_max(&self) -> usize {
        self.message_bytes_max.saturating_sub(4 << 10)
    }

    pub(super) fn broken(&self, problem: String) -> StoreError {
        StoreError::Broken { place: self.place.clone(), problem }
    }

    /// Makes a request again until it is answered or the patience ends.
    pub(super) async fn insist<T, E: Display, F: Future<Output = Result<T, E>>>(
        &self,
        what: &str,
        mut request: impl FnMut() -> F,
    ) -> Result<T, StoreError> {
        let until = Instant::now() + self.patience;
        let mut pause = AGAIN_AFTER;
        loop {
            let problem = match tokio::time::timeout(REQUEST_MAX, request()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} ms", REQUEST_MAX.as_millis()),
            };
            if Instant::now() + pause >= until {
                return Err(self.broken(format!("{what}: {problem}")));
            }
            tracing::debug!(what, problem, "asked again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN_AFTER_MAX);
        }
    }

    /// What the servers keep under `config.name`, made if it is not there.
    pub(super) async fn stream(&self, config: &Config) -> Result<Stream, StoreError> {
        let what = format!("stream {}", config.name);
        self.insist(&what, || self.context.get_or_create_stream(config.clone())).await
    }
}

/// The servers of a list as they may be told: without the passwords in their addresses.
fn places(url: &str) -> String {
    let place = |server: &str| {
        let (scheme, rest) = server.trim().split_once("://").unwrap_or(("nats", server.trim()));
        format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
    };
    url.split(',').map(place).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_without_its_password() {
        assert_eq!(places("nats://one:1, tls://me:secret@two:2,three"), "nats://one:1,tls://two:2,nats://three");
    }
}
