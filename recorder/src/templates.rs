//! The statement texts that the lake already has, so that each is stored once, or nearly: what is staged and not
//! committed is not known, and is stored by whoever reads it again.

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

    /// Whether the text of `fingerprint` is to be stored.
    pub fn is_new(&self, fingerprint: Fingerprint) -> bool {
        !self.known.contains(&fingerprint)
    }

    /// The texts of these are stored.
    pub fn committed(&mut self, fingerprints: impl IntoIterator<Item = Fingerprint>) {
        self.known.extend(fingerprints);
    }
}
