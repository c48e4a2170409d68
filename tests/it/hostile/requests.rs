//! The corpus, as messages of one call each: its name, where it goes, its bytes, and the status it must get.
//! A name that begins with `x` must fail; every other one must succeed.

use prost::Message;
use tonic::Code;
use vljepa::service::proto;

use super::{jobs, media, watch};
use crate::service::{CLIP, STILL, ask, file, frames, item};

/// One hostile call.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub path: &'static str,
    pub message: Vec<u8>,
    pub timeout: Option<&'static str>,
    pub code: Code,
}

impl Case {
    /// Whether it is meant to hurt although it succeeds.
    pub fn hostile(&self) -> bool {
        self.name.contains("hostile") || self.timeout.is_some() || self.message.len() > 1 << 20
    }
}

const ANSWER: &str = "/vljepa.v1.AnswerService/Answer";
const PREDICT: &str = "/vljepa.v1.EmbeddingService/Predict";
const ENCODE: &str = "/vljepa.v1.EmbeddingService/EncodeText";
const MODEL: &str = "/vljepa.v1.ModelService/GetModel";

pub fn case(name: &str, path: &'static str, message: Vec<u8>, code: Code) -> Case {
    Case { name: name.into(), path, message, timeout: None, code }
}

/// All of it.
pub fn corpus() -> Vec<Case> {
    let files = files().into_iter().map(|(name, bytes)| {
        let code = if name.starts_with('x') { Code::InvalidArgument } else { Code::Ok };
        case(&name, ANSWER, ask(file(&bytes), &["word1"]).encode_to_vec(), code)
    });
    let rest = [questions(), lists(), clips(), bytes(), timeouts(), jobs::corpus(), watch::corpus()];
    files.chain(rest.into_iter().flatten()).collect()
}

/// Every file of the corpus: those that lie in fixtures/media, and those that are made here.
pub fn files() -> Vec<(String, Vec<u8>)> {
    let kept =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/media")).expect("fixture").map(|entry| {
            let path = entry.expect("readable").path();
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("readable"))
        });
    let cut = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let made = [
        ("xsize_65535.gif", media::gif(65535, 65535, 1)),
        ("xmillion_frames.gif", media::gif(1, 1, 1_000_000)),
        ("xno_frames.gif", media::gif(8, 8, 0)),
        ("one.gif", media::gif(1, 1, 1)),
        ("corner.gif", media::gif(500, 1, 3)),
        ("xsize_65535.png", media::png(65535, 65535, 8, 2, &[])),
        ("xsize_max.png", media::png(i32::MAX as u32, i32::MAX as u32, 16, 6, &[])),
        ("xsize_0.png", media::png(0, 1, 8, 2, &[])),
        ("xdepth_3.png", media::png(1, 1, 3, 2, &[])),
        ("xno_pixels.png", media::png(8, 8, 8, 2, &[])),
        ("xnot_deflate.png", media::png(8, 8, 8, 2, &[0xFF; 64])),
        ("xsize_16384.webp", media::webp(16384, 16384)),
        ("xcanvas_16777215.webp", media::webp_animation()),
        ("one.bmp", media::bmp(1, 1, &[1, 2, 3, 0])),
        ("downwards.bmp", media::bmp(1, -1, &[1, 2, 3, 0])),
        ("xheight_min.bmp", media::bmp(1, i32::MIN, &[1, 2, 3, 0])),
        ("xwidth_negative.bmp", media::bmp(-1, 1, &[1, 2, 3, 0])),
        ("xsize_65535.bmp", media::bmp(65535, 65535, &[0; 64])),
        ("xsize_65535.jpg", media::jpeg(65535, 65535)),
        ("xno_scan.jpg", media::jpeg(8, 8)),
        ("xcut_still.jpg", cut(STILL)),
        ("xcut_clip.gif", cut(CLIP)),
        ("xzeros", vec![0; 1 << 20]),
    ];
    let mut files: Vec<_> = kept.chain(made.map(|(name, bytes)| (name.to_string(), bytes))).collect();
    files.sort();
    files
}

