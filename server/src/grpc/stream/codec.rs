//! A codec that passes messages as bytes: decoding and encoding belong to the request, not to the stream.

use bytes::{Buf as _, BufMut as _, Bytes};
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};

/// An encoded message in pieces that follow one another.
pub(super) struct Pieces(pub(super) Vec<Bytes>);

/// Decodes to the bytes of a message, encodes what is encoded already.
pub(super) struct Codec;

impl tonic::codec::Codec for Codec {
    type Encode = Pieces;
    type Decode = Bytes;
    type Encoder = Codec;
    type Decoder = Codec;

    fn encoder(&mut self) -> Codec {
        Codec
    }

    fn decoder(&mut self) -> Codec {
        Codec
    }
}

impl Encoder for Codec {
    type Item = Pieces;
    type Error = Status;

    fn encode(&mut self, Pieces(pieces): Pieces, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(pieces.iter().map(Bytes::len).sum());
        pieces.iter().for_each(|piece| out.put_slice(piece));
        Ok(())
    }
}

impl Decoder for Codec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}
