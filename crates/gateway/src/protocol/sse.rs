//! Server-sent events, decoded from chunks that may split an event anywhere.
//!
//! Source: WHATWG HTML, section 9.2 (server-sent events).

use bytes::Bytes;
use eventsource_stream::{Event, EventStreamError, Eventsource};
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

/// A decoder that is fed chunks and returns the events that they complete.
pub struct EventDecoder {
    chunks: Arc<Mutex<VecDeque<Bytes>>>,
    events: BoxStream<'static, Result<Event, EventStreamError<Infallible>>>,
}

impl Default for EventDecoder {
    fn default() -> Self {
        let chunks = Arc::new(Mutex::new(VecDeque::<Bytes>::new()));
        let source = Arc::clone(&chunks);
        // The stream is pending whenever the queue is empty, so polling it once never waits.
        let queued = stream::poll_fn(move |_| {
            let next = source
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            match next {
                Some(chunk) => Poll::Ready(Some(Ok::<_, Infallible>(chunk))),
                None => Poll::Pending,
            }
        });
        EventDecoder {
            chunks,
            events: queued.eventsource().boxed(),
        }
    }
}

impl EventDecoder {
    /// Appends received bytes; returns the server-sent events that are complete now. Bytes that are not a UTF-8 event
    /// stream are skipped.
    pub fn push(&mut self, chunk: Bytes) -> Vec<Event> {
        self.chunks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(chunk);
        let mut events = Vec::new();
        while let Some(Some(event)) = self.events.next().now_or_never() {
            events.extend(event.ok());
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_wherever_a_chunk_splits_them() {
        let text = "event: a\ndata: čšž\n\n: comment\r\ndata: two\r\ndata: lines\r\n\r\ndata: rest";
        for split in 0..text.len() {
            let mut decoder = EventDecoder::default();
            let (first, second) = text.as_bytes().split_at(split);
            let mut events = decoder.push(Bytes::copy_from_slice(first));
            events.extend(decoder.push(Bytes::copy_from_slice(second)));
            let data: Vec<_> = events.iter().map(|e| e.data.as_str()).collect();
            assert_eq!(data, ["čšž", "two\nlines"], "split at {split}");
            assert_eq!(events[0].event, "a");
        }
    }
}
