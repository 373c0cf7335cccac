//! Program `network-check`: connects to everything that the cell should reach.

use super::outcome::Outcome;
use crate::agent_api::client_from_environment;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for each connection.
const WITHIN: Duration = Duration::from_secs(2);

/// Connects to the agent API, the services and the egress proxy that the environment names, and
/// reports which answer; fails if one does not.
pub(super) async fn check_network() -> Outcome {
    let client = client_from_environment().map_err(|e| e.to_string())?;
    let mut tried: Vec<(String, Result<(), String>)> = Vec::new();
    let door = client.me().show().await;
    tried.push((
        "the house".to_owned(),
        door.map(drop).map_err(|e| e.to_string()),
    ));
    let mut told: Vec<(String, String)> = std::env::vars()
        .filter_map(|(name, at)| Some((name.strip_prefix("ABBEY_SERVICE_")?.to_lowercase(), at)))
        .map(|(name, at)| (format!("service {}", name.replace('_', "-")), at))
        .collect();
    if let Some(proxy) = std::env::var("HTTPS_PROXY")
        .ok()
        .and_then(|p| p.strip_prefix("http://").map(str::to_owned))
    {
        told.push(("the egress proxy".to_owned(), proxy));
    }
    told.sort();
    for (name, at) in told {
        let answer = at
            .parse::<SocketAddr>()
            .map_err(|e| e.to_string())
            .and_then(|at| TcpStream::connect_timeout(&at, WITHIN).map_err(|e| e.to_string()));
        tried.push((format!("{name} at {at}"), answer.map(drop)));
    }
    let line = |(name, answer): &(String, Result<(), String>)| match answer {
        Ok(()) => format!("{name}: answers"),
        Err(why) => format!("{name}: does not answer ({why})"),
    };
    let text = tried.iter().map(line).collect::<Vec<_>>().join("\n");
    let data: Vec<Value> = tried
        .iter()
        .map(|(name, answer)| json!({ "what": name, "answers": answer.is_ok() }))
        .collect();
    match tried.iter().all(|(_, answer)| answer.is_ok()) {
        true => Ok((text, json!({ "tried": data }))),
        false => Err(text),
    }
}
