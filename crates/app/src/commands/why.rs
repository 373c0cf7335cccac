//! `abbey why`: explains the state of an agent or a service.

use crate::connect::operator_client;
use crate::exit::{self, Failure, Outcome};
use crate::output::{self, text_or_dash};
use crate::text::Text;
use abbey_api::client::Client;
use abbey_api::{ReadinessQuery, ServiceView, ServicesQuery};
use abbey_daemon::Home;
use abbey_model::TaskRef;

/// `abbey why`: prints the state of an agent with its reasons, its last exit and its next retry, or the state of a
/// service.
pub(crate) async fn cmd_why(home: &Home, json: bool, name: &str) -> Outcome {
    if name.parse::<TaskRef>().is_ok() {
        return Err(Failure::usage(format!(
            "`{name}` is a task, and this explains agents and services"
        ))
        .hint(format!("`abbey task why {name}` explains it")));
    }
    let client = operator_client(home)?;
    if let Some(service) = name.strip_prefix("service/") {
        let found = find_service(&client, name, exit::NOT_FOUND).await?;
        let missing = || {
            Failure::plain(format!("there is no service `{service}`"))
                .with_code(exit::NOT_FOUND)
                .hint("`abbey service list` lists the services")
        };
        return explain_service(&client, json, &found.ok_or_else(missing)?).await;
    }
    let doc = match client.agents().why(name).await {
        Ok(doc) => doc,
        Err(error) => {
            let failure = Failure::from(error);
            return match find_service(&client, name, failure.code()).await? {
                Some(service) => explain_service(&client, json, &service).await,
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
pub(crate) async fn find_service(
    client: &Client,
    name: &str,
    code: u8,
) -> Result<Option<ServiceView>, Failure> {
    if code != exit::NOT_FOUND && !name.starts_with("service/") {
        return Ok(None);
    }
    let name = name.strip_prefix("service/").unwrap_or(name);
    let doc = client.services().list(&ServicesQuery::default()).await?;
    Ok(doc.services.into_iter().find(|s| s.name == name))
}

/// Prints the state of a service, and what the control plane says of why it is not as desired.
async fn explain_service(client: &Client, json: bool, service: &ServiceView) -> Outcome {
    if json {
        output::print_json(service);
        return Ok(exit::OK);
    }
    let query = ReadinessQuery {
        services: Some(service.name.clone()),
        ..ReadinessQuery::default()
    };
    let readiness = client.house().readiness(&query).await?;
    let name = &service.name;
    output::print_text(&Text::from(format!("{name} is ")).join(service.presence.into()));
    if service.healthy == Some(true) {
        output::print_line("  probe: it answers");
    }
    let reasons = readiness.cells.iter().filter_map(|c| c.reason.as_ref());
    let reasons: Vec<&String> = reasons.collect();
    let trouble = service.trouble.iter().filter(|_| reasons.is_empty());
    for reason in trouble.chain(reasons.iter().copied()) {
        output::print_hanging("  why: ", output::with_local_times(reason));
    }
    let restarts = service.restarts;
    let line = format!("restarts: {restarts}; `abbey service logs {name}` shows its output");
    output::print_hanging("  ", line);
    Ok(exit::OK)
}
