//! Languages and locales of the house and its agents.

use crate::key::Effect::{Live, Restart};
use crate::key::{Key, Shape, keys};
use abbey_words::SystemLocale;

keys! {
    /// The languages of an agent.
    #[derive(Default)]
    pub struct Locale {
        /// Language of its reports and notices, as `sl-SI`; English where the house does not speak it.
        pub display: Option<String> = Key::new("display", Shape::Language, Live),
        /// Language in which it answers people, as `sl-SI`.
        pub assistant: Option<String> = Key::new("assistant", Shape::Language, Live),
        /// Locale of its programs, as `sl_SI.UTF-8`; `C.UTF-8` where the host does not have it.
        pub system: Option<SystemLocale> = Key::new("system", Shape::SystemLocale, Restart),
    }
}