/// Single fields of a question that cannot be meant, or just so.
fn questions() -> Vec<Case> {
    let of = |change: &dyn Fn(&mut proto::AnswerRequest)| {
        let mut request = ask(file(STILL), &["word1"]);
        change(&mut request);
        request.encode_to_vec()
    };
    let sampling = |sampling: proto::Sampling| of(&|request| request.sampling = Some(sampling));
    let fps = |fps| sampling(proto::Sampling { fps: Some(fps), ..Default::default() });
    let spoken = |generation: proto::Generation| {
        of(&|request| (request.candidates, request.generation) = (vec![], Some(generation)))
    };
    let warm = |temperature| spoken(proto::Generation { temperature, ..Default::default() });
    let top = |top_p| spoken(proto::Generation { temperature: 1.0, top_p, ..Default::default() });
    let output = |output: proto::OutputOptions| of(&|request| request.output = Some(output));
    let dtype = |dtype| output(proto::OutputOptions { dtype, ..Default::default() });
    let (wrong, good) = (Code::InvalidArgument, Code::Ok);
    let rows = [
        ("fps_1000", fps(1000.0), good),
        ("xfps_nan", fps(f32::NAN), wrong),
        ("xfps_infinite", fps(f32::INFINITY), wrong),
        ("xfps_0", fps(0.0), wrong),
        ("xfps_negative", fps(-1.0), wrong),
        ("xfps_tiny", fps(f32::MIN_POSITIVE), wrong),
        ("fps_0.001", fps(0.001), good),
        ("xframes_max", sampling(proto::Sampling { frames: Some(u32::MAX), ..Default::default() }), wrong),
        ("xstart_max", sampling(proto::Sampling { start_ms: Some(u64::MAX), ..Default::default() }), wrong),
        ("end_max", sampling(proto::Sampling { end_ms: Some(u64::MAX), ..Default::default() }), good),
        ("xend_0", sampling(proto::Sampling { end_ms: Some(0), ..Default::default() }), wrong),
        ("xtemperature_nan", warm(f32::NAN), wrong),
        ("xtemperature_negative", warm(-0.1), wrong),
        ("temperature_10", warm(10.0), good),
        ("temperature_tiny", warm(f32::MIN_POSITIVE), good),
        ("xtop_p_nan", top(f32::NAN), wrong),
        ("xtop_p_2", top(2.0), wrong),
        ("top_p_tiny", top(f32::MIN_POSITIVE), good),
        ("xmax_tokens", spoken(proto::Generation { max_tokens: u32::MAX, ..Default::default() }), wrong),
        ("xdimensions_max", output(proto::OutputOptions { dimensions: u32::MAX, ..Default::default() }), wrong),
        ("dtype_binary", dtype(proto::Dtype::Binary as i32), good),
        ("xdtype_99", dtype(99), wrong),
        ("xdtype_negative", dtype(-1), wrong),
        ("xpriority_negative", of(&|request| request.priority = i32::MIN), wrong),
        ("xquestion_empty", of(&|request| request.question = String::new()), wrong),
        ("xquestion_blank", of(&|request| request.question = " \n\u{2003}".into()), wrong),
        ("xquestion_10_mb", of(&|request| request.question = "word1 ".repeat(1_700_000)), wrong),
        ("question_64_kb", of(&|request| request.question = "word1 ".repeat(10_000)), good),
        ("question_control", of(&|request| request.question = "\0\u{1b}[2J\r\u{feff}\u{202e}".into()), good),
        ("question_unknown", of(&|request| request.question = "\u{10FFFF}".repeat(1000)), good),
        ("candidates_0", of(&|request| request.candidates = vec![]), good),
        ("candidates_equal", of(&|request| request.candidates = vec!["word1".into(); 1024]), good),
        ("xcandidates_10000", of(&|request| request.candidates = vec!["word1".into(); 10_000]), wrong),
        ("xcandidate_empty", of(&|request| request.candidates = vec!["word1".into(), String::new()]), wrong),
        ("xmedia_missing", of(&|request| request.media = None), wrong),
        ("xmedia_unset", of(&|request| request.media = Some(proto::Media::default())), wrong),
        ("xmedia_empty", of(&|request| request.media = file(b"")), wrong),
        ("xmedia_33_mb", of(&|request| request.media = file(&vec![0; 33 << 20])), wrong),
        ("xmodel_control", of(&|request| request.model = "tiny\0\u{1b}\n".into()), Code::NotFound),
        ("xmodel_1_mb", of(&|request| request.model = "\n".repeat(1 << 20)), Code::NotFound),
    ];
    rows.into_iter().map(|(name, message, code)| case(name, ANSWER, message, code)).collect()
}

