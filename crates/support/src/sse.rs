//! Server-sent events, decoded from chunks that may split an event anywhere.
//!
//! Whatever arrives, the work is linear in its bytes, memory is bounded by [`EVENT_MAX`], and nothing panics: lines are cut here,
//! and each is given to the parser by itself.
//!
//! Source: WHATWG HTML, section 9.2 (server-sent events).

pub use eventsource_stream::Event;

use bytes::Bytes;
use eventsource_stream::{EventStreamError, Eventsource};
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

/// Longest event, bytes. A stream with a longer one has no more events.
pub const EVENT_MAX: usize = 32 << 20;
/// What some servers write before all else: a byte-order mark, which is no part of the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A decoder that is fed chunks and returns the events that they complete.
pub struct EventDecoder {
    /// The line that is not ended yet.
    line: Vec<u8>,
    /// Whether no line was read yet. The parser must not see a mark there: version 0.2.3 cuts one in the middle of its bytes.
    at_start: bool,
    /// Bytes of the event that is not ended yet.
    event_len: usize,
    /// Whether a line was a comment since this was last asked.
    comments: bool,
    is_broken: bool,
    lines: Arc<Mutex<VecDeque<Bytes>>>,
    events: BoxStream<'static, Result<Event, EventStreamError<Infallible>>>,
}

impl Default for EventDecoder {
    fn default() -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::<Bytes>::new()));
        let source = Arc::clone(&lines);
        // The stream is pending whenever the queue is empty, so polling it once never waits.
        let queued = stream::poll_fn(move |_| {
            let next = source
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            match next {
                Some(line) => Poll::Ready(Some(Ok::<_, Infallible>(line))),
                None => Poll::Pending,
            }
        });
        EventDecoder {
            line: Vec::new(),
            at_start: true,
            event_len: 0,
            comments: false,
            is_broken: false,
            lines,
            events: queued.eventsource().boxed(),
        }
    }
}

impl EventDecoder {
    /// Appends received bytes; returns the events that are complete now. Bytes that are not UTF-8 become U+FFFD.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for part in chunk.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            if self.is_broken {
                break;
            }
            if self.event_len + self.line.len() + part.len() > EVENT_MAX {
                self.is_broken = true;
                self.line = Vec::new();
                break;
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") || part.ends_with(b"\r") {
                self.end_line(&mut events);
            }
        }
        events
    }

    /// Ends the stream; returns the event that lacks only its end, if there is one.
    pub fn finish(&mut self) -> Vec<Event> {
        self.push(b"\n\n\n")
    }

    /// Whether an event was longer than [`EVENT_MAX`], so that nothing is read any more.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Whether there was a comment since the last call, with which servers keep a silent connection open.
    pub fn take_comments(&mut self) -> bool {
        std::mem::take(&mut self.comments)
    }

    fn end_line(&mut self, events: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        let at_start = std::mem::take(&mut self.at_start);
        let mut text = &line[..];
        while at_start && let Some(rest) = text.strip_prefix(BYTE_ORDER_MARK) {
            text = rest;
        }
        self.comments |= text.starts_with(b":");
        self.event_len += text.len();
        let text = String::from_utf8_lossy(text).into_owned();
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(Bytes::from(text));
        while let Some(Some(event)) = self.events.next().now_or_never() {
            self.event_len = 0;
            events.extend(event.ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(events: &[Event]) -> Vec<&str> {
        events.iter().map(|e| e.data.as_str()).collect()
    }

    #[test]
    fn events_are_found_wherever_a_chunk_splits_them() {
        let text = "\u{feff}\u{feff}event: a\ndata: čšž\n\n: comment\r\ndata: two\r\ndata: lines\r\n\r\ndata: rest";
        for split in 0..text.len() {
            let mut decoder = EventDecoder::default();
            let (first, second) = text.as_bytes().split_at(split);
            let mut events = decoder.push(first);
            events.extend(decoder.push(second));
            assert_eq!(data(&events), ["čšž", "two\nlines"], "split at {split}");
            assert_eq!(events[0].event, "a");
            assert!(decoder.take_comments() && !decoder.take_comments());
            assert_eq!(data(&decoder.finish()), ["rest"]);
        }
    }

    #[test]
    fn bytes_that_are_no_text_and_marks_in_the_middle_lose_only_their_line() {
        let mut decoder = EventDecoder::default();
        let events = decoder
            .push(b"data: \xff\n\n\xef\xbb\xbfdata: a\n\ndata: b\n\n\0\0data: c\n\ndata: d\n\n");
        assert_eq!(data(&events), ["\u{fffd}", "b", "d"]);
    }

    #[test]
    fn an_event_without_end_is_given_up() {
        for part in ["data: x".repeat(1 << 17), "data: x\n".repeat(1 << 17)] {
            let mut decoder = EventDecoder::default();
            for _ in 0..=EVENT_MAX / part.len() {
                assert!(decoder.push(part.as_bytes()).is_empty());
            }
            assert!(decoder.is_broken());
            assert!(decoder.push(b"\n\ndata: y\n\n").is_empty());
        }
    }
}
