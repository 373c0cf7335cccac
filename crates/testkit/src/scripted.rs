//! Control of the scripted model server that a test house runs as its first service.

use crate::house::{House, until};
use serde_json::{Value, json};
use std::process::Command;

impl House {
    /// Waits until the house's first service answers its probe.
    ///
    /// # Panics
    /// If it does not answer in time.
    pub fn wait_for_model(&self) {
        until("the model server answers", || {
            self.json(0, "service list")["services"][0]["healthy"] == true
        });
    }

    /// Sets the turns that the model returns next, in this order.
    ///
    /// # Panics
    /// If the model server does not accept them.
    pub fn script_model(&self, turns: &Value) {
        self.model_request("/script", Some(turns));
    }

    /// Sends a request to the house's first service from outside of its cells, and returns the
    /// body.
    ///
    /// # Panics
    /// If it fails.
    pub fn model_request(&self, path: &str, body: Option<&Value>) -> String {
        let services = self.json(0, "service list");
        let port = services["services"][0]["port"].as_u64().expect("a port");
        let mut command = Command::new("curl");
        command.arg("-fsS");
        if let Some(body) = body {
            let kind = "content-type: application/json";
            command.args(["-H", kind, "-d", &body.to_string()]);
        }
        let url = format!("http://127.0.0.1:{port}{path}");
        let done = command.arg(&url).output().expect("curl runs");
        let error = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{url}: {error}");
        String::from_utf8(done.stdout).expect("text")
    }
}

/// A turn of a script in which the model calls one tool.
pub fn tool_call(name: &str, arguments: Value) -> Value {
    json!({ "tool_calls": [{ "name": name, "arguments": arguments }] })
}
