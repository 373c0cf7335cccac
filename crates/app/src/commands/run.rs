//! `abbey run`: runs one command in a fresh cell.

use crate::command_stream::{
    decode_output, internal_failure, print_program_output, program_exit_code, read_stdin_base64,
    stream_program_output,
};
use crate::connect::operator_client;
use crate::durations::{milliseconds, parse_positive_duration};
use crate::exit::{Failure, Outcome};
use crate::output;
use abbey_api::{CommandBody, VERSION};
use abbey_cells::copy::receive_named;
use abbey_daemon::{Home, manifest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use serde_json::json;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Kind of cell: `sandbox`, `microvm` or `process`.
    #[arg(long, default_value = "sandbox")]
    pub(crate) cell: String,
    /// Image that a microVM boots from [default: base].
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// Memory limit, like `512MiB`.
    #[arg(long)]
    pub(crate) memory: Option<String>,
    /// CPU limit in CPUs, like `0.5`.
    #[arg(long)]
    pub(crate) cpus: Option<f64>,
    /// Limit on the number of processes; at least 8.
    #[arg(long)]
    pub(crate) processes: Option<u32>,
    /// Time limit, like `60s`; a command that exceeds it is killed and the exit code is 124.
    #[arg(long, value_name = "TIME", value_parser = parse_positive_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Allowed destinations: `none` (the default), `full`, or a destination like `api.example.org:443`; may be
    /// given several times.
    #[arg(long)]
    pub(crate) egress: Vec<String>,
    /// System call profile: `strict`, or `jit` (the default).
    #[arg(long)]
    pub(crate) profile: Option<String>,
    /// An isolation layer that may be missing on this host; may be given several times.
    #[arg(long)]
    pub(crate) waive: Vec<String>,
    /// A file or directory to copy into the working directory under its own name; may be given several times.
    #[arg(long = "in", value_name = "PATH")]
    pub(crate) bring: Vec<PathBuf>,
    /// A file or directory of the working directory to copy back at the end, under the same name; may be given
    /// several times.
    #[arg(long = "out", value_name = "NAME")]
    pub(crate) take: Vec<String>,
    /// Program and arguments, after `--`.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

/// What to write instead of a size that is none: the number with its unit, or an example.
fn with_unit(text: &str) -> String {
    match text.parse::<u64>() {
        Ok(_) => format!("its unit is missing; write `{text}MiB`"),
        Err(_) => "write a number with a unit, like `512MiB`".to_owned(),
    }
}

/// The request that the arguments describe.
fn request_body(args: RunArgs) -> Result<CommandBody, Failure> {
    let amount = |text: &String| {
        manifest::parse_bytes(text)
            .ok_or_else(|| Failure::usage(format!("invalid size `{text}`: {}", with_unit(text))))
    };
    for name in &args.take {
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
        if name.is_empty() || !Path::new(name).components().all(plain) {
            return Err(Failure::usage(format!(
                "`--out {name}` must be a path inside the working directory"
            )));
        }
    }
    if args.cpus.is_some_and(|c| !(0.001..=1024.0).contains(&c)) {
        return Err(Failure::usage(
            "`--cpus` must be from 0.001 to 1024".to_owned(),
        ));
    }
    Ok(CommandBody {
        argv: args.command,
        stdin: read_stdin_base64()?,
        cell: Some(args.cell),
        image: args.image,
        memory_bytes: args.memory.as_ref().map(amount).transpose()?,
        cpu_milli: args.cpus.map(|c| (c * 1000.0).round() as u32),
        processes: args.processes,
        timeout_ms: args.timeout.map(milliseconds),
        egress: args.egress,
        profile: args.profile,
        waive: args.waive,
        files: pack(&args.bring)?,
        take: args.take,
    })
}

/// `abbey run`: runs a command in a fresh cell, which is removed afterwards. Returns the exit code of the command,
/// 124 after its time limit, or 125 when Abbey failed.
pub(crate) async fn cmd_run(home: &Home, json: bool, args: RunArgs) -> Outcome {
    let body = request_body(args)?;
    let names = body.take.clone();
    let client = operator_client(home).map_err(internal_failure)?;
    let stream = client.commands().run(&body).await;
    let stream = stream.map_err(internal_failure)?;
    let mut document = json!({ "version": VERSION, "stdout": "", "stderr": "" });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let end = stream_program_output(stream, |output| {
        if !json {
            return print_program_output(output);
        }
        out.extend(decode_output(output, "stdout").unwrap_or_default());
        err.extend(decode_output(output, "stderr").unwrap_or_default());
        for key in ["cell", "layers", "boot"] {
            if !output[key].is_null() {
                document[key] = output[key].clone();
            }
        }
    })
    .await?;
    if let Some(archive) = end["files"].as_str() {
        let archive = BASE64.decode(archive).unwrap_or_default();
        let left_out = unpack(&archive, &names).map_err(internal_failure)?;
        match json {
            true => document["left_out"] = left_out.into(),
            false => left_out.iter().for_each(|text| output::print_message(text)),
        }
    }
    if json {
        document["stdout"] = String::from_utf8_lossy(&out).into();
        document["stderr"] = String::from_utf8_lossy(&err).into();
        for key in ["exit", "reason", "timed_out", "usage", "error"] {
            document[key] = end[key].clone();
        }
        output::print_json(&document);
        return Ok(program_exit_code(&end));
    }
    let reason = end["reason"].as_str().unwrap_or("the command did not run");
    match (end["error"].as_str(), end["timed_out"] == true) {
        (Some(why), _) => output::print_message(&format!("error: {why}")),
        (None, true) => output::print_message("the command exceeded its time limit and was killed"),
        (None, false) if program_exit_code(&end) == 125 || reason.contains("memory") => {
            output::print_message(reason)
        }
        (None, false) => {}
    }
    Ok(program_exit_code(&end))
}

/// Packs files and directories under their own names as a Base64 tar archive.
fn pack(paths: &[PathBuf]) -> Result<Option<String>, Failure> {
    if paths.is_empty() {
        return Ok(None);
    }
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(true);
    // The receiver takes plain files only.
    archive.sparse(false);
    for path in paths {
        let cannot = |e: std::io::Error| {
            Failure::usage(format!(
                "cannot copy `{}` into the cell: {e}",
                path.display()
            ))
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
    let bytes =
        bytes.map_err(|e| Failure::plain(format!("cannot pack the files of `--in`: {e}")))?;
    Ok(Some(BASE64.encode(bytes)))
}

/// Most paths that are named as left out.
const LEFT_OUT_MAX: usize = 1000;

/// Unpacks the files that a command returned, as `abbey cp` does. Only plain files and directories below the requested
/// names are written, and links that lead to a path of their directory; returns a sentence about each other link.
fn unpack(archive: &[u8], names: &[String]) -> Result<Vec<String>, Failure> {
    let names: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    let (mut left_out, mut more) = (Vec::new(), 0_u64);
    // The cell decides how many there are.
    let mut leave_out = |text| match left_out.len() < LEFT_OUT_MAX {
        true => left_out.push(text),
        false => more += 1,
    };
    receive_named(Path::new("."), &names, archive, &mut leave_out)
        .map_err(|e| Failure::plain(format!("cannot write the files of `--out`: {e}")))?;
    if more > 0 {
        left_out.push(format!("{more} more were left out"));
    }
    Ok(left_out)
}
