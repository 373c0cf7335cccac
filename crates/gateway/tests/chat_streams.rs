//! Streams of chat completions in the shapes that providers really send: what the caller gets of them, and what is metered.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use abbey_gateway::protocol::openai_chat::OpenAiChat;
use abbey_gateway::{Protocol, Provider, Reading, StreamReader};
use abbey_support::sse::EventDecoder;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn reader(include_usage: bool) -> Box<dyn StreamReader> {
    let mut body = json!({ "model": "m", "messages": [], "stream": true });
    if include_usage {
        body["stream_options"] = json!({ "include_usage": true });
    }
    let (head, ()) = hyper::Request::new(()).into_parts();
    let call = OpenAiChat
        .parse(&head, Bytes::from(body.to_string()))
        .unwrap();
    let provider = Provider {
        name: "cloud".to_owned(),
        base_url: "http://test/v1".to_owned(),
        prices: None,
        output_tokens_max: 1000,
        refuses: BTreeSet::new(),
    };
    call.stream_reader(&provider).unwrap()
}

/// What came of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Passed {
    /// Data of the events that the caller got.
    data: Vec<String>,
    reading: Reading,
    is_complete: bool,
}

impl Passed {
    /// Text of the answer that the caller got.
    fn text(&self) -> String {
        let part = |data: &String| {
            let part: Value = serde_json::from_str(data).unwrap_or_default();
            part["choices"][0]["delta"]["content"]
                .as_str()
                .map(str::to_owned)
        };
        self.data.iter().filter_map(part).collect()
    }

    fn tokens(&self) -> Option<(u64, u64)> {
        self.reading.usage.map(|u| (u.input.0, u.output.0))
    }

    fn is_ended(&self) -> bool {
        self.data.last().is_some_and(|d| d == "[DONE]")
    }
}

fn pass(chunks: &[&[u8]], include_usage: bool) -> Passed {
    let mut reader = reader(include_usage);
    let mut decoder = EventDecoder::default();
    let mut data = Vec::new();
    let mut take = |bytes: &[u8]| data.extend(decoder.push(bytes).into_iter().map(|e| e.data));
    for chunk in chunks {
        take(&reader.read(Bytes::copy_from_slice(chunk)));
    }
    if !reader.is_complete() {
        take(&reader.finish());
    }
    Passed {
        data,
        reading: reader.reading(),
        is_complete: reader.is_complete(),
    }
}

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

