//! Counting before decoding: no message unfolds to more elements than were counted in its bytes, the bound cuts exactly
//! where it says, and what a client's library writes is counted to the element.

use prost::{Message, Name};

use vljepa::service::elements::{ElementsError, count_elements};
use vljepa::service::proto::media::Source;
use vljepa::service::proto::stream_predict_request::Message as Asked;
use vljepa::service::proto::{
    AnswerRequest, EncodeTextRequest, Media, PredictItem, PredictRequest, StreamPredictRequest, UploadMediaRequest,
};

/// Counts `bytes` as every kind of request.
pub fn elements(bytes: &[u8]) {
    counted(bytes, |request: &PredictRequest| request.items.len() + request.items.iter().map(of_item).sum::<usize>());
    counted(bytes, |request: &AnswerRequest| request.candidates.len() + frames(request.media.as_ref()));
    counted(bytes, |request: &EncodeTextRequest| request.texts.len());
    counted(bytes, |request: &StreamPredictRequest| match &request.message {
        Some(Asked::Item(item)) => item.item.as_ref().map_or(0, of_item),
        Some(Asked::Open(_)) | None => 0,
    });
    counted(bytes, |_: &UploadMediaRequest| 0);
}

fn of_item(item: &PredictItem) -> usize {
    frames(item.media.as_ref())
}

fn frames(media: Option<&Media>) -> usize {
    match media.and_then(|media| media.source.as_ref()) {
        Some(Source::Frames(sequence)) => sequence.frames.len(),
        _ => 0,
    }
}

/// `elements` are those of a decoded message.
fn counted<M: Message + Name + Default>(bytes: &[u8], elements: impl Fn(&M) -> usize) {
    let (name, decoded) = (M::full_name(), M::decode(bytes));
    let Ok(count) = count_elements(&name, bytes, usize::MAX) else {
        // What is refused here is never decoded, so it may be sound for prost: groups are.
        return;
    };
    assert_eq!(count_elements(&name, bytes, count), Ok(count), "{name}");
    if let Some(less) = count.checked_sub(1) {
        let refused = count_elements(&name, bytes, less);
        assert!(matches!(refused, Err(ElementsError::TooMany { max, .. }) if max == less), "{name}: {refused:?}");
    }
    let Ok(message) = decoded else { return };
    let exact = elements(&message);
    assert!(exact <= count, "{name}: {exact} decoded, {count} counted");
    assert_eq!(count_elements(&name, &message.encode_to_vec(), exact), Ok(exact), "{name}, written again");
}
