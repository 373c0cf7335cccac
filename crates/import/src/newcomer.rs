//! An agent that comes from somewhere else, and its entry in a manifest.

use abbey_model::Slug;

/// When work comes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// By minute, hour, day, month and weekday, in a zone.
    Cron(String, Option<String>),
    /// Every so many seconds.
    Every(u64),
    /// Once, at an instant.
    At(String),
}

/// Work that comes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// When.
    pub when: When,
    /// What is to be done.
    pub task: String,
    /// What of those that were missed fires, where that is not as usual.
    pub catch_up: Option<&'static str>,
}

/// An agent as it is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Newcomer {
    /// What it is called here.
    pub slug: Slug,
    /// What it was called there.
    pub was: String,
    /// Display name.
    pub name: Option<String>,
    /// What it is for.
    pub role: Option<String>,
    /// Whom it reports to.
    pub reports_to: Option<Slug>,
    /// Its model, as `PROVIDER/MODEL`.
    pub model: Option<String>,
    /// Kind of isolation.
    pub cell: Option<&'static str>,
    /// Skills of the house that it has.
    pub skills: Vec<String>,
    /// Money in a day, in thousandths of a dollar.
    pub milli_usd_per_day: Option<u64>,
    /// Size of its workspace, MiB.
    pub workspace_mib: Option<u64>,
    /// Languages: display, assistant, system.
    pub locale: [Option<String>; 3],
    /// Repeating wake, seconds.
    pub wake: Option<u64>,
    /// Work that comes by itself.
    pub schedules: Vec<Planned>,
    /// Its charter; a stock one when there is none.
    pub charter: Option<String>,
    /// Files of its workspace: path and text.
    pub files: Vec<(String, String)>,
    /// Lines of an entry that is taken as it is, in place of all of these.
    pub entry: Option<Vec<String>>,
}

impl Newcomer {
    /// One of whom nothing is known but its names.
    pub(crate) fn new(slug: Slug, was: &str) -> Newcomer {
        Newcomer {
            slug,
            was: was.to_owned(),
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
        }
    }

    /// Where its charter lies beside the manifest, if it has one of its own.
    pub fn charter_path(&self) -> Option<String> {
        self.charter.as_ref()?;
        Some(format!("charters/{}.md", self.slug))
    }

    /// Adds a schedule, under a name that none of its others has.
    pub(crate) fn plan(&mut self, name: &str, when: When, task: String) {
        let base: String = name
            .chars()
            .flat_map(char::to_lowercase)
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .take(24)
            .collect();
        let base = base.trim_matches('-');
        let base = match base.starts_with(|c: char| c.is_ascii_lowercase()) {
            true => base.to_owned(),
            false => format!("job-{base}").trim_end_matches('-').to_owned(),
        };
        let numbered = (2u32..).map(|n| format!("{base}-{n}"));
        let free = std::iter::once(base.clone())
            .chain(numbered)
            .find(|n| !self.schedules.iter().any(|s| s.name == *n));
        let name = free.unwrap_or(base);
        self.schedules.push(Planned {
            name,
            when,
            task,
            catch_up: None,
        });
    }

    /// Lines of its entry in a manifest. Every text of somebody's is quoted as JSON is, which YAML reads as well.
    pub fn lines(&self) -> Vec<String> {
        if let Some(lines) = &self.entry {
            return lines.clone();
        }
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let mut lines = vec![format!("{}:", self.slug)];
        let mut say = |key: &str, value: String| lines.push(format!("  {key}: {value}"));
        if let Some(name) = &self.name {
            say("name", quoted(name));
        }
        if let Some(role) = &self.role {
            say("role", quoted(role));
        }
        if let Some(path) = self.charter_path() {
            say("charter", path);
        }
        if let Some(above) = &self.reports_to {
            say("reports_to", above.to_string());
        }
        if let Some(cell) = self.cell {
            say("cell", cell.to_owned());
        }
        if let Some(model) = &self.model {
            say("model", quoted(model));
        }
        if !self.skills.is_empty() {
            let skills: Vec<String> = self.skills.iter().map(|s| quoted(s)).collect();
            say("skills", format!("[{}]", skills.join(", ")));
        }
        if let Some(milli) = self.milli_usd_per_day {
            let usd = format!("{}.{:03}", milli / 1000, milli % 1000);
            say("budget", format!("{{ usd_per_day: {usd} }}"));
        }
        if let Some(mib) = self.workspace_mib {
            say("drives", format!("{{ workspace: {mib}MiB }}"));
        }
        let names = ["display", "assistant", "system"];
        let locale = names.iter().zip(&self.locale);
        let locale: Vec<String> = locale
            .filter_map(|(name, value)| Some(format!("{name}: {}", quoted(value.as_ref()?))))
            .collect();
        if !locale.is_empty() {
            say("locale", format!("{{ {} }}", locale.join(", ")));
        }
        if let Some(seconds) = self.wake {
            say("wake", format!("{{ every: {seconds}s }}"));
        }
        if !self.schedules.is_empty() {
            lines.push("  schedules:".to_owned());
        }
        for planned in &self.schedules {
            let when = match &planned.when {
                When::Cron(cron, None) => format!("cron: {}", quoted(cron)),
                When::Cron(cron, Some(zone)) => {
                    format!("cron: {}, timezone: {}", quoted(cron), quoted(zone))
                }
                When::Every(seconds) => format!("every: {seconds}s"),
                When::At(instant) => format!("at: {}", quoted(instant)),
            };
            let task = quoted(&planned.task);
            let catch_up = planned
                .catch_up
                .map_or_else(String::new, |c| format!(", catch_up: {c}"));
            lines.push(format!(
                "    {}: {{ {when}, task: {task}{catch_up} }}",
                planned.name
            ));
        }
        if lines.len() == 1 {
            return vec![format!("{}: {{}}", self.slug)];
        }
        lines
    }
}