/// Lists that are too long or empty.
fn lists() -> Vec<Case> {
    let items = |count| proto::PredictRequest { items: vec![item(file(b"x"), "w"); count], ..Default::default() };
    let texts = |texts| proto::EncodeTextRequest { texts, ..Default::default() }.encode_to_vec();
    let model = |name: &str| proto::GetModelRequest { name: name.into() }.encode_to_vec();
    let wrong = Code::InvalidArgument;
    [
        ("xitems_0", PREDICT, items(0).encode_to_vec(), wrong),
        ("items_64_hostile", PREDICT, items(64).encode_to_vec(), Code::Ok),
        ("xitems_10000", PREDICT, items(10_000).encode_to_vec(), wrong),
        ("xtexts_0", ENCODE, texts(vec![]), wrong),
        ("xtexts_10000", ENCODE, texts(vec!["word1".into(); 10_000]), wrong),
        ("texts_hostile", ENCODE, texts(vec![String::new(), "x".repeat(10 << 20), "word1".into()]), Code::Ok),
        ("model_default", MODEL, model(""), Code::Ok),
        ("xmodel_path", MODEL, model("../../etc/passwd"), Code::NotFound),
        ("xno_such_method", "/vljepa.v1.AnswerService/Nothing", vec![], Code::Unimplemented),
        ("xno_such_service", "/no.such.Service/Answer", vec![], Code::Unimplemented),
        ("xno_method", "/", vec![], Code::Unimplemented),
    ]
    .map(|(name, path, message, code)| case(name, path, message, code))
    .into()
}

/// Clips of frames whose sizes or times cannot be.
fn clips() -> Vec<Case> {
    let raw = |width, height, bytes: usize, pts_ms| proto::Frame {
        data: vec![7; bytes],
        format: proto::FrameFormat::Rgb8 as i32,
        width,
        height,
        pts_ms,
    };
    let formatted = |format| proto::Frame { format, ..raw(1, 1, 3, 0) };
    let encoded = |data: &[u8]| proto::Frame { data: data.to_vec(), ..Default::default() };
    let at = |times: &[u64]| times.iter().map(|&pts_ms| raw(4, 4, 48, pts_ms)).collect::<Vec<_>>();
    let of = |clip: Vec<proto::Frame>| ask(frames(clip), &["word1"]);
    let sampled = |clip, frames, fps| {
        let sampling = Some(proto::Sampling { frames, fps: Some(fps), ..Default::default() });
        proto::AnswerRequest { sampling, ..of(clip) }
    };
    let (wrong, good) = (Code::InvalidArgument, Code::Ok);
    [
        ("raw_1x1", of(vec![raw(1, 1, 3, 0)]), good),
        ("xraw_size_max", of(vec![raw(u32::MAX, u32::MAX, 3, 0)]), wrong),
        ("xraw_size_wraps", of(vec![raw(1 << 31, 2, 12, 0)]), wrong),
        ("xraw_size_0", of(vec![raw(0, 4, 0, 0), raw(1, 1, 3, 0)]), wrong),
        ("xraw_short", of(vec![raw(4, 4, 47, 0)]), wrong),
        ("xraw_long", of(vec![raw(4, 4, 49, 0)]), wrong),
        ("raw_sizes_differ", of(vec![raw(1, 1, 3, 0), raw(9, 2, 54, 1)]), good),
        ("xformat_99", of(vec![formatted(99)]), wrong),
        ("xformat_negative", of(vec![formatted(-1)]), wrong),
        ("xencoded_empty", of(vec![encoded(b""), encoded(STILL)]), wrong),
        ("xencoded_cut", of(vec![encoded(STILL), encoded(&STILL[..99])]), wrong),
        ("encoded_clip", of(vec![encoded(CLIP), encoded(STILL)]), good),
        ("xframes_0", of(vec![]), wrong),
        ("xframes_10000", of(vec![raw(1, 1, 3, 0); 10_000]), wrong),
        ("pts_max", of(at(&[0, u64::MAX])), good),
        ("pts_all_max", of(at(&[u64::MAX, u64::MAX, u64::MAX])), good),
        ("xpts_max_fps_1000", sampled(at(&[0, u64::MAX]), None, 1000.0), wrong),
        ("xpts_max_fps_0.001", sampled(at(&[0, u64::MAX]), None, 0.001), wrong),
        ("pts_max_fps_1000_frames", sampled(at(&[1, u64::MAX]), Some(4), 1000.0), good),
        ("xpts_falls", of(at(&[u64::MAX, 0])), wrong),
    ]
    .map(|(name, request, code)| case(name, ANSWER, request.encode_to_vec(), code))
    .into()
}

