//! The statement texts that the lake already has, so that each is stored once, or nearly.

use std::collections::HashSet;

use bodycam_lake::Lake;
use bodycam_record::Fingerprint;

use crate::error::RecorderError;

/// Fingerprints whose text is stored.
#[derive(Debug, Default)]
pub struct Templates {
    known: HashSet<Fingerprint>,
}

impl Templates {
    /// The fingerprints in the lake.
    pub async fn load(lake: &Lake) -> Result<Self, RecorderError> {
        Ok(Self { known: lake.view().templates().await?.into_keys().collect() })
    }

    /// Whether the text of `fingerprint` is to be stored: it is known from now on.
    pub fn is_new(&mut self, fingerprint: Fingerprint) -> bool {
        self.known.insert(fingerprint)
    }
}
