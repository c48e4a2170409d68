//! Who does what only one should do at a time: a claim that its holder renews and that the servers forget when he does
//! not. A holder that stalls may meet his successor: claims save work, they do not decide anything.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::bucket::Bucket;
use super::connection::Connection;
use super::shared::unlike_any_other;
use crate::jobs::StoreError;

/// Where claims are kept.
#[derive(Clone)]
pub(super) struct Claims {
    bucket: Bucket,
    /// Who claims: this process.
    holder: String,
    age_max: Duration,
}

/// A claim that is renewed until it is dropped.
pub(super) struct Claim(JoinHandle<()>);

impl Claims {
    pub(super) async fn open(
        connection: &Connection,
        name: &str,
        replicas: usize,
        age_max: Duration,
    ) -> Result<Self, StoreError> {
        let bucket = Bucket::open(connection, &format!("{name}-claims"), replicas, Some(age_max)).await?;
        let age_max = bucket.age_max();
        Ok(Self { bucket, holder: unlike_any_other(), age_max })
    }

    /// Claims what `key` stands for, unless another process has.
    pub(super) async fn take(&self, key: &str) -> Result<Option<Claim>, StoreError> {
        let revision = match self.bucket.create(key, self.holder.as_bytes()).await? {
            Some(revision) => Some(revision),
            // The answer to an earlier request may have got lost, or this process has just dropped the claim.
            None => match self.bucket.get(key).await? {
                Some(entry) if entry.value == self.holder.as_bytes() => Some(entry.revision),
                _ => None,
            },
        };
        let Some(mut revision) = revision else { return Ok(None) };
        let (claims, key) = (self.clone(), key.to_owned());
        Ok(Some(Claim(tokio::spawn(async move {
            loop {
                tokio::time::sleep(claims.age_max / 4).await;
                match claims.bucket.update(&key, claims.holder.as_bytes(), revision).await {
                    Ok(Some(renewed)) => revision = renewed,
                    // Another one has it now.
                    Ok(None) => return,
                    Err(error) => tracing::debug!(key, %error, "a claim is not renewed"),
                }
            }
        }))))
    }
}

impl Claim {
    /// Whether it is still renewed.
    pub(super) fn holds(&self) -> bool {
        !self.0.is_finished()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.abort();
    }
}
