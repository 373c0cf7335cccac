//! What a turn of a model means for its run: more to do, an answer, or no answer and why.
//!
//! Source: OpenAI chat completions, `finish_reason` and `refusal` (read 2026-11); other names of the same reasons as
//! Anthropic, Gemini and vLLM write them.

use super::model_turn::Turn;
use super::parts::on_one_line;
use abbey_model::EndReason;

/// Most times in a run that a model is asked to continue an answer that was cut at its length limit.
const CONTINUATIONS_MAX: u32 = 3;
/// Most turns in a run without an answer or a tool call, after which the run fails.
const EMPTY_MAX: u32 = 2;
/// Longest part of a refusal that a reason quotes, in characters.
const QUOTED_MAX: usize = 300;

/// What follows from a turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Its tool calls are carried out.
    CallTools,
    /// This is the whole answer.
    Answer(String),
    /// The model is sent this, and has another turn.
    Ask(String),
    /// The run ends without success.
    Fail(EndReason, String),
}

/// Why a turn ended, as its provider reported it.
enum Finish {
    Complete,
    Cut,
    Filtered,
    Unknown,
}

/// Class of a finish reason. Servers that report none end every turn like that.
fn class_of(finish: Option<&str>) -> Finish {
    let Some(finish) = finish else {
        return Finish::Complete;
    };
    match finish.to_ascii_lowercase().as_str() {
        "" | "stop" | "tool_calls" | "tool_call" | "function_call" | "tool_use" | "end_turn"
        | "stop_sequence" | "eos" | "eos_token" | "complete" | "completed" => Finish::Complete,
        "length"
        | "max_tokens"
        | "max_output_tokens"
        | "model_length"
        | "model_context_window_exceeded" => Finish::Cut,
        "content_filter" | "content_filtered" | "safety" | "sensitive" | "recitation"
        | "prohibited_content" | "blocklist" | "refusal" => Finish::Filtered,
        _ => Finish::Unknown,
    }
}

/// Judges the turns of one run.
#[derive(Debug, Default)]
pub(super) struct Completion {
    /// Answer so far, where it was cut.
    begun: String,
    continuations: u32,
    empty: u32,
}

impl Completion {
    /// Judges the next turn of the run.
    pub(super) fn judge(&mut self, turn: &Turn) -> Next {
        let refusal = turn.refusal.trim();
        if !refusal.is_empty() {
            let text = on_one_line(refusal, QUOTED_MAX);
            return Next::Fail(
                EndReason::AgentError,
                format!("the model refused the task: {text}"),
            );
        }
        let named = turn.finish.as_deref().unwrap_or_default();
        let named = on_one_line(named, 64);
        match class_of(turn.finish.as_deref()) {
            Finish::Cut => self.ask_to_continue(turn, &named),
            Finish::Filtered => Next::Fail(
                EndReason::AgentError,
                format!(
                    "the provider's content filter stopped the model's answer (finish reason `{named}`)"
                ),
            ),
            Finish::Unknown => Next::Fail(
                EndReason::ProviderError,
                format!(
                    "the model's answer ended for a reason that is not known (finish reason `{named}`)"
                ),
            ),
            Finish::Complete if !turn.calls.is_empty() => {
                self.begun.clear();
                Next::CallTools
            }
            Finish::Complete if turn.text.trim().is_empty() => {
                self.count_empty(match turn.reasoned {
                    true => "the model gave no answer, only reasoning",
                    false => "the model gave an empty answer",
                })
            }
            Finish::Complete => {
                let mut answer = std::mem::take(&mut self.begun);
                answer.push_str(&turn.text);
                Next::Answer(answer)
            }
        }
    }

    /// Asks for the rest of a turn that was cut at its length limit.
    fn ask_to_continue(&mut self, turn: &Turn, named: &str) -> Next {
        if self.continuations >= CONTINUATIONS_MAX {
            return Next::Fail(
                EndReason::OutputLimit,
                format!(
                    "the model's answer was cut at its length limit (finish reason `{named}`), and was not complete after \
                     {CONTINUATIONS_MAX} continuations; a larger `output_tokens_max` of the provider allows longer answers"
                ),
            );
        }
        self.continuations += 1;
        if !turn.calls.is_empty() {
            self.begun.clear();
            return Next::Ask(
                "Your turn was cut at the length limit before its tool calls were complete. None of them was carried out. \
                 Call the tools again, fewer at once or with shorter arguments."
                    .to_owned(),
            );
        }
        self.begun.push_str(&turn.text);
        let text = match self.begun.trim().is_empty() {
            true => {
                "Your turn was cut at the length limit before an answer began. Answer at once, and briefly."
            }
            false => {
                "Your answer was cut at the length limit. Continue exactly where it ended, and repeat nothing."
            }
        };
        Next::Ask(text.to_owned())
    }

