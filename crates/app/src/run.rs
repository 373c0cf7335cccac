//! `run` and `exec`: programs in cells, whose output and status are passed through.

use crate::cli::RunArgs;
use crate::connect::{client, segment};
use crate::exit::{self, Failure};
use crate::output;
use crate::watch::{Outcome, bytes};
use abbey_api::client::Error;
use abbey_api::{CommandBody, ExecBody, Problem, VERSION};
use abbey_daemon::{Home, manifest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::StreamExt;
use hyper::Method;
use serde_json::{Value, json};
use std::io::{IsTerminal, Read, Write};
use std::path::{Component, Path, PathBuf};

/// Most bytes of standard input.
const STDIN_MAX: u64 = 1 << 20;

/// Standard input, unless a person sits there.
fn input() -> Option<String> {
    let mut input = Vec::new();
    if !std::io::stdin().is_terminal() {
        let _nothing = std::io::stdin()
            .lock()
            .take(STDIN_MAX)
            .read_to_end(&mut input);
    }
    (!input.is_empty()).then(|| BASE64.encode(&input))
}

fn failed(failure: impl Into<Failure>) -> Failure {
    failure.into().with_code(125)
}

/// Asks for a program, and passes each line of the answer to `told` until the one that ends it.
async fn follow(
    home: &Home,
    path: &str,
    body: Value,
    mut told: impl FnMut(&Value),
) -> Result<Value, Failure> {
    let client = client(home).map_err(failed)?;
    let response = client
        .open(Method::POST, path, Some(body), &[])
        .await
        .map_err(failed)?;
    let ok = response.status().is_success();
    let mut stream = Box::pin(bytes(response));
    let mut pending = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| failed(Error::Broken(e.into())))?;
        pending.extend_from_slice(&chunk);
        if !ok {
            continue;
        }
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let value: Value = serde_json::from_slice(&line).unwrap_or_default();
            if value["exit"].is_u64() {
                return Ok(value);
            }
            told(&value);
        }
    }
    match serde_json::from_slice::<Problem>(&pending) {
        Ok(problem) => Err(failed(problem)),
        Err(_) => Err(failed(Failure::plain("the program's output was cut off"))),
    }
}

fn part(told: &Value, stream: &str) -> Option<Vec<u8>> {
    told[stream].as_str().and_then(|t| BASE64.decode(t).ok())
}

/// Passes what a program said on.
fn pass_on(told: &Value) {
    if let Some(bytes) = part(told, "stdout") {
        let _reader_gone = std::io::stdout().lock().write_all(&bytes);
    }
    if let Some(bytes) = part(told, "stderr") {
        let _reader_gone = std::io::stderr().lock().write_all(&bytes);
    }
}

fn status(end: &Value) -> u8 {
    end["exit"]
        .as_u64()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(125)
}

/// Runs a program in the cell of an agent; 125 when Abbey failed.
pub(crate) async fn exec(home: &Home, agent: &str, argv: Vec<String>) -> Outcome {
    let body = ExecBody {
        argv,
        stdin: input(),
    };
    let body = serde_json::to_value(body).unwrap_or_default();
    let path = format!("/api/v1/agents/{}/exec", segment(agent));
    let end = follow(home, &path, body, pass_on).await?;
    if let Some(why) = end["error"].as_str() {
        output::say(&format!("error: {why}"));
    }
    Ok(status(&end))
}

fn usage(why: String) -> Failure {
    Failure::plain(why).with_code(exit::USAGE)
}

/// What is asked of the house.
fn wish(args: RunArgs) -> Result<CommandBody, Failure> {
    let amount = |text: &String| {
        manifest::bytes(text).ok_or_else(|| usage(format!("`{text}` is no amount like 512MiB")))
    };
    let duration = |text: &String| {
        manifest::duration_ms(text).ok_or_else(|| usage(format!("`{text}` is no time like 60s")))
    };
    for name in &args.take {
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
        if name.is_empty() || !Path::new(name).components().all(plain) {
            return Err(usage(format!(
                "`{name}` leads out of the working directory"
            )));
        }
    }
    if args.cpus.is_some_and(|c| !(0.001..=1024.0).contains(&c)) {
        return Err(usage("CPUs are from 0.001 to 1024".to_owned()));
    }
    Ok(CommandBody {
        argv: args.command,
        stdin: input(),
        cell: Some(args.cell),
        image: args.image,
        memory_bytes: args.memory.as_ref().map(amount).transpose()?,
        cpu_milli: args.cpus.map(|c| (c * 1000.0).round() as u32),
        processes: args.processes,
        timeout_ms: args.timeout.as_ref().map(duration).transpose()?,
        egress: args.egress,
        profile: args.profile,
        waive: args.waive,
        files: pack(&args.bring).map_err(failed)?,
        take: args.take,
    })
}

