//! What an upload may be, what it takes, and that it gives it back.

use super::*;

fn uploads(set: impl FnOnce(&mut UploadSettings)) -> Uploads {
    let mut settings = Settings::default();
    set(&mut settings.uploads);
    Uploads::new(&settings)
}

fn space(uploads: &Uploads) -> (usize, u64) {
    let space = uploads.0.space.lock().expect("no panic");
    (space.items, space.bytes)
}

async fn upload(uploads: &Uploads, promise: Promise, chunks: &[&[u8]]) -> Result<Receipt, EngineError> {
    let mut upload = uploads.begin(promise, None).await?;
    for chunk in chunks {
        upload.write(chunk.to_vec()).await?;
    }
    upload.finish()
}

fn bytes(bytes: u64) -> Promise {
    Promise { bytes: Some(bytes), sha256: None }
}

#[tokio::test]
async fn what_came_is_read_back_and_takes_its_place_until_nobody_holds_it() {
    let uploads = uploads(|_| {});
    let sha256: [u8; 32] = Sha256::digest(b"abcdef").into();
    let promise = Promise { bytes: Some(6), sha256: Some(sha256) };
    let receipt = upload(&uploads, promise, &[b"abc", b"d", b"ef"]).await.expect("as promised");
    assert_eq!((receipt.bytes, receipt.sha256), (6, sha256));
    assert!(receipt.name.len() == 8 + 32 && receipt.name.starts_with(PREFIX), "{receipt:?}");
    let other = upload(&uploads, Promise::default(), &[b"xy"]).await.expect("nothing promised");
    assert_ne!(other.name, receipt.name);
    assert_eq!(space(&uploads), (2, 8));

    let stored = uploads.get(&receipt.name, &None).expect("it is there");
    let strangers = uploads.get(&receipt.name, &Some("bob".into())).expect_err("not Bob's");
    assert!(strangers.to_string().contains(&receipt.name), "{strangers}");
    uploads.sweep(Instant::now() + receipt.expires_in);
    uploads.get(&receipt.name, &None).expect_err("it has expired");
    assert_eq!((stored.read().expect("held"), space(&uploads)), (b"abcdef".to_vec(), (1, 6)));
    drop(stored);
    assert_eq!(space(&uploads), (0, 0));
}

#[tokio::test]
async fn what_is_not_as_promised_leaves_nothing() {
    let uploads = uploads(|settings| (settings.bytes_max, settings.chunk_bytes_max) = (10, 6));
    let wrong = Promise { sha256: Some([7; 32]), bytes: None };
    for (about, promise, chunks, field) in [
        ("an empty promise", bytes(0), &[][..], "header.bytes"),
        ("too much promised", bytes(11), &[][..], "header.bytes"),
        ("less than promised", bytes(4), &[&b"abc"[..]][..], "header.bytes"),
        ("more than promised", bytes(4), &[&b"abc"[..], b"de"], "chunk"),
        ("more than allowed", Promise::default(), &[b"abcdef", b"abcdef"], "chunk"),
        ("too large a chunk", Promise::default(), &[b"abcdefg"], "chunk"),
        ("an empty chunk", Promise::default(), &[b"abc", b""], "chunk"),
        ("no chunk", Promise::default(), &[], "chunk"),
        ("another sum", wrong, &[b"abc"], "header.sha256"),
    ] {
        let error = upload(&uploads, promise, chunks).await.expect_err(about);
        assert!(matches!(&error, EngineError::Invalid { field: named, .. } if named == field), "{about}: {error:?}");
        assert_eq!(space(&uploads), (0, 0), "{about}");
    }
}

#[tokio::test]
async fn what_has_no_room_is_refused_until_something_expires() {
    let uploads = uploads(|settings| (settings.items_max, settings.total_bytes_max) = (2, 10));
    let first = upload(&uploads, bytes(6), &[b"abcdef"]).await.expect("room");
    let limit = |outcome: Result<Receipt, EngineError>| match outcome {
        Err(EngineError::Exhausted { limit, retry_after, .. }) => {
            assert!(retry_after > first.expires_in / 2 && retry_after <= first.expires_in, "{retry_after:?}");
            limit
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(limit(upload(&uploads, bytes(5), &[]).await), "uploads.total_bytes_max");
    let grown = upload(&uploads, Promise::default(), &[b"abcd", b"e"]).await;
    assert_eq!((limit(grown), space(&uploads)), ("uploads.total_bytes_max", (1, 6)));
    let begun = uploads.begin(Promise::default(), None).await.expect("one more");
    assert_eq!(limit(upload(&uploads, bytes(1), &[b"a"]).await), "uploads.items_max");
    drop(begun);
    uploads.delete(&first.name, &None).expect("it is there");
    uploads.delete(&first.name, &None).expect_err("it was");
    assert_eq!(space(&uploads), (0, 0));
    upload(&uploads, bytes(10), &[b"0123456789"]).await.expect("room again");
}