fn part(delta: Value, finish: Option<&str>) -> Value {
    json!({ "id": "c1", "object": "chat.completion.chunk", "model": "m-1", "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] })
}

fn usage(input: u64, output: u64) -> Value {
    json!({ "id": "c1", "model": "m-1", "choices": [], "usage": { "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output } })
}

/// An answer without its end marker.
fn answer() -> String {
    let parts = [
        part(json!({ "role": "assistant", "content": "" }), None),
        part(json!({ "content": "all is " }), None),
        part(json!({ "content": "well" }), None),
        part(json!({}), Some("stop")),
        usage(100, 20),
    ];
    parts.iter().map(event).collect()
}

/// Streams that hold a complete answer, however they are written.
fn complete() -> Vec<(&'static str, Vec<u8>)> {
    let done = "data: [DONE]\n\n";
    let plain = answer() + done;
    let mut all = vec![
        ("plain", plain.clone()),
        ("byte-order mark", format!("\u{feff}{plain}")),
        ("two marks", format!("\u{feff}\u{feff}{plain}")),
        ("blank lines first", format!("\n\r\n\n{plain}")),
        ("comments", format!(": keep-alive\n\n: x\n\n{plain}")),
        (
            "carriage returns and line feeds",
            plain.replace('\n', "\r\n"),
        ),
        ("carriage returns", plain.replace('\n', "\r")),
        ("no blank after the colon", plain.replace("data: ", "data:")),
        (
            "two blanks after the colon",
            plain.replace("data: ", "data:  "),
        ),
        (
            "types and ids",
            plain.replace("data: ", "event: message\nid: 7\nretry: 10\ndata: "),
        ),
        (
            "unknown fields",
            plain.replace("data: ", "x-field: y\nlonely\ndata: "),
        ),
        (
            "events without data",
            plain.replace("data: ", "data:\n\ndata: \n\ndata: "),
        ),
        ("no marker", answer()),
        ("a blank behind the marker", answer() + "data: [DONE] \n\n"),
        ("a marker without line end", answer() + "data: [DONE]"),
        ("a marker with one line end", answer() + "data: [DONE]\n"),
        ("a small marker", answer() + "data: [done]\n\n"),
        (
            "events behind the marker",
            plain.clone() + &event(&part(json!({ "content": "!" }), None)) + done,
        ),
        (
            "a report of nothing at the end",
            answer() + &event(&usage(0, 0)) + done,
        ),
        (
            "a report that grows",
            plain.replacen("data: ", &format!("{}data: ", event(&usage(100, 2))), 1),
        ),
        (
            "no usage at the end of the last line",
            answer().trim_end().to_owned(),
        ),
        (
            "a zero before the field",
            plain.replacen("data: ", "\0\0data: x\n\ndata: ", 1),
        ),
        (
            "shapes that are none",
            [
                "null",
                "[]",
                "7",
                "\"x\"",
                "{}",
                "{\"choices\":null}",
                "{\"choices\":[{\"delta\":[]}]}",
                "{\"choices\":[null]}",
            ]
            .iter()
            .map(|d| format!("data: {d}\n\n"))
            .collect::<String>()
                + &plain,
        ),
        (
            "an error that is null",
            event(&json!({ "error": null })) + &plain,
        ),
    ];
    let message = json!({ "role": "assistant", "content": "all is well" });
    let whole = json!({ "id": "c1", "object": "chat.completion", "model": "m-1", "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }], "usage": usage(100, 20)["usage"] });
    all.push(("a whole answer", whole.to_string()));
    all.push((
        "a whole answer, written for people",
        serde_json::to_string_pretty(&whole).unwrap(),
    ));
    all.push((
        "a whole answer behind a mark",
        format!("\u{feff} \n{whole}\n"),
    ));
    let mut open = whole;
    open["choices"][0]["finish_reason"] = Value::Null;
    all.push((
        "a whole answer that gives no reason for its end",
        open.to_string(),
    ));
    all.into_iter()
        .map(|(name, text)| (name, text.into_bytes()))
        .collect()
}

#[test]
fn a_complete_answer_is_one_however_it_is_written() {
    for (name, bytes) in complete() {
        let passed = pass(&[&bytes], true);
        assert_eq!(passed.text(), "all is well", "{name}: {passed:?}");
        assert_eq!(passed.tokens(), Some((100, 20)), "{name}");
        assert!(
            passed.is_complete && passed.is_ended(),
            "{name}: {passed:?}"
        );
        assert_eq!(passed.reading.model.as_deref(), Some("m-1"), "{name}");
        let markers = passed.data.iter().filter(|d| *d == "[DONE]").count();
        assert_eq!(markers, 1, "{name}");
    }
}

#[test]
fn it_makes_no_difference_where_chunks_are_cut() {
    for (name, bytes) in complete() {
        let whole = pass(&[&bytes], true);
        let letters: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(pass(&letters, true), whole, "{name}");
        for at in (0..bytes.len()).step_by(7) {
            let (first, second) = bytes.split_at(at);
            assert_eq!(pass(&[first, second], true), whole, "{name} at {at}");
        }
    }
}

#[test]
fn a_caller_that_did_not_ask_for_the_usage_does_not_get_its_event() {
    for (name, bytes) in complete() {
        let passed = pass(&[&bytes], false);
        assert_eq!(passed.text(), "all is well", "{name}");
        assert_eq!(passed.tokens(), Some((100, 20)), "{name}");
        let has_usage = |data: &String| data.contains("prompt_tokens");
        assert!(!passed.data.iter().any(has_usage), "{name}: {passed:?}");
    }
}

#[test]
fn what_was_reported_before_the_end_is_not_taken_for_the_whole() {
    let parts = [
        usage(100, 2),
        part(json!({ "content": "all is well" }), Some("stop")),
    ];
    let begun: String = parts.iter().map(event).collect();
    let passed = pass(&[begun.as_bytes()], true);
    assert!(
        passed.is_complete && passed.tokens().is_none(),
        "{passed:?}"
    );
    let whole = pass(&[begun.as_bytes(), event(&usage(100, 20)).as_bytes()], true);
    assert_eq!(whole.tokens(), Some((100, 20)));
}

#[test]
fn half_an_answer_is_none() {
    let begun: String = [part(json!({ "content": "all is" }), None), usage(9, 1)]
        .iter()
        .map(event)
        .collect();
    for (name, text) in [
        ("nothing", String::new()),
        ("a mark", "\u{feff}".to_owned()),
        ("no end", begun.clone()),
        (
            "half an event",
            begun.clone() + "data: {\"choices\":[{\"del",
        ),
        (
            "half a document",
            "{\"choices\":[{\"message\":{\"content\":\"all".to_owned(),
        ),
        (
            "a document that is no answer",
            "{\"status\":\"ok\"}".to_owned(),
        ),
        ("a page", "<html><body>busy</body></html>".to_owned()),
    ] {
        let passed = pass(&[text.as_bytes()], true);
        assert!(
            !passed.is_complete && !passed.is_ended(),
            "{name}: {passed:?}"
        );
    }
}

#[test]
fn an_error_in_the_middle_is_told_with_the_name_and_the_words_of_the_provider() {
    let begun = event(&part(json!({ "content": "all is" }), None));
    for (name, text) in [
        (
            "usual",
            event(&json!({ "error": { "message": "overloaded", "code": 529 } })),
        ),
        ("text", event(&json!({ "error": "overloaded" }))),
        (
            "type",
            event(&json!({ "type": "error", "message": "overloaded" })),
        ),
        (
            "event",
            "event: error\ndata: {\"message\":\"overloaded\"}\n\n".to_owned(),
        ),
        (
            "with a marker",
            event(&json!({ "error": "over\u{7}loaded" })) + "data: [DONE]\n\n",
        ),
    ] {
        let passed = pass(&[begun.as_bytes(), text.as_bytes()], true);
        assert!(!passed.is_complete, "{name}");
        let told: Value = serde_json::from_str(&passed.data[1]).unwrap();
        let message = told["error"]["message"].as_str().unwrap();
        assert!(
            message.starts_with("provider `cloud` failed during its answer: over"),
            "{name}: {message}"
        );
        assert!(!message.contains('\u{7}'), "{name}");
    }
    let whole = pass(&[b"{\"error\":{\"message\":\"overloaded\"}}"], true);
    assert!(whole.data[0].contains("overloaded") && !whole.is_complete);
}

#[test]
fn tools_of_a_whole_answer_get_their_places() {
    let call = |id: &str| json!({ "id": id, "type": "function", "function": { "name": "f", "arguments": "{}" } });
    let message =
        json!({ "role": "assistant", "content": null, "tool_calls": [call("a"), call("b")] });
    let whole = json!({ "choices": [{ "message": message, "finish_reason": "tool_calls" }] });
    let passed = pass(&[whole.to_string().as_bytes()], true);
    let first: Value = serde_json::from_str(&passed.data[0]).unwrap();
    let calls = &first["choices"][0]["delta"]["tool_calls"];
    assert_eq!(
        (&calls[0]["index"], &calls[1]["index"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(calls[1]["id"], "b");
    assert!(passed.is_complete);
}

#[test]
fn what_is_unknown_in_a_part_reaches_the_caller() {
    let mut odd = part(
        json!({ "content": "x", "new_field": [1, { "a": null }] }),
        None,
    );
    odd["system_fingerprint"] = json!("fp");
    odd["big"] = serde_json::from_str("123456789012345678901234567890").unwrap();
    let text = odd.to_string();
    let passed = pass(&[format!("data: {text}\n\n").as_bytes()], true);
    assert_eq!(passed.data, [text]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes that mean nothing, and pieces of real streams in any order, never panic, and are complete only with an end.
    #[test]
    fn nothing_that_a_provider_sends_panics(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                Just(b"data: ".to_vec()),
                Just(b"\n\n".to_vec()),
                Just("\u{feff}".as_bytes().to_vec()),
                Just(b"{\"choices\":[{\"index\":1e999,\"delta\":{\"content\":\"\\ud83d\"}}]}".to_vec()),
                Just(b"{\"error\":[]}".to_vec()),
                Just(b"[DONE]".to_vec()),
            ],
            0..30,
        ),
    ) {
        let chunks: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let passed = pass(&chunks, true);
        prop_assert_eq!(passed.is_complete, passed.data.iter().any(|d| d == "[DONE]"));
    }
}
