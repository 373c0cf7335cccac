//! `abbey why`: explains the state of an agent.

use crate::connect::client;
use crate::exit::{self, Outcome};
use crate::output::{self, dash};
use abbey_daemon::Home;

pub(crate) async fn cmd_why(home: &Home, json: bool, agent: &str) -> Outcome {
    let doc = client(home)?.agents().why(agent).await?;
    if json {
        output::json(&doc);
        return Ok(exit::OK);
    }
    output::line(&format!("{} is {}", doc.agent, doc.presence));
    for reason in &doc.reasons {
        output::line(&format!("  {}: {}", reason.code, reason.text));
    }
    output::line(&format!(
        "  last exit: {}{}",
        dash(doc.last_exit),
        doc.last_exit_at
            .map_or_else(String::new, |t| format!(" at {t}"))
    ));
    output::line(&format!("  next retry: {}", dash(doc.next_retry)));
    Ok(exit::OK)
}