    /// Counts a turn that had neither an answer nor a result.
    pub(super) fn count_empty(&mut self, why: &str) -> Next {
        self.empty += 1;
        match self.empty > EMPTY_MAX {
            true => Next::Fail(
                EndReason::AgentError,
                format!("{why}, {} times in one run", self.empty),
            ),
            false => Next::Ask(
                "Your turn had no answer. Carry out the task, and answer in words or call `finish` with a `result`."
                    .to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model_turn::ToolCall;
    use super::*;

    fn turn(text: &str, finish: &str) -> Turn {
        Turn {
            text: text.to_owned(),
            finish: Some(finish.to_owned()),
            ..Turn::default()
        }
    }

    /// Judges the same turn until the run ends or has an answer.
    fn end(turn: &Turn) -> (Next, u32) {
        let mut completion = Completion::default();
        for n in 1.. {
            match completion.judge(turn) {
                Next::Ask(_) => assert!(n < 10),
                end => return (end, n),
            }
        }
        unreachable!()
    }

    #[test]
    fn a_turn_without_a_whole_answer_never_completes_a_run() {
        let refused = Turn {
            refusal: "I cannot help with that.".to_owned(),
            ..turn("", "stop")
        };
        let reasoned = Turn {
            reasoned: true,
            ..turn("", "stop")
        };
        let table = [
            (
                turn("The tower was", "length"),
                EndReason::OutputLimit,
                4,
                "`length`",
            ),
            (turn("", "length"), EndReason::OutputLimit, 4, "`length`"),
            (
                turn("", "max_tokens"),
                EndReason::OutputLimit,
                4,
                "`max_tokens`",
            ),
            (
                turn("", "content_filter"),
                EndReason::AgentError,
                1,
                "content filter",
            ),
            (
                turn("The tower", "content_filter"),
                EndReason::AgentError,
                1,
                "content filter",
            ),
            (
                turn("The tower", "SAFETY"),
                EndReason::AgentError,
                1,
                "content filter",
            ),
            (
                turn("The tower", "insufficient_system_resource"),
                EndReason::ProviderError,
                1,
                "insufficient",
            ),
            (refused, EndReason::AgentError, 1, "I cannot help"),
            (turn("", "stop"), EndReason::AgentError, 3, "empty answer"),
            (
                turn(" \n\n ", "stop"),
                EndReason::AgentError,
                3,
                "empty answer",
            ),
            (
                turn("", "tool_calls"),
                EndReason::AgentError,
                3,
                "empty answer",
            ),
            (reasoned, EndReason::AgentError, 3, "only reasoning"),
        ];
        for (turn, reason, turns, words) in table {
            let (end, after) = end(&turn);
            let Next::Fail(why, text) = &end else {
                panic!("{turn:?}: {end:?}")
            };
            assert_eq!((*why, after), (reason, turns), "{turn:?}");
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn the_rest_of_a_cut_answer_is_put_behind_it() {
        let mut completion = Completion::default();
        let first = completion.judge(&turn("its bells were", "length"));
        assert!(matches!(first, Next::Ask(_)), "{first:?}");
        let whole = Next::Answer("its bells were cast in 1513.".to_owned());
        assert_eq!(completion.judge(&turn(" cast in 1513.", "stop")), whole);
    }

    #[test]
    fn tool_calls_of_a_cut_turn_are_not_carried_out() {
        let mut cut = turn("", "length");
        cut.calls.push(ToolCall::default());
        assert!(
            matches!(Completion::default().judge(&cut), Next::Ask(text) if text.contains("None of them"))
        );
        cut.finish = Some("tool_calls".to_owned());
        assert_eq!(Completion::default().judge(&cut), Next::CallTools);
    }
}