/// Messages that no protobuf library would write.
fn bytes() -> Vec<Case> {
    let good = ask(file(STILL), &["word1"]).encode_to_vec();
    let with = |more: &[u8]| [&good[..], more].concat();
    let unreadable = Code::InvalidArgument;
    // The question is field 4, a string; 15 is no field.
    let group = |depth: usize| with(&[vec![0x7B; depth], vec![0x7C; depth]].concat());
    [
        ("plain", good.clone(), Code::Ok),
        ("field_unknown", with(&[0x7A, 2, 1, 2]), Code::Ok),
        ("question_twice", with(&[0x22, 5, b'w', b'o', b'r', b'd', b'2']), Code::Ok),
        ("xgroup_flat", group(1), unreadable),
        ("xgroup_deep", group(100_000), unreadable),
        ("xgroup_open", with(&[0x7B]), unreadable),
        ("xutf8", with(&[0x22, 2, 0xC3, 0x28]), unreadable),
        ("xvarint_endless", with(&[0xFF; 64]), unreadable),
        ("xlength_beyond", with(&[0x22, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]), unreadable),
        ("xlength_2_63", with(&[0x22, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]), unreadable),
        ("xfield_0", with(&[0x02, 0]), unreadable),
        ("xwire_type_7", with(&[0x1F]), unreadable),
        ("xwire_type_wrong", with(&[0x20, 1]), unreadable),
        ("xcut_message", good[..good.len() - 3].to_vec(), unreadable),
        ("xempty_message", vec![], Code::InvalidArgument),
    ]
    .map(|(name, message, code)| case(name, ANSWER, message, code))
    .into()
}

/// What can be written into grpc-timeout; one that cannot be read is as none.
fn timeouts() -> Vec<Case> {
    let message = ask(file(STILL), &["word1"]).encode_to_vec();
    [
        ("timeout_empty", "", Code::Ok),
        ("timeout_word", "soon", Code::Ok),
        ("timeout_negative", "-1S", Code::Ok),
        ("timeout_nine_digits", "999999999H", Code::Ok),
        ("timeout_longest", "99999999H", Code::Ok),
        ("xtimeout_0", "0m", Code::DeadlineExceeded),
        ("xtimeout_1_ns", "1n", Code::DeadlineExceeded),
    ]
    .map(|(name, timeout, code)| Case { timeout: Some(timeout), ..case(name, ANSWER, message.clone(), code) })
    .into()
}
