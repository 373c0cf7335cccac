//! A run whose task matched a skill: the skill's program does it, and no model is called.

use super::RunContext;
use super::skill_approval::{self, Decision};
use crate::programs::{APPROVED, ASK, ASKS};
use crate::runtime::driver::TurnEnd;
use abbey_api::{SkillView, UseBody};
use abbey_model::{EndReason, ResultSource};
use abbey_support::digest::sha256_hex;
use serde_json::{Value, json};
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// Longest part of a program's standard error that is kept, in bytes.
const STDERR_MAX: u64 = 64 << 10;

/// What a skill's program printed, and how it ended.
struct Output {
    stdout: String,
    stderr: String,
    status: ExitStatus,
}

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
    let mut command = match program.strip_prefix("builtin:") {
        Some(name) => {
            let mut command = own_program();
            command.args(["role", "native", "--skill", name]);
            command
        }
        None => Command::new(program),
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
    let span = sha256_hex(assignment.run.as_bytes());
    let span = span.get(..16).unwrap_or_default();
    // Source: W3C Trace Context; programs that trace read this variable.
    command.env("TRACEPARENT", format!("00-{}-{span}-01", offer.trace));
    let output_max = context.policy.output_bytes_max;
    let output = match run_program(&mut command, &args, output_max).await {
        Ok(Some(output)) => output,
        Ok(None) => {
            return TurnEnd::Failed {
                reason: EndReason::OutputLimit,
                text: format!("skill `{}` wrote more than {output_max} bytes", skill.name),
            };
        }
        Err(e) => {
            return skill_failed(format!(
                "could not run the program of skill `{}`: {e}",
                skill.name
            ));
        }
    };
    let answer: Value = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|_| json!({ "text": output.stdout.trim() }));
    context.session.append(&json!({
        "event": "skill", "run": assignment.run, "skill": skill.name, "skill_hash": skill.hash, "args": args,
        "status": output.status.code(), "output_hash": sha256_hex(output.stdout.as_bytes()),
    }));
    if output.status.code() == Some(ASKS)
        && let Some(why) = answer[ASK]["why"].as_str()
    {
        return skill_approval::request_approval(assignment, (&skill.name, args), why).await;
    }
    context.events.receipts(1);
    let mut text = answer["text"].as_str().unwrap_or_default().to_owned();
    if output.status.success() {
        let missing = context.missing_fields(&answer["data"]);
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
            data: answer["data"].clone(),
        };
    }
    if text.is_empty() {
        output.stderr.trim().clone_into(&mut text);
    }
    skill_failed(format!("{text} ({})", output.status))
}

/// Runs a program with JSON arguments on its standard input. `None` when it wrote more than `output_max` bytes.
async fn run_program(
    command: &mut Command,
    args: &Value,
    output_max: u64,
) -> std::io::Result<Option<Output>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ended_early = stdin.write_all(args.to_string().as_bytes()).await;
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read_out = async {
        if let Some(pipe) = stdout {
            let _broken = pipe.take(output_max + 1).read_to_end(&mut out).await;
        }
    };
    let read_err = async {
        if let Some(pipe) = stderr {
            let _broken = pipe.take(STDERR_MAX).read_to_end(&mut err).await;
        }
    };
    tokio::join!(read_out, read_err);
    if out.len() as u64 > output_max {
        return Ok(None);
    }
    Ok(Some(Output {
        status: child.wait().await?,
        stdout: String::from_utf8_lossy(&out).into_owned(),
        stderr: String::from_utf8_lossy(&err).into_owned(),
    }))
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
