//! The house as a whole: its state, its manifest, backups.

use crate::headers::IfMatch;
use crate::macros::{documents, operations, queries, requests};
use abbey_model::{Presence, Secret, words};
use std::collections::BTreeMap;

words! {
    /// What a step of a plan does to its resource.
    PlanAction {
        /// It is created.
        Create = "create",
        /// It changes in place.
        Update = "update",
        /// It changes, and its cell is restarted.
        Restart = "restart",
        /// It is removed.
        Remove = "remove",
        /// The kind of cell has no use for it.
        NotApplicable = "not_applicable",
    }
}

words! {
    /// How far an agent or a service is from what is desired of it.
    ReadinessState {
        /// It is as desired.
        Reached = "reached",
        /// It is on its way.
        Changing = "changing",
        /// It is not as desired, and waiting alone does not change that.
        Failed = "failed",
    }
}

words! {
    /// Weight of a note about a plan.
    PlanSeverity {
        /// Worth knowing.
        Info = "info",
        /// Probably not meant.
        Warning = "warning",
        /// The plan can't be carried out.
        Fatal = "fatal",
    }
}

words! {
    /// What a change of a key does to what runs.
    ChangeEffect {
        /// The cell is restarted.
        Restart = "restart",
        /// It takes effect at once, without a restart.
        Live = "live",
        /// Nothing.
        None = "none",
    }
}

/// Answers of earlier releases do not say it.
const fn whole() -> bool {
    true
}

documents! {
    /// State of the whole house.
    HouseDoc {
        /// Always 1.
        version: u32,
        /// Name of the house; absent before the first plan.
        house: Option<String>,
        /// Number of the plan in force.
        generation: u64,
        /// Version of the binary.
        software: String,
        /// Number of the format of its state file; a release whose newest format is lower cannot run this house.
        #[serde(default)]
        state_format: Option<i64>,
        /// Process of the control plane.
        pid: u32,
        /// Address of the operator API.
        address: String,
        /// Digest of the state without credentials, where it was asked for.
        state_hash: Option<String>,
        /// What the control plane is doing for a plan that is being applied, or to stop; each new text is progress.
        #[serde(default)]
        activity: Option<String>,
        /// Whether `abbey down` was requested: every cell stops, then the control plane.
        #[serde(default)]
        going_down: bool,
    }
    /// How far agents and services are from what is desired of them.
    ReadinessDoc {
        /// Always 1.
        version: u32,
        /// Whether waiting longer changes nothing: nothing is on its way any more.
        settled: bool,
        /// The agents and services.
        cells: Vec<ReadinessView>,
    }
    /// How far one agent or service is from what is desired of it.
    ReadinessView {
        /// `agent` or `service`.
        kind: String,
        /// Its slug.
        name: String,
        /// Whether it can be used now.
        presence: Presence,
        /// How far it is.
        state: ReadinessState,
        /// Why it is not as desired, or what is to be known although it is.
        #[serde(default)]
        reason: Option<String>,
    }
    /// A plan: what a manifest changes.
    PlanDoc {
        /// Always 1.
        version: u32,
        /// Number of the plan.
        generation: u64,
        /// Whether the plan was put in force.
        applied: bool,
        /// Steps, in the order in which they are done.
        steps: Vec<PlanStep>,
        /// Notes of the checker.
        notes: Vec<PlanNote>,
        /// Whether a step removes something, so that the plan is carried out only with consent.
        #[serde(default)]
        requires_consent: bool,
        /// What the host would be given, in the format that was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rendered: Option<String>,
    }
    /// A step of a plan.
    PlanStep {
        /// Number of the step, from 1.
        id: u32,
        /// What is done to the resource.
        action: PlanAction,
        /// Resource that changes.
        resource: String,
        /// Name of the agent or service; empty for the house.
        agent: String,
        /// Explanation.
        detail: String,
        /// What the step removes, where that is kept and for how long. Such a step is done only with consent to
        /// `RESOURCE:AGENT`.
        #[serde(default)]
        removes: Option<String>,
        /// Keys whose effective value changes.
        #[serde(default)]
        changes: Vec<PlanChange>,
    }
    /// One key of the manifest whose effective value changes.
    PlanChange {
        /// Path of the key below its agent, service or house.
        key: String,
        /// Value before, as the manifest writes it; a secret by reference. Null where there was none.
        old: Option<String>,
        /// Value after; null where there is none.
        new: Option<String>,
        /// What the change does to what runs.
        effect: ChangeEffect,
    }
    /// A note about a plan.
    PlanNote {
        /// Weight of the note.
        severity: PlanSeverity,
        /// Key or resource that the note is about.
        subject: String,
        /// The note.
        text: String,
    }
    /// The current manifest.
    ManifestDoc {
        /// Always 1.
        version: u32,
        /// Number of the plan in force.
        generation: u64,
        /// Its text.
        manifest: String,
        /// Directory of relative paths.
        base_dir: String,
    }
    /// A backup that was written.
    BackupDoc {
        /// Always 1.
        version: u32,
        /// Path of the backup.
        path: String,
        /// Digest of the state in the backup.
        state_hash: String,
        /// Size of the backup, bytes.
        bytes: u64,
        /// What is not in it, for people.
        left_out: Vec<String>,
        /// What else is to be known about the backup, for people: that the audit log of the house does not verify, or that
        /// files of an agent are missing.
        #[serde(default)]
        notes: Vec<String>,
        /// Whether all files of agents that it should hold are in it; the notes say which are not.
        #[serde(default = "whole")]
        complete: bool,
    }
    /// What a backup holds, after it was verified.
    BackupCheckDoc {
        /// Always 1.
        version: u32,
        /// Digest of the state in the backup.
        state_hash: String,
        /// Number of entries of the archive.
        entries: u64,
        /// Agents whose files it holds.
        agents: Vec<String>,
        /// Services whose data it holds.
        services: Vec<String>,
        /// Result of verifying its audit log, for people.
        audit_log: String,
        /// What is not in it, for people.
        left_out: Vec<String>,
        /// What else is to be known about the backup, for people: that the audit log of the house does not verify, or that
        /// files of an agent are missing.
        #[serde(default)]
        notes: Vec<String>,
        /// Whether all files of agents that it should hold are in it; the notes say which are not.
        #[serde(default = "whole")]
        complete: bool,
    }
    /// A house that was restored from a backup.
    RestoredHouseDoc {
        /// Always 1.
        version: u32,
        /// Digest of the restored state.
        state_hash: String,
        /// Path of the restored manifest; absent if the backup has none.
        manifest: Option<String>,
        /// What the backup lacks, for people.
        left_out: Vec<String>,
        /// What else is to be known about the restore, for people.
        notes: Vec<String>,
        /// What the restored manifest uses of this host, for people; the house does not start before somebody agrees.
        uses_of_host: Vec<String>,
    }
    /// The house is going down.
    DownDoc {
        /// Always 1.
        version: u32,
        /// Always true.
        going_down: bool,
    }
}

