//! An imported agent, and its entry in a manifest.

use crate::names::{UniqueNames, one_line, valid_part};
use crate::report::{ReportEntry, ReportKind};
use abbey_model::Slug;

/// Time of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduleTime {
    /// Cron expression, and its time zone.
    Cron(String, Option<String>),
    /// Interval in seconds.
    Every(u64),
    /// Once, at this instant.
    At(String),
}

/// Schedule of an imported agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedSchedule {
    /// Name.
    pub name: String,
    /// Time.
    pub when: ScheduleTime,
    /// Text of the task.
    pub task: String,
    /// Policy for missed instants; the default when absent.
    pub catch_up: Option<&'static str>,
    /// Most time for one start, in seconds; none if it is unlimited.
    pub timeout: Option<u64>,
}

/// Imported agent.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedAgent {
    /// Name in this house.
    pub slug: Slug,
    /// Name in the imported installation.
    pub was: String,
    /// Place in the installation: a file or directory, or a key as `FILE: KEY`.
    pub place: String,
    /// Display name.
    pub name: Option<String>,
    /// Role.
    pub role: Option<String>,
    /// Agent that it reports to.
    pub reports_to: Option<Slug>,
    /// Its model, as `PROVIDER/MODEL`.
    pub model: Option<String>,
    /// Kind of isolation.
    pub cell: Option<&'static str>,
    /// Assigned skills.
    pub skills: Vec<String>,
    /// Daily budget, in thousandths of a dollar.
    pub milli_usd_per_day: Option<u64>,
    /// Size of its workspace, in MiB.
    pub workspace_mib: Option<u64>,
    /// Locales: display, assistant, system.
    pub locale: [Option<String>; 3],
    /// Interval of its wake-ups, in seconds.
    pub wake: Option<u64>,
    /// Schedule of an imported agent.
    pub schedules: Vec<ImportedSchedule>,
    /// Charter; a stock one when absent.
    pub charter: Option<String>,
    /// Files of its workspace: path and text.
    pub files: Vec<(String, String)>,
    /// Lines of a manifest entry as another house wrote it, in place of the fields above. Its charter and everything
    /// that gives authority are not to be trusted.
    pub entry: Option<Vec<String>>,
    /// Keys of that entry that the operator leaves out.
    pub skipped_keys: Vec<String>,
    schedule_names: UniqueNames,
}

impl ImportedAgent {
    /// Agent with this slug, and the name that it had in the imported installation; nothing else is known yet.
    pub(crate) fn new(slug: Slug, was: &str, place: impl Into<String>) -> ImportedAgent {
        ImportedAgent {
            slug,
            was: was.to_owned(),
            place: place.into(),
            name: None,
            role: None,
            reports_to: None,
            model: None,
            cell: None,
            skills: Vec::new(),
            milli_usd_per_day: None,
            workspace_mib: None,
            locale: [None, None, None],
            wake: None,
            schedules: Vec::new(),
            charter: None,
            files: Vec::new(),
            entry: None,
            skipped_keys: Vec::new(),
            schedule_names: UniqueNames::default(),
        }
    }

    /// Path of its own charter relative to the manifest; none if it uses the house's.
    pub fn charter_path(&self) -> Option<String> {
        self.charter.as_ref()?;
        Some(format!("charters/{}.md", self.slug))
    }

    /// Adds a schedule, and reports at `place` if its name had to be changed; a name that is taken gets a number.
    pub(crate) fn add_schedule(
        &mut self,
        import_report: &mut Vec<ReportEntry>,
        place: &str,
        (name, when, task): (&str, ScheduleTime, String),
    ) -> &mut ImportedSchedule {
        let own = self.schedule_names.take(&valid_part(name, "job"));
        if own != name {
            import_report.push(ReportEntry {
                kind: ReportKind::Changed,
                place: place.to_owned(),
                text: format!("schedule `{}` is named `{own}`", one_line(name)),
            });
        }
        let at = self.schedules.len();
        self.schedules.push(ImportedSchedule {
            name: own,
            when,
            task,
            catch_up: None,
            timeout: None,
        });
        &mut self.schedules[at]
    }

    /// Lines of the agent's entry in a manifest. Every imported text is quoted as JSON, which is valid YAML.
    pub fn manifest_lines(&self) -> Vec<String> {
        if let Some(lines) = &self.entry {
            return lines.clone();
        }
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let mut lines = vec![format!("{}:", self.slug)];
        let mut key = |key: &str, value: String| lines.push(format!("  {key}: {value}"));
        if let Some(name) = &self.name {
            key("name", quoted(name));
        }
        if let Some(role) = &self.role {
            key("role", quoted(role));
        }
        if let Some(path) = self.charter_path() {
            key("charter", path);
        }
        if let Some(above) = &self.reports_to {
            key("reports_to", above.to_string());
        }
        if let Some(cell) = self.cell {
            key("cell", cell.to_owned());
        }
        if let Some(model) = &self.model {
            key("model", quoted(model));
        }
        if !self.skills.is_empty() {
            let skills: Vec<String> = self.skills.iter().map(|s| quoted(s)).collect();
            key("skills", format!("[{}]", skills.join(", ")));
        }
        if let Some(milli) = self.milli_usd_per_day {
            let usd = format!("{}.{:03}", milli / 1000, milli % 1000);
            key("budget", format!("{{ usd_per_day: {usd} }}"));
        }
        if let Some(mib) = self.workspace_mib {
            key("drives", format!("{{ workspace: {mib}MiB }}"));
        }
        let names = ["display", "assistant", "system"];
        let locale = names.iter().zip(&self.locale);
        let locale: Vec<String> = locale
            .filter_map(|(name, value)| Some(format!("{name}: {}", quoted(value.as_ref()?))))
            .collect();
        if !locale.is_empty() {
            key("locale", format!("{{ {} }}", locale.join(", ")));
        }
        if let Some(seconds) = self.wake {
            key("wake", format!("{{ every: {seconds}s }}"));
        }
        if !self.schedules.is_empty() {
            lines.push("  schedules:".to_owned());
        }
        for planned in &self.schedules {
            let when = match &planned.when {
                ScheduleTime::Cron(cron, None) => format!("cron: {}", quoted(cron)),
                ScheduleTime::Cron(cron, Some(zone)) => {
                    format!("cron: {}, timezone: {}", quoted(cron), quoted(zone))
                }
                ScheduleTime::Every(seconds) => format!("every: {seconds}s"),
                ScheduleTime::At(instant) => format!("at: {}", quoted(instant)),
            };
            let task = quoted(&planned.task);
            let catch_up = planned
                .catch_up
                .map_or_else(String::new, |c| format!(", catch_up: {c}"));
            let timeout = planned
                .timeout
                .map_or_else(String::new, |t| format!(", timeout: {t}s"));
            lines.push(format!(
                "    {}: {{ {when}, task: {task}{catch_up}{timeout} }}",
                planned.name
            ));
        }
        if lines.len() == 1 {
            return vec![format!("{}: {{}}", self.slug)];
        }
        lines
    }
}
