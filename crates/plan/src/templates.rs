//! Stock templates: a role, its skills and a charter of its own (S5-01, S3-06, S3-39).

use abbey_model::{Tool, ToolPolicy};

/// One stock template.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    /// Name in the manifest.
    pub name: &'static str,
    /// Role of agents made from it.
    pub role: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// Skills assigned to agents made from it.
    pub skills: &'static [&'static str],
    /// Whether its model may run programs.
    pub shell: bool,
    /// Charter, in Markdown.
    pub charter: &'static str,
}

impl Template {
    /// Tool policy of agents that use this template.
    pub fn tool_policy(&self) -> ToolPolicy {
        let mut policy = ToolPolicy::default();
        if self.shell {
            policy.tools.insert(Tool::Shell);
        }
        policy
    }
}

/// Stock template with this name.
pub fn find(name: &str) -> Option<&'static Template> {
    ALL.iter().find(|t| t.name == name)
}

/// Every template.
pub const ALL: &[Template] = &[
    Template {
        name: "orchestrator",
        role: "orchestrator",
        summary: "Breaks work down, hands it on, answers for the whole",
        skills: &["report", "cell-status", "service-status", "log-search"],
        shell: false,
        charter: include_str!("../templates/orchestrator.md"),
    },
    Template {
        name: "sysadmin",
        role: "system administrator",
        summary: "Watches the host: disks, memory, services, cells",
        skills: &[
            "disk-usage",
            "system-stats",
            "report",
            "cell-status",
            "service-status",
            "log-search",
            "service-restart",
            "cell-restart",
            "network-check",
            "firewall-status",
            "zfs-status",
            "zfs-snapshot",
        ],
        shell: false,
        charter: include_str!("../templates/sysadmin.md"),
    },
    Template {
        name: "db-admin",
        role: "database administrator",
        summary: "Keeps databases sound, small and restorable",
        skills: &[
            "backup-state",
            "backup-db",
            "db-vacuum",
            "db-migrate",
            "db-restore",
            "disk-usage",
            "log-search",
        ],
        shell: false,
        charter: include_str!("../templates/db-admin.md"),
    },
    Template {
        name: "git-admin",
        role: "repository administrator",
        summary: "Merges, tags and keeps repositories tidy",
        skills: &["git-merge", "git-release-tag", "git-mirror", "log-search"],
        shell: false,
        charter: include_str!("../templates/git-admin.md"),
    },
    Template {
        name: "worker",
        role: "worker",
        summary: "A general worker for well-described tasks",
        skills: &[],
        shell: false,
        charter: include_str!("../templates/worker.md"),
    },
    Template {
        name: "coder",
        role: "programmer",
        summary: "Writes and changes code in its workspace",
        skills: &["git-merge"],
        shell: true,
        charter: include_str!("../templates/coder.md"),
    },
    Template {
        name: "researcher",
        role: "researcher",
        summary: "Gathers and weighs sources",
        skills: &[],
        shell: false,
        charter: include_str!("../templates/researcher.md"),
    },
    Template {
        name: "quick",
        role: "quick helper",
        summary: "Short answers with few turns",
        skills: &[],
        shell: false,
        charter: include_str!("../templates/quick.md"),
    },
    Template {
        name: "creative",
        role: "writer",
        summary: "Drafts texts, names and ideas",
        skills: &[],
        shell: false,
        charter: include_str!("../templates/creative.md"),
    },
    Template {
        name: "manager",
        role: "manager",
        summary: "Plans, assigns and reports on a team",
        skills: &["cell-status", "log-search"],
        shell: false,
        charter: include_str!("../templates/manager.md"),
    },
    Template {
        name: "tech-lead",
        role: "technical lead",
        summary: "Decides technical questions and reviews designs",
        skills: &["git-merge", "log-search"],
        shell: false,
        charter: include_str!("../templates/tech-lead.md"),
    },
    Template {
        name: "secretary",
        role: "secretary",
        summary: "Notes, minutes, reminders, follow-ups",
        skills: &["log-search"],
        shell: false,
        charter: include_str!("../templates/secretary.md"),
    },
    Template {
        name: "auditor",
        role: "auditor",
        summary: "Checks results against what was asked",
        skills: &["log-search", "cell-status"],
        shell: false,
        charter: include_str!("../templates/auditor.md"),
    },
    Template {
        name: "optimizer",
        role: "optimiser",
        summary: "Improves speed, cost or size with measurements",
        skills: &["system-stats"],
        shell: false,
        charter: include_str!("../templates/optimizer.md"),
    },
    Template {
        name: "study-builder",
        role: "study builder",
        summary: "Sets up numerical studies and their variants",
        skills: &["disk-usage"],
        shell: false,
        charter: include_str!("../templates/study-builder.md"),
    },
    Template {
        name: "webster",
        role: "web researcher",
        summary: "Searches and summarises public knowledge",
        skills: &[],
        shell: false,
        charter: include_str!("../templates/webster.md"),
    },
    Template {
        name: "nx-expert",
        role: "CAD specialist",
        summary: "Answers and scripts for parametric CAD",
        skills: &[],
        shell: false,
        charter: include_str!("../templates/nx-expert.md"),
    },
    Template {
        name: "post-processor",
        role: "result analyst",
        summary: "Turns raw results into figures and tables",
        skills: &["disk-usage"],
        shell: false,
        charter: include_str!("../templates/post-processor.md"),
    },
    Template {
        name: "reporter",
        role: "report writer",
        summary: "Writes structured reports from records",
        skills: &["log-search"],
        shell: false,
        charter: include_str!("../templates/reporter.md"),
    },
    Template {
        name: "developer",
        role: "software developer",
        summary: "Builds features end to end",
        skills: &["git-merge", "git-release-tag"],
        shell: true,
        charter: include_str!("../templates/developer.md"),
    },
    Template {
        name: "knowledge-base",
        role: "librarian",
        summary: "Keeps what was learnt findable",
        skills: &["log-search"],
        shell: false,
        charter: include_str!("../templates/knowledge-base.md"),
    },
    Template {
        name: "it",
        role: "IT support",
        summary: "Accounts, machines, access, first aid",
        skills: &["system-stats", "disk-usage", "service-status", "log-search"],
        shell: false,
        charter: include_str!("../templates/it.md"),
    },
    Template {
        name: "scribe",
        role: "scribe and archivist",
        summary: "Writes the house's history and guards its archive",
        skills: &["backup-state", "log-search"],
        shell: false,
        charter: include_str!("../templates/scribe.md"),
    },
    Template {
        name: "dispatcher",
        role: "dispatcher",
        summary: "Moves queued work to those who can do it",
        skills: &["cell-status", "service-status"],
        shell: false,
        charter: include_str!("../templates/dispatcher.md"),
    },
    Template {
        name: "student",
        role: "student",
        summary: "Learns by small tasks, asks early",
        skills: &[],
        shell: false,
        charter: include_str!("../templates/student.md"),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_has_a_charter_of_its_own() {
        let mut charters: Vec<&str> = ALL.iter().map(|t| t.charter).collect();
        charters.sort_unstable();
        charters.dedup();
        assert_eq!(charters.len(), ALL.len());
        assert!(
            ALL.iter()
                .all(|t| t.name.parse::<abbey_model::Slug>().is_ok())
        );
    }
}
