//! What the descriptors of the services say, looked up: which methods stream, and how messages are built.
//!
//! Read from the bytes that reflection answers from, so that there is no second list to keep true.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use super::proto;

/// Everything that is served.
pub(super) const SERVED: [&[u8]; 4] = [
    proto::DESCRIPTORS,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

static STREAMING: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let mut paths = HashSet::new();
    for file in SERVED.into_iter().flat_map(files) {
        for service in &file.service {
            let streaming = service.method.iter().filter(|method| method.server_streaming());
            paths.extend(streaming.map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())));
        }
    }
    paths
});

static SHAPES: LazyLock<Shapes> = LazyLock::new(|| Shapes::of(&files(proto::DESCRIPTORS)));

/// Whether the method of `path` answers with more than one message.
pub(super) fn answers_with_a_stream(path: &str) -> bool {
    STREAMING.contains(path)
}

/// How every message of this package is built.
pub(super) fn shapes() -> &'static Shapes {
    &SHAPES
}

fn files(descriptors: &[u8]) -> Vec<prost_types::FileDescriptorProto> {
    FileDescriptorSet::decode(descriptors).expect("descriptors are made by builds").file
}

/// All messages of some files.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    shapes: Vec<Shape>,
    /// By full name, without a leading dot.
    names: HashMap<String, usize>,
}

/// One message: its fields by number.
#[derive(Debug, Default)]
pub(super) struct Shape(Vec<Field>);

/// What the wire format does not say about a field.
#[derive(Debug)]
pub(super) struct Field {
    number: u32,
    pub(super) name: String,
    pub(super) repeated: bool,
    pub(super) kind: Kind,
}

/// What a field is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The message at this place.
    Message(usize),
    /// Text or bytes.
    Bytes,
    /// A number of one to ten bytes.
    Varint,
    /// A number of so many bytes.
    Fixed(usize),
}

impl Shapes {
    fn of(files: &[prost_types::FileDescriptorProto]) -> Self {
        let mut messages = Vec::new();
        for file in files {
            named(&file.message_type, file.package(), &mut messages);
        }
        let names = (0..).zip(&messages).map(|(at, (name, _))| (name.clone(), at)).collect();
        let shape = |(_, message): &(String, &DescriptorProto)| Shape::of(message, &names);
        Self { shapes: messages.iter().map(shape).collect(), names }
    }

    /// The place of a message.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// The field `number` of the message at `place`, if it is known.
    pub(super) fn field(&self, place: usize, number: u32) -> Option<&Field> {
        let fields = &self.shapes[place].0;
        fields.binary_search_by_key(&number, |field| field.number).ok().map(|at| &fields[at])
    }
}

fn named<'a>(messages: &'a [DescriptorProto], outer: &str, all: &mut Vec<(String, &'a DescriptorProto)>) {
    for message in messages {
        let name = format!("{outer}.{}", message.name());
        named(&message.nested_type, &name, all);
        all.push((name, message));
    }
}

impl Shape {
    fn of(message: &DescriptorProto, names: &HashMap<String, usize>) -> Self {
        let field = |field: &FieldDescriptorProto| Field {
            number: field.number().unsigned_abs(),
            name: field.name().into(),
            repeated: field.label() == Label::Repeated,
            kind: match field.r#type() {
                Type::Message | Type::Group => Kind::Message(names[field.type_name().trim_start_matches('.')]),
                Type::String | Type::Bytes => Kind::Bytes,
                Type::Double | Type::Fixed64 | Type::Sfixed64 => Kind::Fixed(8),
                Type::Float | Type::Fixed32 | Type::Sfixed32 => Kind::Fixed(4),
                _ => Kind::Varint,
            },
        };
        let mut fields: Vec<_> = message.field.iter().map(field).collect();
        fields.sort_by_key(|field| field.number);
        Self(fields)
    }
}
