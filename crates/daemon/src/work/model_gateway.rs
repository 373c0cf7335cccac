//! Interfaces of the model gateway, implemented on the plan in force: which model an agent may use,
//! the address of its provider, and the provider's key.

use crate::core::plan::PlanInForce;
use crate::work::state::WorkState;
use abbey_gateway::{
    Authorization, BoxFuture, Caller, Credentials, Gateway, GatewayParts, Prices, Provider,
    Providers, Refusal, Router, Target,
};
use abbey_model::RefusedKey;
use abbey_plan::Endpoint;
use axum::http::StatusCode;
use std::sync::Arc;

/// Builds the gateway for model calls, with routing, providers and keys from the plan in force.
pub(crate) fn build_model_gateway(work: &Arc<WorkState>) -> Gateway {
    Gateway::new(gateway_parts(work))
}

/// What the gateway of a house is made of.
pub(crate) fn gateway_parts(work: &Arc<WorkState>) -> GatewayParts {
    let plan = Arc::new(PlannedModels(Arc::clone(work)));
    GatewayParts {
        meter: Arc::new(crate::work::model_meter::StoreMeter(Arc::clone(work))),
        router: Arc::clone(&plan) as Arc<dyn Router>,
        providers: Arc::clone(&plan) as Arc<dyn Providers>,
        credentials: plan,
        health: Arc::clone(&work.providers) as _,
        http: work.core.http.clone(),
    }
}

/// Models, providers and keys as the manifest declares them.
struct PlannedModels(Arc<WorkState>);

impl PlannedModels {
    fn plan(&self) -> Result<Arc<PlanInForce>, Refusal> {
        self.0.core.plan.current().ok_or_else(|| {
            forbidden(
                "no_plan",
                "no manifest has been applied yet; apply one with `abbey up`",
            )
        })
    }
}

fn forbidden(code: &'static str, text: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, code, text)
}

fn unknown_provider(name: &str) -> Refusal {
    forbidden("no_model", format!("there is no provider `{name}`"))
}

impl Router for PlannedModels {
    /// The one model that the agent is configured for, asked for by its full or its short name.
    fn candidates(&self, caller: &Caller, requested_model: &str) -> Result<Vec<Target>, Refusal> {
        let slug = &caller.agent;
        let plan = self.plan()?;
        let agent = plan.house.agents.get(slug).ok_or_else(|| {
            forbidden(
                "unknown_agent",
                format!("there is no agent `{slug}` in the plan"),
            )
        })?;
        let Some(model) = &agent.model else {
            let text = format!("no model is configured for agent `{slug}`");
            return Err(forbidden("no_model", text));
        };
        if requested_model != model.to_string() && requested_model != model.model {
            let text =
                format!("agent `{slug}` may use the model `{model}`, not `{requested_model}`");
            return Err(forbidden("model_not_allowed", text));
        }
        Ok(vec![Target {
            provider: model.provider.to_string(),
            model: model.model.clone(),
        }])
    }
}

impl Providers for PlannedModels {
    fn find(&self, target: &Target) -> Result<Provider, Refusal> {
        let name = target.provider.as_str();
        let plan = self.plan()?;
        let mut providers = plan.house.providers.iter();
        let (_, provider) = providers
            .find(|(slug, _)| slug.as_str() == name)
            .ok_or_else(|| unknown_provider(name))?;
        let base_url = match &provider.endpoint {
            Endpoint::Url(url) => url.clone(),
            Endpoint::Service(service) => {
                let address = abbey_plan::host_endpoint(&plan.house, &plan.registry, service);
                let address = address.ok_or_else(|| {
                    Refusal::provider_unavailable(format!("service `{service}` has no port"))
                })?;
                format!("http://{address}/v1")
            }
        };
        Ok(Provider {
            name: name.to_owned(),
            base_url,
            prices: provider
                .price
                .map(|(input, output)| Prices { input, output }),
            output_tokens_max: provider.output_tokens_max,
            refuses: self.0.providers.refused_keys(target),
        })
    }

    fn learn<'a>(&'a self, target: &'a Target, key: RefusedKey) -> BoxFuture<'a, ()> {
        Box::pin(self.0.providers.learn(target, key))
    }
}

impl Credentials for PlannedModels {
    fn authorization<'a>(
        &'a self,
        provider: &'a Provider,
    ) -> BoxFuture<'a, Result<Authorization, Refusal>> {
        let authorization = || {
            let plan = self.plan()?;
            let mut providers = plan.house.providers.iter();
            let (_, planned) = providers
                .find(|(slug, _)| slug.as_str() == provider.name)
                .ok_or_else(|| unknown_provider(&provider.name))?;
            let Some(key) = &planned.key else {
                return Ok(Authorization::None);
            };
            self.0
                .core
                .secrets
                .read_secret(key, &plan.base_dir)
                .map(Authorization::Bearer)
                .map_err(Refusal::provider_unavailable)
        };
        let authorization = authorization();
        Box::pin(async move { authorization })
    }
}
