//! `abbey why`: explains the state of an agent or a service.

use crate::connect::operator_client;
use crate::exit::{self, Failure, Outcome};
use crate::output::{self, text_or_dash};
use crate::text::Text;
use abbey_api::client::Client;
use abbey_api::{ServiceView, ServicesQuery};
use abbey_daemon::Home;

/// `abbey why`: prints the state of an agent with its reasons, its last exit and its next retry, or the state of a
/// service.
pub(crate) async fn cmd_why(home: &Home, json: bool, name: &str) -> Outcome {
    let client = operator_client(home)?;
    let doc = match client.agents().why(name).await {
        Ok(doc) => doc,
        Err(error) => {
            let failure = Failure::from(error);
            return match find_service(&client, name, failure.code()).await? {
                Some(service) => Ok(explain_service(json, &service)),
                None => Err(failure),
            };
        }
    };
    if json {
        output::print_json(&doc);
        return Ok(exit::OK);
    }
    output::print_text(&Text::from(format!("{} is ", doc.agent)).join(doc.presence.into()));
    output::print_reasons(&doc.reasons);
    output::print_line(&format!(
        "  last exit: {}{}",
        text_or_dash(doc.last_exit),
        doc.last_exit_at
            .map_or_else(String::new, |t| format!(" at {}", output::local_time(t)))
    ));
    output::print_line(&format!(
        "  next retry: {}",
        text_or_dash(doc.next_retry.map(output::local_time))
    ));
    Ok(exit::OK)
}

/// The service of this name (also `service/NAME`), where the house said that there is no such agent.
async fn find_service(
    client: &Client,
    name: &str,
    code: u8,
) -> Result<Option<ServiceView>, Failure> {
    if code != exit::NOT_FOUND {
        return Ok(None);
    }
    let name = name.strip_prefix("service/").unwrap_or(name);
    let doc = client.services().list(&ServicesQuery::default()).await?;
    Ok(doc.services.into_iter().find(|s| s.name == name))
}

fn explain_service(json: bool, service: &ServiceView) -> u8 {
    if json {
        output::print_json(service);
        return exit::OK;
    }
    let name = &service.name;
    output::print_text(&Text::from(format!("{name} is ")).join(service.presence.into()));
    match service.healthy {
        Some(true) => output::print_line("  probe: it answers"),
        Some(false) => output::print_line("  probe: it does not answer at its port"),
        None => {}
    }
    for why in service.waits.iter().chain(&service.trouble) {
        output::print_hanging("  waits: ", why);
    }
    let restarts = service.restarts;
    let line = format!("restarts: {restarts}; `abbey service logs {name}` shows its output");
    output::print_hanging("  ", line);
    exit::OK
}
