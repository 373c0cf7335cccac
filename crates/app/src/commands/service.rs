//! `abbey service`: lists services, shows their logs, restarts them.

use crate::commands::logs::{Kind, LogsArgs, print_logs};
use crate::connect::operator_client;
use crate::exit::{self, Outcome};
use crate::output::{self, print_table, text_or_dash};
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
    },
}

/// `abbey service`: lists services, prints the log of one, or restarts one.
pub(crate) async fn cmd_service(home: &Home, json: bool, command: ServiceCommand) -> Outcome {
    match command {
        ServiceCommand::List => list_services(home, json).await,
        ServiceCommand::Logs(args) => print_logs(home, json, Kind::Service, &args).await,
        ServiceCommand::Restart { service } => restart_service(home, json, &service).await,
    }
}

/// Restarts a service.
async fn restart_service(home: &Home, json: bool, service: &str) -> Outcome {
    let client = operator_client(home)?.timeout(Duration::from_secs(60));
    let doc = client.services().restart(service).await?;
    match json {
        true => output::print_json(&doc),
        false => output::print_line(&format!("service `{service}` is restarting")),
    }
    Ok(exit::OK)
}

async fn list_services(home: &Home, json: bool) -> Outcome {
    let client = operator_client(home)?;
    let doc = client.services().list(&ServicesQuery::default()).await?;
    match json {
        true => output::print_json(&doc),
        false => print_services(&doc.services),
    }
    Ok(exit::OK)
}

/// Prints a table of services on standard output.
pub(crate) fn print_services(services: &[ServiceView]) {
    let row = |s: &ServiceView| {
        let health = s
            .healthy
            .map(|h| if h { "answers" } else { "does not answer" });
        vec![
            s.name.clone(),
            s.presence.to_string(),
            text_or_dash(health),
            s.cell.clone(),
            text_or_dash(s.port),
            text_or_dash(s.pid),
            s.restarts.to_string(),
            s.consumers.join(", "),
        ]
    };
    print_table(
        &[
            "SERVICE",
            "PRESENCE",
            "PROBE",
            "CELL",
            "PORT",
            "PID",
            "RESTARTS",
            "CONSUMERS",
        ],
        services.iter().map(row).collect(),
        "no services; the key `services` of the manifest declares them",
    );
}
