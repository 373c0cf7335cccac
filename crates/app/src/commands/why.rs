//! `abbey why`: explains the state of an agent.

use crate::connect::operator_client;
use crate::exit::{self, Outcome};
use crate::output::{self, text_or_dash};
use abbey_daemon::Home;

/// `abbey why`: prints the state of an agent with its reasons, its last exit and its next retry.
pub(crate) async fn cmd_why(home: &Home, json: bool, agent: &str) -> Outcome {
    let doc = operator_client(home)?.agents().why(agent).await?;
    if json {
        output::print_json(&doc);
        return Ok(exit::OK);
    }
    output::print_line(&format!("{} is {}", doc.agent, doc.presence));
    for reason in &doc.reasons {
        output::print_line(&format!("  {}: {}", reason.code, reason.text));
    }
    output::print_line(&format!(
        "  last exit: {}{}",
        text_or_dash(doc.last_exit),
        doc.last_exit_at
            .map_or_else(String::new, |t| format!(" at {t}"))
    ));
    output::print_line(&format!("  next retry: {}", text_or_dash(doc.next_retry)));
    Ok(exit::OK)
}
