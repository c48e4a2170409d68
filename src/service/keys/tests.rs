//! The rules of keys as tables, with the time given.

use prost::Message;
use prost_types::FileDescriptorSet;

use super::*;

const TOKEN: &[u8] = b"vljepa_secret";
const PREDICT: &str = "/vljepa.v1.EmbeddingService/Predict";

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn block(name: &str, token: &[u8], scopes: &str, more: &str) -> String {
    let sha256 = to_hex(&Sha256::digest(token));
    format!("[[key]]\nname = \"{name}\"\nsha256 = \"{sha256}\"\nscopes = [{scopes}]\n{more}\n")
}

fn keys() -> Keys {
    let other = block("other", b"vljepa_other", "\"models\"", "");
    let text = other + &block("camera-1", TOKEN, "\"predict\", \"media\"", "expires = 2027-01-01");
    Keys::parse(&text).expect("two keys")
}

fn admit(path: &str, authorization: &[u8]) -> Result<Option<Caller>, Refusal> {
    keys().admit(path, Some(authorization), at(1_700_000_000))
}

#[test]
fn a_key_opens_what_its_scopes_name_and_nothing_else() {
    let camera = Caller("camera-1".into());
    let header = [b"Bearer ", TOKEN].concat();
    assert_eq!(admit(PREDICT, &header), Ok(Some(camera.clone())));
    assert_eq!(admit("/vljepa.v1.MediaService/UploadMedia", &header), Ok(Some(camera.clone())));
    for (path, scope) in [
        ("/vljepa.v1.WatchService/Watch", Scope::Watch),
        ("/vljepa.v1.JobService/CreateJob", Scope::Jobs),
        ("/vljepa.v1.ModelService/ListModels", Scope::Models),
        ("/vljepa.v1.ModelService/GetModel", Scope::Models),
        ("/vljepa.v1.ModelService/LoadModel", Scope::Admin),
        ("/vljepa.v1.ModelService/UnloadModel", Scope::Admin),
        ("/vljepa.v1.Later/Method", Scope::Admin),
        ("/", Scope::Admin),
        ("", Scope::Admin),
    ] {
        assert_eq!(admit(path, &header), Err(Refusal::Scope(camera.clone(), scope)), "{path}");
    }
    assert_eq!(admit("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &header), Ok(Some(camera)));
}

#[test]
fn only_health_needs_no_key() {
    for authorization in [None, Some(&b"Bearer wrong"[..])] {
        let admitted = |path| keys().admit(path, authorization, at(0));
        assert_eq!(admitted("/grpc.health.v1.Health/Check"), Ok(None));
        assert_eq!(admitted("/grpc.health.v1.Health/Watch"), Ok(None));
        for path in [PREDICT, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/x", ""] {
            let refusal = if authorization.is_some() { Refusal::Unknown } else { Refusal::NoKey };
            assert_eq!(admitted(path), Err(refusal), "{path}");
        }
    }
}

#[test]
fn the_scheme_is_bearer_in_any_case_and_the_token_is_all_of_it() {
    for (authorization, known) in [
        (&b"bearer vljepa_secret"[..], true),
        (b"BEARER   vljepa_secret ", true),
        (b"Bearer vljepa_secre", false),
        (b"Bearer vljepa_secret1", false),
        (b"Bearer vljepa_secret vljepa_secret", false),
        (b"Bearer VLJEPA_SECRET", false),
        (b"Bearer ", false),
    ] {
        assert_eq!(admit(PREDICT, authorization).is_ok(), known, "{authorization:?}");
    }
    for authorization in [
        &b""[..],
        b"Bearer",
        b"vljepa_secret",
        b"Basic vljepa_secret",
        b"Bearervljepa_secret",
        b"\xff\xfe\xfd\xfc\xfb\xfa\xf9",
    ] {
        assert_eq!(admit(PREDICT, authorization), Err(Refusal::NoKey), "{authorization:?}");
    }
}

#[test]
fn a_key_expires_at_its_moment() {
    let admitted = |seconds| keys().admit(PREDICT, Some(b"Bearer vljepa_secret"), at(seconds));
    // 2027-01-01T00:00:00Z.
    assert!(admitted(1_798_761_599).is_ok());
    assert_eq!(admitted(1_798_761_600), Err(Refusal::Expired(Caller("camera-1".into()))));
}

#[test]
fn moments_are_counted_as_calendars_do() {
    for (text, seconds) in [
        ("1970-01-01", Some(0)),
        ("1970-01-01T00:00:01Z", Some(1)),
        ("2000-02-29T00:00:00Z", Some(951_782_400)),
        ("2000-03-01", Some(951_868_800)),
        ("2024-12-31T23:59:59", Some(1_735_689_599)),
        ("2100-03-01T00:00:00Z", Some(4_107_542_400)),
        ("2027-01-01T02:30:00+02:30", Some(1_798_761_600)),
        ("2026-12-31T16:00:00-08:00", Some(1_798_761_600)),
        ("1969-12-31", None),
        ("12:00:00", None),
    ] {
        let datetime: Datetime = text.parse().expect("a datetime");
        assert_eq!(moment(&datetime), seconds.map(at), "{text}");
    }
}

#[test]
fn files_that_cannot_be_meant_say_what_is_wrong() {
    let good = block("a", b"1", "\"predict\"", "");
    for (text, told) in [
        (String::new(), "has 0 tables [[key]], must be 1 to 10000"),
        (good.clone() + &block("a", b"2", "\"predict\"", ""), "key a and key a have the same name or sha256"),
        (good.clone() + &block("b", b"1", "\"predict\"", ""), "key a and key b have the same name or sha256"),
        (block("a", b"1", "", ""), "key a: scopes are empty, the key would be good for nothing"),
        (block("a b", b"1", "\"predict\"", ""), "name is \"a b\", must be 1 to 64 letters, digits or any of -_.@"),
        (block("", b"1", "\"predict\"", ""), "name is \"\", must be 1 to 64 letters, digits or any of -_.@"),
        (good.replace("sha256 = \"", "sha256 = \"z"), "must be 64 hexadecimal digits"),
        (
            block("a", b"1", "\"predict\"", "expires = 12:00:00"),
            "key a: expires is 12:00:00, must have a date from 1970 on",
        ),
        (block("a", b"1", "\"everything\"", ""), "line 4: unknown variant `everything`, expected one of `predict`, "),
        (block("a", b"1", "\"predict\"", "token = \"x\""), "line 5: unknown field `token`, expected one of `name`, "),
        ("[[key]]\nname = 1".into(), "line 2: invalid type: integer `1`, expected a string"),
        ("[[keys]]".into(), "line 1: unknown field `keys`, expected `key`"),
    ] {
        let error = Keys::parse(&text).expect_err("it cannot be meant");
        assert!(error.contains(told), "{error}\n{text}");
    }
}

#[test]
fn a_new_key_is_known_by_its_block_and_never_the_same() {
    let draw = || NewKey::draw("a", &[Scope::Predict], Some("2027-01-01")).expect("a key");
    let (one, two) = (draw(), draw());
    assert_ne!(one.token, two.token);
    assert!(one.token.len() == TOKEN_MARK.len() + 64 && !one.block.contains(&one.token[TOKEN_MARK.len()..]));
    let keys = Keys::parse(&one.block).expect("its block");
    let admitted = |key: &NewKey| keys.admit(PREDICT, Some(format!("Bearer {}", key.token).as_bytes()), at(0));
    assert_eq!((admitted(&one), admitted(&two)), (Ok(Some(Caller("a".into()))), Err(Refusal::Unknown)));
    for (name, scopes, expires) in
        [("a b", &[Scope::Jobs][..], None), ("a", &[], None), ("a", &[Scope::Jobs], Some("soon"))]
    {
        assert!(NewKey::draw(name, scopes, expires).is_err(), "{name} {scopes:?} {expires:?}");
    }
}

#[test]
fn every_method_of_the_proto_has_a_scope_of_its_own_choice() {
    let files = FileDescriptorSet::decode(crate::service::proto::DESCRIPTORS).expect("descriptors").file;
    let mut methods = 0;
    for file in files.iter().filter(|file| file.package().starts_with("vljepa.")) {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                methods += 1;
                let Needs::Key(scope) = needs(&path) else { panic!("{path} is open") };
                let changes = ["/LoadModel", "/UnloadModel"].iter().any(|name| path.ends_with(name));
                assert_eq!(scope == Scope::Admin, changes, "{path} needs a line in NEEDS");
            }
        }
    }
    assert!(methods >= 5, "{methods}");
}
