//! `abbey provider`: the model providers of the manifest and their health.

use crate::connect::operator_client;
use crate::exit::{self, Outcome};
use crate::output::{self, draw_table, local_time, text_or_dash};
use crate::table::Table;
use crate::text::{Text, Tone};
use abbey_api::{ClearCooldown, ProviderView};
use abbey_daemon::Home;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum ProviderCommand {
    /// List the model providers with their state and the agents that use them.
    #[command(after_help = "Example:\n  abbey provider list")]
    List,
    /// Call a provider again at once that is paused after failures; tasks that wait for it go on.
    ///
    /// A provider that fails again is paused again.
    #[command(
        after_help = "Example:\n  abbey provider clear-cooldown cloud --note \"the account is paid\""
    )]
    ClearCooldown {
        /// Name of the provider in the manifest.
        provider: String,
        /// Reason, for the audit log.
        #[arg(long)]
        note: Option<String>,
    },
}

/// `abbey provider`: lists the model providers, or forgets how the last calls of one failed.
pub(crate) async fn cmd_provider(home: &Home, json: bool, command: ProviderCommand) -> Outcome {
    let client = operator_client(home)?;
    match command {
        ProviderCommand::List => {
            let doc = client.providers().list().await?;
            match json {
                true => output::print_json(&doc),
                false => print_providers(&doc.providers),
            }
        }
        ProviderCommand::ClearCooldown { provider, note } => {
            let body = ClearCooldown { note };
            let done = client.providers().clear_cooldown(&provider, &body).await?;
            if json {
                output::print_json(&done);
                return Ok(exit::OK);
            }
            let name = &done.provider.name;
            output::print_message(&match done.cleared {
                true => {
                    format!("provider `{name}` is called again; the tasks that wait for it go on")
                }
                false => format!("provider `{name}` is not paused; nothing was changed"),
            });
        }
    }
    Ok(exit::OK)
}

fn print_providers(providers: &[ProviderView]) {
    if providers.is_empty() {
        output::print_lines(
            "no providers; the key `providers` of the manifest names those that agents' models are of",
        );
        return;
    }
    let row = |p: &ProviderView| {
        let state = match p.failing {
            Some(_) => Text::toned(Tone::Attention, "failing"),
            None => Text::toned(Tone::Good, "ok"),
        };
        let until = p.failing.as_ref().map(|f| local_time(f.until));
        let agents = (!p.agents.is_empty()).then(|| p.agents.join(", "));
        vec![
            Text::from(&p.name),
            state,
            text_or_dash(until).into(),
            text_or_dash(agents).into(),
            Text::from(&p.endpoint),
            text_or_dash(p.key.as_ref()).into(),
        ]
    };
    let head = ["PROVIDER", "STATE", "PAUSED UNTIL", "AGENTS", "API", "KEY"];
    let table = Table::new(&head, providers.iter().map(row).collect());
    draw_table(&table.leave_out_first(&["KEY", "API"]));
    for failing in providers.iter().filter_map(|p| p.failing.as_ref()) {
        output::print_line("");
        output::print_hanging("", output::with_local_times(&failing.text));
    }
}
