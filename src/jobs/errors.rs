//! The rows of a job that failed, page by page over the parts that are written.

use super::board::Jobs;
use super::job::JobId;
use super::parts::ErrorsToken;
use super::row::Failed;
use crate::engine::EngineError;

/// Shards that are read from the store at once.
const PAGE: usize = 256;

/// Some of the rows that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorsPage {
    /// In the order of the input.
    pub errors: Vec<Failed>,
    /// Where those after them begin, if more follow.
    pub next: Option<String>,
}

impl Jobs {
    /// At most as many rows that failed as the page's second, from where its first says, which is empty or another
    /// page's `next`. Only parts that are written count; one that is written later may come before.
    pub async fn errors(
        &self,
        id: &JobId,
        owner: Option<&str>,
        (token, max): (String, usize),
    ) -> Result<ErrorsPage, EngineError> {
        let job = self.get(id, owner).await?.job;
        let mut from = if token.is_empty() { ErrorsToken::default() } else { token.parse()? };
        let mut errors = Vec::new();
        loop {
            let page = self.written(id, from.shard, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(ErrorsPage { errors, next: None }) };
            let after = ErrorsToken { shard: last + 1, byte: 0 };
            for (shard, _) in page.into_iter().filter(|(_, failed)| *failed > 0) {
                let start = if shard == from.shard { from } else { ErrorsToken { shard, byte: 0 } };
                if errors.len() == max {
                    return Ok(ErrorsPage { errors, next: Some(start.to_string()) });
                }
                let (found, next) = self.work().errors(&job, start, max - errors.len()).await?;
                errors.extend(found);
                if next.is_some() {
                    return Ok(ErrorsPage { errors, next: next.map(|next| next.to_string()) });
                }
            }
            from = after;
        }
    }
}
