//! How a call of a command goes out: with the key that is set, and with the time in which it is to be answered.

use std::time::Duration;

use anyhow::anyhow;
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;

use crate::settings::ClientSettings;

/// Who calls; cheap to clone.
#[derive(Clone)]
pub(in crate::cli) struct Caller {
    deadline: Duration,
    authorization: Option<AsciiMetadataValue>,
}

impl Caller {
    /// One with the key of `client`, whose calls have so much time.
    pub fn new(deadline: Duration, client: &ClientSettings) -> anyhow::Result<Self> {
        Ok(Self { deadline, authorization: authorization(client)? })
    }

    /// The same with another time.
    pub fn within(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// A call that is answered in time or not at all.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.lasting(message);
        request.set_timeout(self.deadline);
        request
    }

    /// A call that lasts as long as there is something to tell.
    pub fn lasting<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }
}

/// What shows the key that is set to a server.
fn authorization(client: &ClientSettings) -> anyhow::Result<Option<AsciiMetadataValue>> {
    let Some(key) = &client.api_key else { return Ok(None) };
    let value = AsciiMetadataValue::try_from(format!("Bearer {}", key.reveal()));
    let mut value = value.map_err(|_| anyhow!("client.api_key has characters that no key has"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}
