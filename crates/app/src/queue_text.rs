//! Content of a work queue file: bytes that are mostly UTF-8 text. The house sees the text and answers with changes of it,
//! which are applied to the bytes, so that what is not text stays as it is.

use abbey_api::QueueTextEdit;

/// What stands in the text for bytes that are not UTF-8.
const STAND_IN: char = char::REPLACEMENT_CHARACTER;

/// A sequence of bytes that is not UTF-8.
#[derive(Debug)]
struct Gap {
    /// Where its character begins in the text.
    text: usize,
    /// Where it ends in the bytes.
    end: usize,
}

/// Text of a file, which remembers where its bytes are not UTF-8.
#[derive(Debug)]
pub(crate) struct QueueText<'b> {
    bytes: &'b [u8],
    text: String,
    gaps: Vec<Gap>,
}

impl<'b> QueueText<'b> {
    /// Decodes the content of a file; one character stands for each sequence of bytes that is not UTF-8.
    pub(crate) fn decode(bytes: &'b [u8]) -> QueueText<'b> {
        let (mut text, mut gaps, mut at) = (String::with_capacity(bytes.len()), Vec::new(), 0);
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            at += chunk.valid().len() + chunk.invalid().len();
            if !chunk.invalid().is_empty() {
                gaps.push(Gap {
                    text: text.len(),
                    end: at,
                });
                text.push(STAND_IN);
            }
        }
        QueueText { bytes, text, gaps }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Offsets in the text of characters that stand for other bytes.
    pub(crate) fn undecoded(&self) -> Vec<u64> {
        let offsets = self.gaps.iter().map(|gap| u64::try_from(gap.text));
        offsets.filter_map(Result::ok).collect()
    }

    /// The bytes after changes of the text; `None` if the changes are not in order or change what is not text.
    pub(crate) fn edited(&self, edits: &[QueueTextEdit]) -> Option<Vec<u8>> {
        let (mut out, mut at) = (Vec::with_capacity(self.bytes.len()), 0);
        for edit in edits {
            let (start, end) = (self.place(edit.start)?, self.place(edit.end)?);
            let gap = self.gaps.partition_point(|gap| gap.end <= start);
            if end < start || self.gaps.get(gap).is_some_and(|gap| gap.end <= end) {
                return None;
            }
            out.extend_from_slice(self.bytes.get(at..start)?);
            out.extend_from_slice(edit.text.as_bytes());
            at = end;
        }
        out.extend_from_slice(self.bytes.get(at..)?);
        Some(out)
    }

    /// Place in the bytes of an offset in the text.
    fn place(&self, offset: u64) -> Option<usize> {
        let offset = usize::try_from(offset).ok()?;
        if !self.text.is_char_boundary(offset) {
            return None;
        }
        let before = self.gaps.partition_point(|gap| gap.text < offset);
        match before.checked_sub(1).and_then(|last| self.gaps.get(last)) {
            Some(gap) => Some(gap.end + offset - gap.text - STAND_IN.len_utf8()),
            None => Some(offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the bytes are, those that are not changed stay, in their order.
        #[test]
        fn bytes_outside_the_changes_stay(
            pieces in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..12),
                "[a-zé鐘\u{fffd}\u{feff}\r\n]{0,12}".prop_map(String::into_bytes),
            ], 0..8),
            picks in prop::collection::vec((any::<prop::sample::Index>(), "[xé]{0,3}"), 0..6),
        ) {
            let bytes = pieces.concat();
            let decoded = QueueText::decode(&bytes);
            prop_assert_eq!(decoded.edited(&[]), Some(bytes.clone()));
            // Insertions at any characters: without them, the bytes are the same.
            let places: Vec<usize> = decoded.text().char_indices().map(|(at, _)| at).chain([decoded.text().len()]).collect();
            let mut inserted: Vec<(usize, String)> = picks.into_iter().map(|(i, text)| (places[i.index(places.len())], text)).collect();
            inserted.sort();
            let edits: Vec<QueueTextEdit> = inserted.iter().map(|(at, text)| QueueTextEdit {
                start: *at as u64, end: *at as u64, text: text.clone(),
            }).collect();
            let edited = decoded.edited(&edits).unwrap();
            let added: usize = inserted.iter().map(|(_, text)| text.len()).sum();
            prop_assert_eq!(edited.len(), bytes.len() + added);
            let mut rest = edited.as_slice();
            let mut at = 0;
            for (offset, text) in &inserted {
                let place = decoded.place(*offset as u64).unwrap();
                prop_assert_eq!(&rest[..place - at], &bytes[at..place]);
                rest = rest[place - at..].strip_prefix(text.as_bytes()).unwrap();
                at = place;
            }
            prop_assert_eq!(rest, &bytes[at..]);
        }
    }

    #[test]
    fn a_change_of_what_is_no_text_is_refused() {
        let decoded = QueueText::decode(b"a\xe9b");
        assert_eq!(
            (decoded.text(), decoded.undecoded()),
            ("a\u{fffd}b", vec![1])
        );
        let edit = |start, end| QueueTextEdit {
            start,
            end,
            text: "x".to_owned(),
        };
        assert_eq!(decoded.edited(&[edit(4, 5)]).unwrap(), b"a\xe9x");
        assert_eq!(decoded.edited(&[edit(0, 1)]).unwrap(), b"x\xe9b");
        for wrong in [edit(1, 4), edit(0, 5), edit(2, 2), edit(9, 9), edit(5, 4)] {
            assert_eq!(decoded.edited(&[wrong]), None);
        }
        assert_eq!(decoded.edited(&[edit(4, 5), edit(0, 1)]), None);
    }
}
