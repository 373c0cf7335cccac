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
        false => {
            print_services(&doc.services, &doc.disabled);
            print_troubles(&doc.services);
        }
    }
    Ok(exit::OK)
}

/// Prints on standard output what is wrong with services, a line for each.
pub(crate) fn print_troubles(services: &[ServiceView]) {
    for service in services {
        if let Some(trouble) = &service.trouble {
            let line = format!("{}: {trouble}", service.name);
            output::print_hanging("", output::with_local_times(&line));
        }
    }
}

/// Most consumers of a service that its line names.
const CONSUMERS_MOST: usize = 6;

/// Names of consumers; those of many agents are counted.
fn list_consumers(consumers: &[String]) -> String {
    let named = consumers.iter().take(CONSUMERS_MOST);
    let named: Vec<&str> = named.map(String::as_str).collect();
    match consumers.len().saturating_sub(CONSUMERS_MOST) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
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
            list_consumers(&s.consumers).into(),
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
}
