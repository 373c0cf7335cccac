//! What a test asks of the scripted model that its house runs as its first service.

use crate::house::{House, until};
use serde_json::{Value, json};
use std::process::Command;

impl House {
    /// Waits until the first service answers its probe.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_for_model(&self) {
        until("the model server answers", || {
            self.json(0, "service list")["services"][0]["healthy"] == true
        });
    }

    /// Sets the turns that the model gives next, in their order.
    ///
    /// # Panics
    /// When the model server does not take them.
    pub fn script_model(&self, turns: &Value) {
        self.model_request("/script", Some(turns));
    }

    /// A request to the first service of the house, from outside of its cells.
    ///
    /// # Panics
    /// When it fails.
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

/// A turn in which the model calls one tool.
pub fn tool_call(name: &str, arguments: Value) -> Value {
    json!({ "tool_calls": [{ "name": name, "arguments": arguments }] })
}
