//! `abbey service`: lists services, shows their logs, restarts them.

use crate::commands::logs::{Kind, LogsArgs, print_logs};
use crate::connect::operator_client;
use crate::exit::{self, Outcome};
use crate::hostd_notice::report_missing_hostd;
use crate::output::{self, draw_table, print_lines, text_or_dash};
use crate::readiness::{WaitArgs, WaitFor};
use crate::table::Table;
use crate::text::{Text, Tone};
use abbey_api::{ServiceView, ServicesQuery};
use abbey_daemon::Home;
use clap::Subcommand;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List the services with their presence and consumers.
    #[command(after_help = "Example:\n  abbey service list")]
    List,
    /// Show what a service printed.
    #[command(after_help = "Example:\n  abbey service logs web --follow")]
    Logs(LogsArgs),
    /// Restart a service.
    #[command(after_help = "Example:\n  abbey service restart web")]
    Restart {
        /// Name of the service.
        service: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

/// `abbey service`: lists services, prints the log of one, or restarts one.
pub(crate) async fn cmd_service(home: &Home, json: bool, command: ServiceCommand) -> Outcome {
    match command {
        ServiceCommand::List => list_services(home, json).await,
        ServiceCommand::Logs(args) => print_logs(home, json, Kind::Service, &args).await,
        ServiceCommand::Restart { service, wait } => {
            restart_service(home, json, &service, &wait).await
        }
    }
}

/// Restarts a service, and waits until it is ready or it is known that it will not be.
async fn restart_service(home: &Home, json: bool, service: &str, wait: &WaitArgs) -> Outcome {
    let client = operator_client(home)?.timeout(Duration::from_secs(60));
    if !json {
        report_missing_hostd(home);
    }
    let doc = client.services().restart(service).await?;
    let code = wait
        .wait(&client, WaitFor::Service(service.to_owned()))
        .await?;
    let now = match code {
        exit::OK if !wait.no_wait => "has restarted",
        _ => "is restarting",
    };
    match json {
        true => output::print_json(&doc),
        false => output::print_line(&format!("service `{service}` {now}")),
    }
    Ok(code)
}

async fn list_services(home: &Home, json: bool) -> Outcome {
    let client = operator_client(home)?;
    let doc = client.services().list(&ServicesQuery::default()).await?;
    match json {
        true => output::print_json(&doc),
        false => print_services(&doc.services, &doc.disabled),
    }
    Ok(exit::OK)
}

/// Columns of the table of services.
const HEAD: &[&str] = &[
    "SERVICE",
    "PRESENCE",
    "PROBE",
    "CELL",
    "PORT",
    "PID",
    "RESTARTS",
    "CONSUMERS",
];

/// Prints a table of services on standard output, with those that the manifest disables.
pub(crate) fn print_services(services: &[ServiceView], disabled: &[String]) {
    let row = |s: &ServiceView| {
        let health = match s.healthy {
            None => "-".into(),
            Some(true) => "answers".into(),
            Some(false) => Text::toned(Tone::Attention, "does not answer"),
        };
        vec![
            Text::from(&s.name),
            Text::from(s.presence),
            health,
            Text::from(&s.cell),
            text_or_dash(s.port).into(),
            text_or_dash(s.pid).into(),
            s.restarts.to_string().into(),
            s.consumers.join(", ").into(),
        ]
    };
    let off = |name: &String| {
        let mut row = vec![Text::from(name), Text::toned(Tone::Faint, "disabled")];
        row.resize(HEAD.len(), "-".into());
        row
    };
    let rows = services.iter().map(row).chain(disabled.iter().map(off));
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return print_lines("no services; the key `services` of the manifest declares them");
    }
    let table = Table::new(HEAD, rows);
    draw_table(&table.leave_out_first(&["PID", "CELL"]));
    services.iter().for_each(|s| print_closed_access("", s));
}

/// Prints what a service keeps for agents that no longer use it, until when, and where a copy is.
pub(crate) fn print_closed_access(indent: &str, service: &ServiceView) {
    for closed in &service.closed {
        let copy = match &closed.copy {
            Some(path) => format!("the copy `{path}`"),
            None => format!("a copy under `services/{}/backups/`", service.name),
        };
        let label = Text::toned(Tone::Attention, &format!("{indent}{}: ", service.name));
        output::print_hanging(
            label,
            format!(
                "`{}` was closed at {} and is deleted at {}, unless an agent uses it again before; {copy} in the state directory stays",
                closed.name,
                output::local_time(closed.closed_at),
                output::local_time(closed.deleted_at),
            ),
        );
    }
}
