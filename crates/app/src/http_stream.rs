//! The body of a response as a stream of chunks.

use futures_util::{Stream, StreamExt};
use http_body_util::BodyStream;

pub(crate) fn bytes(
    response: hyper::Response<hyper::body::Incoming>,
) -> impl Stream<Item = Result<bytes::Bytes, hyper::Error>> {
    BodyStream::new(response.into_body()).filter_map(async |frame| match frame {
        Ok(frame) => frame.into_data().ok().map(Ok),
        Err(error) => Some(Err(error)),
    })
}
