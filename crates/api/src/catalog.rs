//! The operations that the client of each API calls, as the tests compare them with the OpenAPI documents.

use crate::activity::ActivityClient;
use crate::agents::AgentsClient;
use crate::approvals::ApprovalsClient;
use crate::budgets::BudgetsClient;
use crate::commands::CommandsClient;
use crate::doctor::DoctorClient;
use crate::documents::DocumentsClient;
use crate::house::HouseClient;
use crate::me::MeClient;
use crate::operation::Operation;
use crate::org::OrgClient;
use crate::providers::ProvidersClient;
use crate::queue::QueueClient;
use crate::reports::ReportsClient;
use crate::schedules::SchedulesClient;
use crate::services::ServicesClient;
use crate::skills::SkillsClient;
use crate::tasks::TasksClient;
use crate::templates::TemplatesClient;
use crate::tokens::TokensClient;
use crate::workflows::WorkflowsClient;

/// An API of the house.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// For operators and their tools.
    Operator,
    /// For agents, in their cells.
    Agent,
}

impl Api {
    /// Operations that the client of this API calls.
    pub fn operations(self) -> impl Iterator<Item = Operation> {
        let groups: &[&[Operation]] = match self {
            Api::Operator => &[
                HouseClient::OPERATIONS,
                AgentsClient::OPERATIONS,
                ServicesClient::OPERATIONS,
                CommandsClient::OPERATIONS,
                TasksClient::OPERATIONS,
                OrgClient::OPERATIONS,
                ReportsClient::OPERATIONS,
                ApprovalsClient::OPERATIONS,
                SchedulesClient::OPERATIONS,
                WorkflowsClient::OPERATIONS,
                DocumentsClient::OPERATIONS,
                QueueClient::OPERATIONS,
                ActivityClient::OPERATIONS,
                BudgetsClient::OPERATIONS,
                ProvidersClient::OPERATIONS,
                SkillsClient::OPERATIONS,
                DoctorClient::OPERATIONS,
                TemplatesClient::OPERATIONS,
                TokensClient::OPERATIONS,
            ],
            Api::Agent => &[MeClient::OPERATIONS],
        };
        groups.iter().flat_map(|g| g.iter().copied())
    }
}
