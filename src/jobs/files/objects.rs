//! Files in an object store. A store writes an object wholly or not at all and keeps it, so there is nothing to sync and
//! nothing torn; it has no rename, which is a copy and a removal, and no folders.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::runtime::Handle;

use super::{Place, StagedFile, within};
use crate::settings::ObjectSettings;

/// A prefix of an object store.
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    runtime: Handle,
}

impl Objects {
    /// What stands behind `scheme://path`.
    pub fn at(scheme: &str, path: &str, settings: &ObjectSettings) -> Result<Self, String> {
        let runtime = Handle::try_current().map_err(|error| error.to_string())?;
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let store: Arc<dyn ObjectStore> = match scheme {
            "memory" => {
                // One for the process: who opens the same location again finds the same files.
                static MEMORY: OnceLock<Arc<InMemory>> = OnceLock::new();
                MEMORY.get_or_init(Arc::default).clone()
            }
            "s3" | "s3a" => s3(bucket, settings)?,
            _ => return Err("must be a directory or a URL of file://, memory:// or s3://".into()),
        };
        let prefix = Path::from(decoded(if scheme == "memory" { path } else { prefix })?);
        Ok(Self { store: Arc::new(PrefixStore::new(store, prefix)), runtime })
    }

    fn wait<T>(&self, work: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
        // Never on an async thread: these calls are made where waiting is allowed.
        Ok(self.runtime.block_on(work)?)
    }
}

#[cfg(feature = "s3")]
fn s3(bucket: &str, settings: &ObjectSettings) -> Result<Arc<dyn ObjectStore>, String> {
    use std::path::PathBuf;

    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
    use object_store::client::ClientConfigKey;

    use crate::settings::Secret;

    let text = |text: &Option<String>| text.clone();
    let file = |file: &Option<PathBuf>| file.as_ref().map(|file| file.display().to_string());
    let secret = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.reveal().to_owned());
    let given = [
        (Key::Endpoint, text(&settings.endpoint)),
        (Key::Region, text(&settings.region).or_else(|| text(&settings.default_region))),
        (Key::AccessKeyId, text(&settings.access_key_id)),
        (Key::SecretAccessKey, secret(&settings.secret_access_key)),
        (Key::Token, secret(&settings.session_token)),
        (Key::RoleArn, text(&settings.role_arn)),
        (Key::RoleSessionName, text(&settings.role_session_name)),
        (Key::WebIdentityTokenFile, file(&settings.web_identity_token_file)),
        (Key::ContainerCredentialsRelativeUri, text(&settings.container_credentials_relative_uri)),
        (Key::ContainerCredentialsFullUri, text(&settings.container_credentials_full_uri)),
        (Key::ContainerAuthorizationTokenFile, file(&settings.container_authorization_token_file)),
    ];
    // Who writes http:// means it.
    let plain = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_config(Key::Client(ClientConfigKey::AllowHttp), plain.to_string());
    let builder = given.into_iter().fold(builder, |builder, (key, value)| match value {
        Some(value) => builder.with_config(key, value),
        None => builder,
    });
    Ok(Arc::new(builder.build().map_err(|error| error.to_string())?))
}

#[cfg(not(feature = "s3"))]
fn s3(_: &str, _: &ObjectSettings) -> Result<Arc<dyn ObjectStore>, String> {
    Err("this program was built without the feature s3".into())
}

fn path(name: &str) -> io::Result<Path> {
    Path::parse(within(name)?).map_err(io::Error::other)
}

/// A URL's path without its percent signs, and without a `/` at its ends.
pub(super) fn decoded(path: &str) -> Result<String, String> {
    Path::from_url_path(path).map(String::from).map_err(|error| error.to_string())
}

impl Place for Objects {
    fn write(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        self.put(name, bytes)
    }

    fn put(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        self.wait(self.store.put(&path(name)?, PutPayload::from(bytes))).map(|_| ())
    }

    fn put_new(&self, name: &str, bytes: Vec<u8>) -> io::Result<bool> {
        let name = path(name)?;
        match self.wait(self.store.put_opts(&name, PutPayload::from(bytes), PutMode::Create.into())) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.wait(self.store.rename(&path(from)?, &path(to)?))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn read(&self, name: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        if range.is_empty() {
            return Ok(vec![]);
        }
        let bytes = self.wait(self.store.get_range(&path(name)?, range.clone()))?;
        match bytes.len() as u64 == range.end - range.start {
            true => Ok(bytes.to_vec()),
            false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("it ends before byte {}", range.end))),
        }
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match self.wait(self.store.head(&path(name)?)) {
            Ok(object) => Ok(Some(object.size)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn holds(&self, name: &str, file: &StagedFile) -> io::Result<Option<bool>> {
        Ok(self.size(name)?.map(|size| size == file.bytes))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = Some(folder).filter(|folder| !folder.is_empty()).map(path).transpose()?;
        let listed = self.wait(self.store.list_with_delimiter(prefix.as_ref()))?;
        let mut names: Vec<String> = listed.objects.into_iter().map(|object| object.location.into()).collect();
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match self.wait(self.store.delete(&path(name)?)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn remove_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}
