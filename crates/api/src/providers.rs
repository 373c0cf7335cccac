//! Model providers.

use crate::agents::FailingProvider;
use crate::macros::{documents, operations, requests};

documents! {
    /// The model providers of the manifest.
    ProvidersDoc {
        /// Always 1.
        version: u32,
        /// The providers, by name.
        providers: Vec<ProviderView>,
    }
    /// A model provider and whether calls are sent to it.
    ProviderView {
        /// Name in the manifest.
        name: String,
        /// Base URL of its API, or `service NAME` for a service of the house.
        endpoint: String,
        /// Where its key is kept, as the manifest refers to it; absent where it needs none.
        key: Option<String>,
        /// Agents whose model is one of this provider.
        agents: Vec<String>,
        /// How its last calls failed; absent while they are answered.
        failing: Option<FailingProvider>,
    }
    /// What clearing the pause of a provider came to.
    CooldownCleared {
        /// Always 1.
        version: u32,
        /// Whether there was something to clear: its last calls had failed.
        cleared: bool,
        /// The provider as it is now.
        provider: ProviderView,
    }
}

requests! {
    /// Why the pause of a provider is cleared.
    ClearCooldown {
        /// Reason, for the audit log.
        #[serde(default)]
        note: Option<String>,
    }
}

operations! {
    /// Model providers: `client.providers()`.
    ProvidersClient {
        /// Every model provider of the manifest.
        GET "/api/v1/providers" list() -> json(ProvidersDoc);
        /// Forgets how its last calls failed: calls are sent again at once, and the tasks that wait for it go on.
        POST "/api/v1/providers/{provider}/clear-cooldown" clear_cooldown(provider) [body ClearCooldown] -> json(CooldownCleared);
    }
}
