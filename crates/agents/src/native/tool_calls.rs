//! Tool calls, put together from the pieces in which a provider streams them.
//!
//! A piece belongs to the call of its id; without one, to the call of its index; with neither, to the last call. Providers
//! share indexes among calls, leave them out, write them as text, repeat names, and send arguments as an object. What can't be
//! told apart is an error, so that no call is carried out that the model did not make.
//!
//! Source: OpenAI API reference, chat completions, streaming (read 2026-11).

use super::model_turn::ToolCall;
use serde::de::IgnoredAny;
use serde_json::Value;

/// The calls of one turn, as far as they were streamed.
#[derive(Debug, Default)]
pub(super) struct ToolCalls(Vec<Streamed>);

#[derive(Debug, Default)]
struct Streamed {
    index: Option<u64>,
    call: ToolCall,
    /// Whether the arguments came as an object, to which nothing can be added.
    is_whole: bool,
}

impl Streamed {
    /// Whether a further name begins another call: this one has all it needs.
    fn is_complete(&self) -> bool {
        let arguments = self.call.arguments.trim();
        !self.call.name.is_empty()
            && arguments.starts_with('{')
            && serde_json::from_str::<IgnoredAny>(arguments).is_ok()
    }
}

impl ToolCalls {
    /// Number of calls.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Size of the arguments, bytes.
    pub(super) fn arguments_len(&self) -> usize {
        self.0.iter().map(|s| s.call.arguments.len()).sum()
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// What about it can't be understood.
    pub(super) fn add(&mut self, piece: &Value) -> Result<(), String> {
        if piece.is_null() {
            return Ok(());
        }
        let function = &piece["function"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (id, name) = (text(&piece["id"]), text(&function["name"]));
        let index = &piece["index"];
        let index = index.as_u64().or_else(|| index.as_str()?.parse().ok());
        let (arguments, is_whole) = match &function["arguments"] {
            Value::Null => (String::new(), false),
            Value::String(text) => (text.clone(), false),
            object @ Value::Object(_) => (object.to_string(), true),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                return Err("the arguments of a tool call are no object".to_owned());
            }
        };
        let at = match self.find(&id, index, &name)? {
            Some(at) => at,
            None => {
                self.0.push(Streamed {
                    index,
                    ..Streamed::default()
                });
                self.0.len() - 1
            }
        };
        let Some(streamed) = self.0.get_mut(at) else {
            return Ok(());
        };
        let call = &mut streamed.call;
        if call.id.is_empty() {
            call.id = id;
        }
        // Some repeat the whole name in each piece.
        if call.name != name {
            call.name.push_str(&name);
        }
        if is_whole && call.arguments.is_empty() {
            call.arguments = arguments;
            streamed.is_whole = true;
        } else if is_whole || streamed.is_whole {
            if !arguments.is_empty() && arguments != call.arguments {
                return Err("the arguments of a tool call come twice".to_owned());
            }
        } else {
            call.arguments.push_str(&arguments);
        }
        Ok(())
    }

    /// Position of the call that a piece continues; none if it begins one.
    fn find(&self, id: &str, index: Option<u64>, name: &str) -> Result<Option<usize>, String> {
        let with_index = |s: &Streamed| index.is_some() && s.index == index;
        if !id.is_empty() {
            let known = self.0.iter().position(|s| s.call.id == id);
            let unnamed = |s: &Streamed| with_index(s) && s.call.id.is_empty();
            return Ok(known.or_else(|| self.0.iter().rposition(unnamed)));
        }
        let at = match index {
            Some(_) => self.0.iter().rposition(with_index),
            None => self.0.len().checked_sub(1),
        };
        let Some((at, last)) = at.and_then(|at| Some((at, self.0.get(at)?))) else {
            return Ok(None);
        };
        let names_another = !name.is_empty() && !last.call.name.is_empty();
        if names_another && last.is_complete() {
            return Ok(None);
        }
        if names_another && last.call.name != name && !last.call.arguments.is_empty() {
            return Err(format!(
                "a tool call of {name} begins before the arguments of {} are complete",
                last.call.name
            ));
        }
        Ok(Some(at))
    }

    /// The calls, each with a name and an id.
    ///
    /// # Errors
    /// If a call has no name.
    pub(super) fn finish(self) -> Result<Vec<ToolCall>, String> {
        let mut calls = Vec::new();
        for (number, Streamed { mut call, .. }) in self.0.into_iter().enumerate() {
            if call.name.is_empty() {
                return Err("a tool call has no name".to_owned());
            }
            if call.id.is_empty() {
                call.id = format!("call_{number}");
            }
            calls.push(call);
        }
        Ok(calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn assembled(pieces: &[Value]) -> Result<Vec<(String, String)>, String> {
        let mut calls = ToolCalls::default();
        for piece in pieces {
            calls.add(piece)?;
        }
        let calls = calls.finish()?;
        Ok(calls.into_iter().map(|c| (c.name, c.arguments)).collect())
    }

    /// A piece, without the keys that are null here.
    fn piece(id: Value, index: Value, name: Value, arguments: Value) -> Value {
        let mut piece = json!({ "type": "function", "function": {} });
        for (key, value) in [("id", id), ("index", index)] {
            if !value.is_null() {
                piece[key] = value;
            }
        }
        for (key, value) in [("name", name), ("arguments", arguments)] {
            if !value.is_null() {
                piece["function"][key] = value;
            }
        }
        piece
    }

    #[test]
    fn calls_are_told_apart_however_they_are_streamed() {
        let (a, b) = (json!("{\"n\":1}"), json!("{\"n\":2}"));
        let null = Value::Null;
        let two = |first: [Value; 2], second: [Value; 2]| {
            let [id, index] = first;
            let one = piece(id, index, json!("f"), a.clone());
            let [id, index] = second;
            vec![one, piece(id, index, json!("g"), b.clone())]
        };
        let expected = vec![
            ("f".to_owned(), "{\"n\":1}".to_owned()),
            ("g".to_owned(), "{\"n\":2}".to_owned()),
        ];
        for pieces in [
            two([json!("x"), json!(0)], [json!("y"), json!(1)]),
            two([json!("x"), json!(0)], [json!("y"), json!(0)]),
            two([json!("x"), null.clone()], [json!("y"), null.clone()]),
            two([json!("x"), json!("0")], [json!("y"), json!("1")]),
            two([null.clone(), json!(0)], [null.clone(), json!(1)]),
            two([null.clone(), json!(0)], [null.clone(), json!(0)]),
            two([null.clone(), null.clone()], [null.clone(), null.clone()]),
            two([json!(""), json!(-1)], [json!(""), json!(1.5)]),
        ] {
            assert_eq!(assembled(&pieces).as_ref(), Ok(&expected), "{pieces:?}");
        }
        // Arguments as objects; ids and names in each piece; an id that comes later.
        let whole = [
            piece(json!("x"), json!(0), json!("f"), json!({ "n": 1 })),
            piece(json!("y"), json!(1), json!("g"), json!({ "n": 2 })),
            piece(json!("y"), json!(1), null.clone(), json!("")),
            null.clone(),
        ];
        assert_eq!(assembled(&whole).as_ref(), Ok(&expected));
        let pieces = [
            piece(null.clone(), json!(0), json!("f"), null.clone()),
            piece(json!("x"), json!(0), json!("f"), json!("{\"n\"")),
            piece(json!("x"), json!(0), json!("f"), json!(":1}")),
            piece(json!("y"), null.clone(), json!("g"), json!("{\"n\":")),
            piece(null.clone(), null.clone(), null.clone(), json!("2}")),
        ];
        assert_eq!(assembled(&pieces).as_ref(), Ok(&expected));
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        let null = Value::Null;
        let begun = piece(null.clone(), null.clone(), json!("f"), json!("{\"n\""));
        let other = piece(null.clone(), null.clone(), json!("g"), json!("{}"));
        assert!(assembled(&[begun, other]).is_err());
        let nameless = piece(json!("x"), json!(0), null.clone(), json!("{}"));
        assert!(assembled(&[nameless]).is_err());
        let list = piece(json!("x"), json!(0), json!("f"), json!([1]));
        assert!(assembled(&[list]).is_err());
        let twice = |n: u8| piece(json!("x"), json!(0), json!("f"), json!({ "n": n }));
        assert!(assembled(&[twice(1), twice(2)]).is_err());
        assert!(assembled(&[twice(1), twice(1)]).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Calls with ids come out as they went in, however they are cut and mixed.
        #[test]
        fn mixed_pieces_of_calls_with_ids_are_sorted_out(
            cuts in prop::collection::vec((0usize..4, 1usize..9), 1..60),
        ) {
            let arguments: Vec<String> = (0..4).map(|n| json!({ "text": "wind".repeat(n + 3), "n": n }).to_string()).collect();
            let mut left: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut calls = ToolCalls::default();
            let rest = (0..4).map(|n| (n, usize::MAX));
            for (n, len) in cuts.into_iter().chain(rest) {
                let (now, later) = left[n].split_at(len.min(left[n].len()));
                left[n] = later;
                let piece = json!({ "id": format!("id{n}"), "function": { "name": format!("f{n}"), "arguments": now } });
                prop_assert_eq!(calls.add(&piece), Ok(()));
            }
            let mut done = calls.finish().unwrap();
            done.sort_by(|a, b| a.id.cmp(&b.id));
            let written: Vec<String> = done.into_iter().map(|c| c.arguments).collect();
            prop_assert_eq!(written, arguments);
        }
    }
}
