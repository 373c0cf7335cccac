//! The typed clients of both APIs: the only way in which front ends and agents talk to the control plane.

pub use crate::transport::{Endpoint, Error, Streaming, Versioned};

use crate::activity::ActivityClient;
use crate::agents::AgentsClient;
use crate::approvals::ApprovalsClient;
use crate::budgets::BudgetsClient;
use crate::commands::CommandsClient;
use crate::doctor::DoctorClient;
use crate::documents::DocumentsClient;
use crate::house::HouseClient;
use crate::me::MeClient;
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
use crate::transport::{Call, Transport};
use crate::workflows::WorkflowsClient;
use abbey_model::Secret;
use hyper::{Method, Response};
use serde_json::Value;
use std::time::Duration;

/// Client of the operator API.
#[derive(Debug, Clone)]
pub struct Client(Transport);

/// Client of the agent API.
#[derive(Debug, Clone)]
pub struct AgentClient(Transport);

macro_rules! clients {
    ($($client:ident { $($(#[$doc:meta])* $group:ident: $type:ident,)* })*) => {$(
        impl $client {
            /// A client that authenticates with `token`. Requests time out after 60 s unless [`Self::timeout`] changes that.
            pub fn new(endpoint: Endpoint, token: Option<Secret>) -> Self {
                $client(Transport::new(endpoint, token))
            }

            /// Sets the time after which a request for a document fails with [`Error::Timeout`].
            #[must_use]
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.0.set_timeout(timeout);
                self
            }

            $($(#[$doc])* pub const fn $group(&self) -> $type<'_> { $type(&self.0) })*
        }
    )*};
}

clients! {
    Client {
        /// The house as a whole.
        house: HouseClient,
        /// Agents.
        agents: AgentsClient,
        /// Services.
        services: ServicesClient,
        /// Commands in cells of their own.
        commands: CommandsClient,
        /// Tasks.
        tasks: TasksClient,
        /// The org chart.
        org: OrgClient,
        /// Reports.
        reports: ReportsClient,
        /// Approvals.
        approvals: ApprovalsClient,
        /// Schedules.
        schedules: SchedulesClient,
        /// Workflows and events.
        workflows: WorkflowsClient,
        /// Shared documents.
        documents: DocumentsClient,
        /// The work queue as Markdown.
        queue: QueueClient,
        /// The audit log.
        activity: ActivityClient,
        /// Budgets.
        budgets: BudgetsClient,
        /// Model providers.
        providers: ProvidersClient,
        /// Skills.
        skills: SkillsClient,
        /// Checks.
        doctor: DoctorClient,
        /// Templates that operators saved.
        templates: TemplatesClient,
        /// Tokens of this API.
        tokens: TokensClient,
    }
    AgentClient {
        /// What the agent does as itself.
        me: MeClient,
    }
}

impl AgentClient {
    /// A chat completion in OpenAI's format, streamed, within a run. Refusals are the model gateway's, in that format,
    /// so the status is the caller's to read.
    ///
    /// # Errors
    /// When the house can't be reached.
    pub async fn chat(
        &self,
        run: &str,
        request: &Value,
    ) -> Result<Response<hyper::body::Incoming>, Error> {
        let mut call = Call::new(Method::POST, "/v1/chat/completions", &[]);
        call.body(request)?;
        call.raw_header("abbey-run", run);
        self.0.exchange(call).await
    }
}
