//! Frames on a connection: a letter, a length of two bytes (big end first), and so many bytes.

/// Longest content, bytes.
pub const CONTENT_MAX: usize = 16 << 10;

/// Received bytes are not a valid frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidFrame;

/// Encodes one frame: a letter, the length as two big-endian bytes, and the content.
pub fn encode_frame(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(content);
    bytes
}

/// Removes all complete frames from the front of `buffer` and passes each to `take`, which returns whether it is
/// valid.
///
/// # Errors
/// If `take` refused a frame, or one is longer than 16 KiB.
pub fn decode_frames(
    buffer: &mut Vec<u8>,
    mut take: impl FnMut(u8, &[u8]) -> bool,
) -> Result<(), InvalidFrame> {
    while let [kind, high, low, rest @ ..] = buffer.as_slice() {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length > CONTENT_MAX {
            return Err(InvalidFrame);
        }
        let Some(body) = rest.get(..length) else {
            return Ok(());
        };
        if !take(*kind, body) {
            return Err(InvalidFrame);
        }
        buffer.drain(..3 + length);
    }
    Ok(())
}
