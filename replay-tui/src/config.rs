//! `[replay]` in `bodycam.toml`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::commands::Keymap;
use crate::error::ReplayError;

/// `[replay]`: how recordings are shown. Nothing here changes what is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// Sessions in the list, newest activity first; the list says when there are more.
    pub max_sessions: usize,
    /// Saved filters: `@name` in a filter stands for the filter of that name.
    pub filters: BTreeMap<String, String>,
    /// Keys of commands by command id, in place of the built-in ones; `bodycam keys` lists both.
    pub keys: BTreeMap<String, Vec<String>>,
    /// Whether the mouse is used; without it the terminal can select text.
    pub mouse: bool,
}

impl ReplayConfig {
    /// The keys that it makes. Unknown commands, keys that are none and filters that cannot be read are refused.
    pub fn keymap(&self) -> Result<Keymap, ReplayError> {
        for (name, filter) in &self.filters {
            let name = bodycam_record::shown::shown_limit(name, 80);
            bodycam_record::Filter::parse(filter)
                .map_err(|err| ReplayError::Config(format!("filters.{name}: {err}")))?;
        }
        Keymap::new(&self.keys)
    }
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self { max_sessions: 100_000, filters: BTreeMap::new(), keys: BTreeMap::new(), mouse: false }
    }
}
