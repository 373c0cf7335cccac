//! `abbey service`: lists services, shows their logs, restarts them.

use crate::commands::logs::{Kind, LogsArgs, print_logs};
use crate::connect::operator_client;
use crate::consent::Consent;
use crate::exit::{self, Outcome};
use crate::hostd_notice::report_missing_hostd;
use crate::manifest_arg::ManifestArg;
use crate::manifest_file::{
    apply_edit, edit_manifest, parse_slug, print_applied_plan, service_edit_failure,
};
use crate::output::{self, draw_table, print_lines, text_or_dash};
use crate::readiness::{WaitArgs, WaitFor};
use crate::table::Table;
use crate::text::{Text, Tone};
use abbey_api::{ServiceView, ServicesQuery};
use abbey_daemon::{Home, manifest};
use clap::{Args, Subcommand};
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
    /// Make a service that the manifest disables part of the house again, and start it.
    #[command(after_help = "Example:\n  abbey service enable web")]
    Enable(EnableArgs),
    /// Stop a service and take it out of the house; its manifest entry and its files stay.
    #[command(after_help = "Example:\n  abbey service disable web")]
    Disable(DisableArgs),
}

#[derive(Debug, Args)]
pub(crate) struct EnableArgs {
    /// Name of the service.
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DisableArgs {
    /// Name of the service.
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
}

/// `abbey service`: lists services, prints the log of one, restarts one, or enables or disables one in the manifest.
pub(crate) async fn cmd_service(home: &Home, json: bool, command: ServiceCommand) -> Outcome {
    match command {
        ServiceCommand::List => list_services(home, json).await,
        ServiceCommand::Logs(args) => print_logs(home, json, Kind::Service, &args).await,
        ServiceCommand::Restart { service, wait } => {
            restart_service(home, json, &service, &wait).await
        }
        ServiceCommand::Enable(args) => {
            let code = set_enabled(home, json, (&args.service, &args.manifest), true).await?;
            if code != exit::OK {
                return Ok(code);
            }
            let client = operator_client(home)?;
            args.wait
                .wait(&client, WaitFor::Service(args.service))
                .await
        }
        ServiceCommand::Disable(args) => {
            set_enabled(home, json, (&args.service, &args.manifest), false).await
        }
    }
}

/// Sets the key `enabled` of a service in the manifest, and applies it.
async fn set_enabled(
    home: &Home,
    json: bool,
    (service, file): (&str, &ManifestArg),
    enabled: bool,
) -> Outcome {
    let file = file.path(home);
    let name = parse_slug(service)?;
    let edit = edit_manifest(home, &file, |text| {
        manifest::enable_service(text, &name, enabled)
            .map_err(|m| service_edit_failure(text, &name, &m))
    })
    .await?;
    // Who disables a service by name agrees to that, and to nothing else that the manifest may say.
    let consent = match enabled {
        true => Consent::Ask,
        false => Consent::To(format!("service:{name}")),
    };
    let show = print_applied_plan(json);
    apply_edit(home, &file, edit, None, consent, show).await
}

/// Restarts a service, and waits until it is ready or it is known that it will not be.
async fn restart_service(home: &Home, json: bool, service: &str, wait: &WaitArgs) -> Outcome {
    let client = operator_client(home)?.timeout(Duration::from_secs(60));
    if !json {
        report_missing_hostd(home).await;
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
