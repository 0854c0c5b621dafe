//! The store below one prefix, in the few ways in which it is used.
//!
//! Invariant: an object whose size is beyond what its reader can take is not read.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::client::HttpError;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::BackupId;
use crate::codec::Malformed;
use crate::error::BackupError;
use crate::layout;
use crate::limits::LOADS;
use crate::seal::damaged;

/// A store and a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Below the prefix.
    pub(crate) key: String,
    pub(crate) bytes: u64,
}

/// An object that the store did not remove though it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Below the prefix.
    pub(crate) key: String,
    /// What the store said.
    pub(crate) why: String,
}

impl Bucket {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { store, prefix }
    }

    fn path(&self, key: &str) -> Path {
        key.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Puts an object if there is none under this key; says whether there was none.
    pub(crate) async fn put_new(&self, key: &str, object: Bytes) -> Result<bool, BackupError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.store.put_opts(&self.path(key), PutPayload::from(object), options).await;
        match put {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(
                object_store::Error::NotImplemented { .. }
                | object_store::Error::NotSupported { .. },
            ) => Err(BackupError::NoConditionalPut { why: "it has no such put" }),
            Err(error) => Err(BackupError::of_store("put", key, error)),
        }
    }

    /// Puts an object under a key that nobody else uses.
    pub(crate) async fn put(&self, key: &str, object: Bytes) -> Result<(), BackupError> {
        let put = self.store.put(&self.path(key), PutPayload::from(object)).await;
        put.map(|_| ()).map_err(|error| BackupError::of_store("put", key, error))
    }

    /// A whole object of at most so many bytes.
    pub(crate) async fn get(&self, key: &str, bytes_max: usize) -> Result<Bytes, BackupError> {
        let of_store = |error| BackupError::of_store("get", key, error);
        let got = self.store.get(&self.path(key)).await.map_err(of_store)?;
        if got.meta.size > bytes_max as u64 {
            return Err(damaged(key, Malformed("it is larger than such an object can be")));
        }
        got.bytes().await.map_err(of_store)
    }

    /// Whether there is an object under this key.
    pub(crate) async fn has(&self, key: &str) -> Result<bool, BackupError> {
        match self.store.head(&self.path(key)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(BackupError::of_store("look at", key, error)),
        }
    }

    /// A part of an object, all of it.
    pub(crate) async fn get_range(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<Bytes, BackupError> {
        let wanted = range.end - range.start;
        match self.store.get_range(&self.path(key), range.clone()).await {
            Ok(bytes) if bytes.len() as u64 == wanted => Ok(bytes),
            Ok(_) => Err(damaged(key, Malformed("it is cut off"))),
            Err(error) => {
                let error = BackupError::of_store("get a part of", key, error);
                // A store answers a range behind the end of an object with an error of its own
                // words; its size tells that from a store that is in trouble.
                if matches!(error, BackupError::Unreachable { .. })
                    && let Ok(meta) = self.store.head(&self.path(key)).await
                    && meta.size < range.end
                {
                    return Err(damaged(key, Malformed("it is cut off")));
                }
                Err(error)
            }
        }
    }

    /// Everything in a folder.
    pub(crate) async fn list(&self, folder: &str) -> Result<Vec<Listed>, BackupError> {
        let path = self.path(folder);
        let skip = self.prefix.as_ref().len() + usize::from(!self.prefix.as_ref().is_empty());
        let listed = self.store.list(Some(&path)).map_ok(|meta| Listed {
            key: meta.location.as_ref().get(skip..).unwrap_or_default().to_owned(),
            bytes: meta.size,
        });
        let listed: Result<Vec<Listed>, _> = listed.try_collect().await;
        listed.map_err(|error| BackupError::of_store("list", folder, error))
    }

    /// The backups that a flat folder names.
    pub(crate) async fn list_ids(&self, folder: &str) -> Result<Vec<BackupId>, BackupError> {
        let listed = self.list(folder).await?;
        Ok(listed.iter().filter_map(|object| layout::named(folder, &object.key)).collect())
    }

    /// Removes an object, unless the store keeps it; one that is not there is removed already.
    pub(crate) async fn remove(&self, key: &str) -> Result<Option<Kept>, BackupError> {
        let error = match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => error,
        };
        if asks_for_patience(&error) {
            return Err(BackupError::of_store("remove", key, error));
        }
        // Stores say it in many ways. One that shows the object to the same credentials is there,
        // and keeps it by a rule of its own, as the retention of a bucket is.
        match self.has(key).await {
            Ok(true) => Ok(Some(Kept { key: key.to_owned(), why: error.to_string() })),
            Ok(false) => Ok(None),
            Err(_) => Err(BackupError::of_store("remove", key, error)),
        }
    }

    /// Removes many; those that the store keeps.
    pub(crate) async fn remove_all(&self, keys: &[String]) -> Result<Vec<Kept>, BackupError> {
        let paths: Vec<_> = keys.iter().map(|key| Ok(self.path(key))).collect();
        let mut removed = self.store.delete_stream(futures_util::stream::iter(paths).boxed());
        loop {
            match removed.next().await {
                None => return Ok(Vec::new()),
                Some(Ok(_) | Err(object_store::Error::NotFound { .. })) => {}
                // It does not say which of them it is about, so each is asked for by itself.
                Some(Err(_)) => break,
            }
        }
        drop(removed);
        let singly = keys.iter().cloned().map(|key| async move { self.remove(&key).await });
        let kept = futures_util::stream::iter(singly).buffer_unordered(LOADS);
        kept.try_filter_map(|kept| async move { Ok(kept) }).try_collect().await
    }

    /// The time by the store's clock.
    pub(crate) async fn time(&self, id: BackupId) -> Result<Timestamp, BackupError> {
        let key = format!("{}/{id}", layout::CLOCK);
        self.put(&key, Bytes::from_static(b"?")).await?;
        let meta = self.store.head(&self.path(&key)).await;
        if let Some(kept) = self.remove(&key).await? {
            // It bears a name of its own, so it is in nobody's way.
            tracing::debug!(
                key = kept.key,
                why = kept.why,
                "the store keeps a question for its time"
            );
        }
        let meta = meta.map_err(|error| BackupError::of_store("look at", &key, error))?;
        let second = Timestamp::from_second(meta.last_modified.timestamp());
        second.map_err(|_error| damaged(&key, Malformed("its date is none")))
    }
}

