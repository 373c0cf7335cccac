//! A run whose task matched a skill: the skill's program does it, and no model is called.

use super::RunContext;
use super::captured::{run_captured, shorten};
use super::skill_approval::{self, Decision};
use super::skill_files;
use crate::lease_files::TASK_VARIABLE;
use crate::programs::{APPROVED, ASK, ASKS};
use crate::runtime::driver::TurnEnd;
use abbey_api::{SkillView, UseBody};
use abbey_model::{EndReason, ResultSource};
use abbey_support::digest::sha256_hex;
use serde_json::{Value, json};
use tokio::process::Command;

/// Longest part of a program's standard error that explains a failure, in bytes.
const FAILURE_MAX: usize = 64 << 10;

/// Runs the program of a skill with the task's arguments, and returns its result as the end of the
/// turn.
pub(super) async fn run_skill(context: &mut RunContext<'_>, skill: &SkillView) -> TurnEnd {
    let assignment = context.assignment;
    let offer = &assignment.offer;
    context.events.skill_hash(skill.hash.clone());
    let args: Value = json!(offer.args);
    if let Err(wrong) = crate::skill::check_arguments(&skill.args, &args) {
        return skill_failed(format!(
            "the arguments are not valid for skill `{}`: {wrong}",
            skill.name
        ));
    }
    let Some(program) = &skill.program else {
        return skill_failed(format!("skill `{}` has no program to run", skill.name));
    };
    let client = &assignment.client;
    // Keeps a copy of the skill's files until the program has ended.
    let mut copied = None;
    let mut command = if let Some(name) = program.strip_prefix("builtin:") {
        let mut command = own_program();
        command.args(["role", "native", "--skill", name]);
        command
    } else if let Some(path) = program.strip_prefix(skill_files::BY_API) {
        match skill_files::open_dir(client, &skill.name).await {
            Ok(dir) => Command::new(copied.insert(dir).path().join(path)),
            Err(why) => return skill_failed(why),
        }
    } else {
        Command::new(program)
    };
    match skill_approval::last_decision(offer, &skill.name, &args) {
        Decision::Denied(text) => {
            return skill_failed(format!("skill `{}`: {text}", skill.name));
        }
        Decision::Approved(id) if !skill_approval::is_used_by_control_plane(skill) => {
            let body = UseBody {
                action: skill_approval::approval_action(&skill.name),
                args: args.clone(),
            };
            let (client, lease) = (&assignment.client, &assignment.lease);
            if let Err(why) = skill_approval::use_approval(client, lease, &id, &body).await {
                return skill_failed(why);
            }
            command.env(APPROVED, id);
        }
        Decision::Approved(_) | Decision::None => {}
    }
    command.env(TASK_VARIABLE, &assignment.lease.task);
    let span = sha256_hex(assignment.run.as_bytes());
    let span = span.get(..16).unwrap_or_default();
    // Source: W3C Trace Context; programs that trace read this variable.
    command.env("TRACEPARENT", format!("00-{}-{span}-01", offer.trace));
    let output_max = usize::try_from(context.policy.output_bytes_max).unwrap_or(usize::MAX);
    let input = args.to_string().into_bytes();
    let output = match run_captured(&mut command, Some(input), output_max).await {
        Ok(output) => output,
        Err(e) => {
            return skill_failed(format!(
                "could not run the program of skill `{}`: {e}",
                skill.name
            ));
        }
    };
    let stdout = output.stdout.text();
    let answer = Answer::of(&stdout);
    context.session.append(&json!({
        "event": "skill", "run": assignment.run, "skill": skill.name, "skill_hash": skill.hash, "args": args,
        "status": output.status.code(), "output_hash": sha256_hex(stdout.as_bytes()),
    }));
    if output.status.code() == Some(ASKS)
        && let Some(why) = answer.ask["why"].as_str()
    {
        return skill_approval::request_approval(assignment, (&skill.name, args), why).await;
    }
    context.events.receipts(1);
    let Answer { mut text, data, .. } = answer;
    if output.status.success() {
        let missing = context.missing_fields(&data);
        if !missing.is_empty() {
            return skill_failed(format!(
                "the result of skill `{}` is missing the fields {}, which the author of the task requires",
                skill.name,
                missing.join(", ")
            ));
        }
        return TurnEnd::Completed {
            text,
            source: ResultSource::Skill,
            data,
        };
    }
    if text.is_empty() {
        output.stderr.text().trim().clone_into(&mut text);
        text = shorten(text, FAILURE_MAX);
    }
    skill_failed(format!("{text} ({})", output.status))
}

/// What a skill's program printed.
#[derive(Debug, PartialEq)]
struct Answer {
    /// Result for people.
    text: String,
    /// Result for programs.
    data: Value,
    /// Approval that it needs, if any.
    ask: Value,
}

impl Answer {
    /// An object with `text`, `data` or a request for an approval is an answer in Abbey's form. Anything else is the
    /// result as it was printed, and its data too if it is an object.
    fn of(stdout: &str) -> Answer {
        let printed = stdout.trim().to_owned();
        let Ok(Value::Object(mut object)) = serde_json::from_str::<Value>(&printed) else {
            return Answer {
                text: printed,
                data: Value::Null,
                ask: Value::Null,
            };
        };
        let ask = object.remove(ASK).filter(Value::is_object);
        let text = match object.get("text") {
            Some(Value::String(text)) => Some(text.clone()),
            Some(_) => None,
            None if ask.is_some() => Some(String::new()),
            None => object.contains_key("data").then(|| printed.clone()),
        };
        Answer {
            data: match &text {
                Some(_) => object.remove("data").unwrap_or_default(),
                None => Value::Object(object),
            },
            text: text.unwrap_or(printed),
            ask: ask.unwrap_or_default(),
        }
    }
}

fn skill_failed(text: String) -> TurnEnd {
    TurnEnd::Failed {
        reason: EndReason::SkillFailed,
        text,
    }
}

/// This binary, as a command. It is named by `/proc/self/exe` because its path may not exist inside the cell. In a guest
/// it was started by a loader that came along with it, as the guest's own libraries may differ; `ABBEY_LIBRARIES` names
/// their directory.
fn own_program() -> Command {
    let Some(libraries) = std::env::var_os("ABBEY_LIBRARIES").map(std::path::PathBuf::from) else {
        return Command::new("/proc/self/exe");
    };
    let mut command = Command::new(libraries.join("ld.so"));
    command.arg("--library-path").arg(&libraries);
    command.arg(libraries.with_file_name("abbey"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_prints_is_its_result() {
        for printed in ["12", "null", "true", "[1, 2]", "\"word\"", "rang at noon"] {
            let answer = Answer::of(&format!("{printed}\n"));
            assert_eq!((answer.text.as_str(), answer.data), (printed, Value::Null));
        }
        let object = Answer::of("{\"count\": 3}\n");
        assert_eq!(object.text, "{\"count\": 3}");
        assert_eq!(object.data, json!({ "count": 3 }));
        let number = Answer::of("{\"text\": 5}");
        assert_eq!(number.text, "{\"text\": 5}");
        assert_eq!(number.data, json!({ "text": 5 }));
        let own = Answer::of("{\"text\": \"rang\", \"data\": {\"times\": 3}}");
        assert_eq!(own.text, "rang");
        assert_eq!(own.data, json!({ "times": 3 }));
        let asks = Answer::of(&format!("{{\"{ASK}\": {{\"why\": \"it stops\"}}}}"));
        assert_eq!(
            (asks.text.as_str(), &asks.ask["why"]),
            ("", &json!("it stops"))
        );
    }
}
