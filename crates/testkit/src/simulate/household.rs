//! The manifest of the simulated house, as its operator edits it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Time zones of simulated houses: with and without summer time, on both halves of the Earth, with steps of half an hour.
pub(super) const ZONES: [&str; 6] = [
    "Europe/Ljubljana",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/Santiago",
    "UTC",
];
/// Names of agents besides the first one, which stays.
pub(super) const NAMES: [&str; 6] = ["ada", "ben", "cleo", "dan", "eva", "finn"];

/// What the manifest says of an agent.
#[derive(Debug, Clone, Default)]
pub(super) struct AgentPart {
    /// Most runs in a day.
    pub(super) runs: Option<u64>,
    /// Whether it has a schedule.
    pub(super) scheduled: bool,
}

/// A manifest as data.
#[derive(Debug, Clone)]
pub(super) struct Household {
    /// Agents below `abbot` by name.
    pub(super) agents: BTreeMap<String, AgentPart>,
    pub(super) runs: Option<u64>,
    pub(super) tokens: Option<u64>,
    pub(super) zone: &'static str,
    /// Port of the provider.
    pub(super) port: u16,
    /// File with the secret of the hook.
    pub(super) secret: String,
}

impl Household {
    /// Text of the manifest.
    pub(super) fn manifest(&self) -> String {
        let mut text = format!(
            "version: 1
house: simulated
listen: {{ address: 127.0.0.1:0 }}
providers: {{ p: {{ kind: openai, base_url: 'http://127.0.0.1:{}/v1', output_tokens_max: 200 }} }}
defaults: {{ cell: process, model: p/m, waive: [limits] }}
hooks: {{ forge: {{ kind: gitea, secret: 'file:{}', agent: abbot }} }}
budget:
  timezone: {}
",
            self.port, self.secret, self.zone
        );
        for (key, limit) in [("runs_per_day", self.runs), ("tokens_per_day", self.tokens)] {
            if let Some(limit) = limit {
                let _ = writeln!(text, "  {key}: {limit}");
            }
        }
        text.push_str(
            "workflows:
  release:
    steps:
      build: { task: 'zqx zqy zqz', agent: abbot }
      review: { approval: 'Is it good?', needs: [build], within: 20h, silence: approve }
      settle: { pause: 2h, needs: [review] }
      tell: { task: 'zqw zqv zqu', agent: abbot, needs: [settle] }
agents:
  abbot: { template: orchestrator }
",
        );
        for (name, part) in &self.agents {
            let _ = writeln!(
                text,
                "  {name}:\n    template: worker\n    reports_to: abbot"
            );
            if let Some(runs) = part.runs {
                let _ = writeln!(text, "    budget: {{ runs_per_day: {runs} }}");
            }
            if part.scheduled {
                text.push_str(
                    "    schedules: { round: { cron: '30 2 * * *', task: 'zqr zqs zqt' } }\n",
                );
            }
        }
        text
    }

    /// Every agent by name.
    pub(super) fn names(&self) -> Vec<String> {
        let first = std::iter::once("abbot".to_owned());
        first.chain(self.agents.keys().cloned()).collect()
    }
}