impl PlanStep {
    /// Name of what the step is about, as [`ManifestBody::consent`] names it: `agent:ada`.
    pub fn subject(&self) -> String {
        format!("{}:{}", self.resource, self.agent)
    }
}

impl PlanDoc {
    /// Steps that remove something, with what that is; they are done only with consent.
    pub fn removals(&self) -> impl Iterator<Item = (&PlanStep, &str)> {
        let steps = self.steps.iter();
        steps.filter_map(|step| Some((step, step.removes.as_deref()?)))
    }
}

/// A secret in a request; its text is in no output for debugging.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// A secret to be sent.
    pub fn new(text: impl Into<String>) -> SecretText {
        SecretText(text.into())
    }
}

impl From<SecretText> for Secret {
    fn from(text: SecretText) -> Secret {
        Secret::new(text.0)
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(redacted)")
    }
}

requests! {
    /// A manifest to be planned or applied.
    ManifestBody {
        /// Its text.
        manifest: String,
        /// Directory of relative paths.
        base_dir: String,
        /// Texts of charters that the manifest names by file.
        #[serde(default)]
        charters: BTreeMap<String, String>,
        /// Reason for the change, for the audit log.
        #[serde(default)]
        reason: Option<String>,
        /// Format in which a plan is to show what the host would be given: `nft`, `pf`, `jail` or `bhyve`.
        #[serde(default)]
        render: Option<String>,
        /// Steps that may remove something, each as `RESOURCE:AGENT`, for example `agent:ada`.
        #[serde(default)]
        consent: Vec<String>,
        /// Values of variables that the manifest names as `env:NAME`, from the environment of the caller. They are kept in
        /// the memory of the control plane until it ends, and go before those of its own environment.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        environment: BTreeMap<String, SecretText>,
        /// Agents that the manifest has under another name, as old and new name; they keep everything else.
        #[serde(default)]
        renamed: BTreeMap<String, String>,
        /// New agents whose first files come from elsewhere: `template:NAME` for those of a saved template,
        /// `archive:STAMP` for those that an agent of this name had when it was removed.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        first_files: BTreeMap<String, String>,
    }
    /// Request for a backup.
    BackupBody {
        /// Absolute path of a file that does not exist.
        path: String,
        /// Whether the data of services is taken along, of one instant: they are paused meanwhile.
        #[serde(default)]
        with_services: bool,
        /// Passphrase that wraps the signing key of the audit log; without one the key is left out.
        #[serde(default)]
        passphrase: Option<String>,
    }
}

queries! {
    /// Which agents and services to look at; all of them if none is named.
    ReadinessQuery {
        /// Slugs of agents, separated by commas.
        agents: Option<String>,
        /// Slugs of services, separated by commas.
        services: Option<String>,
        /// Waits this long, in milliseconds and at most 60,000, until all that is looked at has settled.
        wait_ms: Option<u64>,
    }
    /// What to include in the state of the house.
    HouseQuery {
        /// Whether to compute the digest of everything but credentials.
        state_hash: Option<bool>,
    }
}

operations! {
    /// The house as a whole: `client.house()`.
    HouseClient {
        /// State of the house.
        GET "/api/v1/house" show() [query HouseQuery] -> json(HouseDoc);
        /// How far agents and services are from what is desired of them; `wait_ms` waits until that is settled.
        GET "/api/v1/readiness" readiness() [query ReadinessQuery] -> json(ReadinessDoc);
        /// Stops every cell and then the control plane.
        POST "/api/v1/down" down() -> json(DownDoc);
        /// Plans a manifest and changes nothing.
        POST "/api/v1/plans" plan() [body ManifestBody] -> json(PlanDoc);
        /// Plans a manifest and makes it current.
        POST "/api/v1/generations" apply() [body ManifestBody] [header seen: Option<IfMatch>] -> json(PlanDoc);
        /// The current manifest.
        GET "/api/v1/generations/current" manifest() -> json(ManifestDoc);
        /// Writes a backup while the house runs.
        POST "/api/v1/backups" back_up() [body BackupBody] -> json(BackupDoc);
    }
}
