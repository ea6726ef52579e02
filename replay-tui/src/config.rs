//! `[replay]` in `bodycam.toml`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

impl Default for ReplayConfig {
    fn default() -> Self {
        Self { max_sessions: 100_000, filters: BTreeMap::new(), keys: BTreeMap::new(), mouse: false }
    }
}
