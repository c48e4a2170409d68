//! How messages are decoded: counted first, so that none unfolds to more than its call is allowed.
//!
//! The generated code takes this codec instead of tonic's own (`build.rs`); clients and whoever else decodes outside a
//! call are not bounded.

use std::marker::PhantomData;

use bytes::Buf;
use prost::{Message, Name};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

use super::elements::count_elements;
use super::inflight::Allowance;
use super::status::status;
use crate::engine::EngineError;

/// prost's codec with bounds.
#[derive(Debug)]
pub(super) struct Bounded<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Bounded<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Bounded<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        // Made within the call; what it decodes may be read anywhere.
        BoundedDecoder { allowance: Allowance::current(), decoded: PhantomData }
    }
}

/// Counts, then decodes.
#[derive(Debug)]
pub(super) struct BoundedDecoder<U> {
    allowance: Option<Allowance>,
    decoded: PhantomData<U>,
}

impl<U: Message + Name + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf) -> Result<Option<U>, Status> {
        if let Some(allowance) = &self.allowance {
            allowance.unfolded(bytes.remaining()).map_err(status)?;
            // The buffer is one piece: tonic decodes no message that is not there as a whole.
            count_elements(&U::full_name(), bytes.chunk(), allowance.elements_max).map_err(refused)?;
        }
        U::decode(bytes).map(Some).map_err(refused)
    }
}

/// The client's fault, not ours: tonic would call it INTERNAL.
fn refused(problem: impl ToString) -> Status {
    status(EngineError::Invalid { field: "message".into(), problem: problem.to_string() })
}
