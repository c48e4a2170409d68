//! What is said of an upload, before and after.

use std::time::SystemTime;

use super::{Checked, invalid};
use crate::engine::{Promise, Receipt};
use crate::service::proto::{UploadMediaHeader, UploadMediaResponse};

/// What the header promises; its size is judged by the store.
pub(in crate::service) fn promise(UploadMediaHeader { bytes, sha256 }: UploadMediaHeader) -> Checked<Promise> {
    let sha256 = match sha256.len() {
        0 => None,
        bytes => {
            let wrong = |_| invalid("header.sha256", format!("is {bytes} bytes, must be 32"));
            Some(sha256.try_into().map_err(wrong)?)
        }
    };
    Ok(Promise { bytes, sha256 })
}

/// UploadMedia's response.
pub(in crate::service) fn receipt(Receipt { name, bytes, sha256, expires_in }: Receipt) -> UploadMediaResponse {
    let expires_at = SystemTime::now().checked_add(expires_in).map(Into::into);
    UploadMediaResponse { name, bytes, sha256: sha256.into(), expires_at }
}