/// What stores say when they are in trouble, or have too much to do: not now, whatever the object is.
const LATER: &[&str] = &[
    "status code: 5",
    "status code: 408",
    "status code: 429",
    "(code: 5",
    "(code: 408)",
    "(code: 429)",
    "InternalError",
    "OperationTimedOut",
    "RequestTimeout",
    "ServerBusy",
    "ServiceUnavailable",
    "SlowDown",
];

/// Whether an error says nothing of the object: the store was not reached, or wants to be asked later.
///
/// The client tells refusals that it knows by variants of their own. All else is one variant, whose
/// inner types are private: what is not of the transport is told by its words.
fn asks_for_patience(error: &object_store::Error) -> bool {
    let object_store::Error::Generic { source, .. } = error else { return false };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**source);
    while let Some(at) = cause {
        if at.is::<HttpError>() {
            return true;
        }
        cause = at.source();
    }
    let words = source.to_string();
    LATER.iter().any(|later| words.contains(later))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;
    use crate::Target;

    const KEY: &str = "locks/x";

    /// A store that shows every object, and gives one answer to whoever wants one removed; none: it
    /// closes the connection.
    fn store_that_answers(answer: String) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &answer);
            }
        });
        address
    }

    fn serve(mut stream: TcpStream, answer: &str) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut request, mut line, mut body) = (String::new(), String::new(), 0);
        while reader.read_line(&mut line).unwrap() > 2 {
            if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                body = length.trim().parse().unwrap();
            }
            request.push_str(&line);
            line.clear();
        }
        reader.read_exact(&mut vec![0; body]).unwrap();
        let shown = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\netag: \"1\"\r\n\
                     last-modified: Thu, 26 Nov 2026 12:00:00 GMT\r\nconnection: close\r\n\r\n";
        let answer = if request.starts_with("HEAD ") { shown } else { answer };
        stream.write_all(answer.as_bytes()).unwrap();
    }

    /// What becomes of a removal that a store with the client of the product answers so.
    async fn removed(status: &str, body: &str) -> Result<Option<Kept>, BackupError> {
        let length = body.len();
        let answer = match status {
            "" => String::new(),
            status => format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            ),
        };
        let mut target = Target::new("s3://vault/copies")
            .with("endpoint", format!("http://{}", store_that_answers(answer)))
            .with("allow_http", "true")
            .with("region", "here")
            .with("access_key_id", "x")
            .with("secret_access_key", "y");
        target.retries = 0;
        let (store, prefix) = target.connect().unwrap();
        Bucket::new(store, prefix).remove(KEY).await
    }

    fn of_one(code: &str) -> String {
        let said = format!("<Code>{code}</Code><Message>no</Message>");
        format!("<DeleteResult><Error><Key>copies/{KEY}</Key>{said}</Error></DeleteResult>")
    }

    #[tokio::test]
    async fn a_store_in_trouble_is_no_store_that_keeps_what_is_to_be_removed() {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let slow = "<Error><Code>SlowDown</Code></Error>".to_owned();
        for (status, body) in [
            ("503 Service Unavailable", slow.clone()),
            ("429 Too Many Requests", String::new()),
            ("200 OK", of_one("InternalError")),
            ("200 OK", of_one("ServiceUnavailable")),
            ("", String::new()),
        ] {
            let told = removed(status, &body).await;
            let is_lost = matches!(told, Err(BackupError::Unreachable { .. }));
            assert!(is_lost, "{status} {body}: {told:?}");
        }
        let worm = "<Error><Code>InvalidRequest</Code><Message>WORM protected</Message></Error>";
        for (status, body) in [
            ("200 OK", of_one("AccessDenied")),
            ("403 Forbidden", String::new()),
            ("409 Conflict", String::new()),
            ("400 Bad Request", worm.to_owned()),
        ] {
            let told = removed(status, &body).await.unwrap();
            assert_eq!(told.map(|kept| kept.key).as_deref(), Some(KEY), "{status} {body}");
        }
    }
}