/// Runs a command in a fresh cell; 125 when Abbey failed, 124 when it ran out of time.
pub(crate) async fn run(home: &Home, json: bool, args: RunArgs) -> Outcome {
    let body = wish(args)?;
    let names = body.take.clone();
    let body = serde_json::to_value(body).unwrap_or_default();
    let mut document = json!({ "version": VERSION, "stdout": "", "stderr": "" });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let end = follow(home, "/api/v1/commands", body, |told| {
        if !json {
            return pass_on(told);
        }
        out.extend(part(told, "stdout").unwrap_or_default());
        err.extend(part(told, "stderr").unwrap_or_default());
        for key in ["cell", "layers", "boot"] {
            if !told[key].is_null() {
                document[key] = told[key].clone();
            }
        }
    })
    .await?;
    if let Some(archive) = end["files"].as_str() {
        let archive = BASE64.decode(archive).unwrap_or_default();
        unpack(&archive, &names).map_err(failed)?;
    }
    if json {
        document["stdout"] = String::from_utf8_lossy(&out).into();
        document["stderr"] = String::from_utf8_lossy(&err).into();
        for key in ["exit", "reason", "timed_out", "usage", "error"] {
            document[key] = end[key].clone();
        }
        output::json(&document);
        return Ok(status(&end));
    }
    let reason = end["reason"].as_str().unwrap_or("it did not run");
    match (end["error"].as_str(), end["timed_out"] == true) {
        (Some(why), _) => output::say(&format!("error: {why}")),
        (None, true) => output::say("the command ran out of time and was ended"),
        (None, false) if status(&end) == 125 || reason.contains("memory") => output::say(reason),
        (None, false) => {}
    }
    Ok(status(&end))
}

/// An archive of files and directories under their own names.
fn pack(paths: &[PathBuf]) -> Result<Option<String>, Failure> {
    if paths.is_empty() {
        return Ok(None);
    }
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(true);
    for path in paths {
        let cannot = |e: std::io::Error| {
            Failure::plain(format!("`{}` cannot be brought along: {e}", path.display()))
        };
        let whole = path.canonicalize().map_err(cannot)?;
        let name = whole.file_name().unwrap_or_default();
        match whole.is_dir() {
            true => archive.append_dir_all(name, &whole),
            false => archive.append_path_with_name(&whole, name),
        }
        .map_err(cannot)?;
    }
    let bytes = archive.into_inner();
    let bytes = bytes.map_err(|e| Failure::plain(format!("the files cannot be packed: {e}")))?;
    Ok(Some(BASE64.encode(bytes)))
}

/// Writes what a command left: plain files and directories below the names that were asked for,
/// whatever else its archive says.
fn unpack(archive: &[u8], names: &[String]) -> Result<(), Failure> {
    let cannot =
        |e: std::io::Error| Failure::plain(format!("what it left cannot be written here: {e}"));
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(false);
    for entry in archive.entries().map_err(cannot)? {
        let mut entry = entry.map_err(cannot)?;
        let path = entry.path().map_err(cannot)?.into_owned();
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
        let wanted = names.iter().any(|n| path.starts_with(n));
        let kind = entry.header().entry_type();
        let simple = matches!(kind, tar::EntryType::Regular | tar::EntryType::Directory);
        if !(path.components().all(plain) && wanted && simple) {
            let odd = std::io::Error::other(format!("`{}` was not asked for", path.display()));
            return Err(cannot(odd));
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(cannot)?;
        }
        entry.unpack_in(".").map_err(cannot)?;
    }
    Ok(())
}
