//! The statement texts that the lake already has, so that each is stored once, or nearly: what one producer has staged
//! and not committed may be dropped with it, and is stored for another one that shows it.

use std::collections::{HashMap, HashSet};

use bodycam_lake::Lake;
use bodycam_record::Fingerprint;

use crate::error::RecorderError;

/// Fingerprints whose text is stored, or staged.
#[derive(Debug, Default)]
pub struct Templates {
    known: HashSet<Fingerprint>,
    /// By the producer on whose streams they came.
    staged: HashMap<String, HashSet<Fingerprint>>,
}

impl Templates {
    /// The fingerprints in the lake.
    pub async fn load(lake: &Lake) -> Result<Self, RecorderError> {
        Ok(Self { known: lake.view().templates().await?.into_keys().collect(), staged: HashMap::new() })
    }

    /// Whether the text of `fingerprint` is to be staged for a stream of this producer: it is from now on.
    pub fn is_new(&mut self, fingerprint: Fingerprint, producer: &str) -> bool {
        if self.known.contains(&fingerprint) {
            return false;
        }
        match self.staged.get_mut(producer) {
            Some(staged) => staged.insert(fingerprint),
            None => self.staged.entry(producer.to_owned()).or_default().insert(fingerprint),
        }
    }

    /// The texts of these, which this producer had staged, are stored.
    pub fn committed(&mut self, fingerprints: impl IntoIterator<Item = Fingerprint>, producer: &str) {
        let mut staged = self.staged.get_mut(producer);
        for fingerprint in fingerprints {
            self.known.insert(fingerprint);
            if let Some(staged) = &mut staged {
                staged.remove(&fingerprint);
            }
        }
    }

    /// What this producer had staged was dropped.
    pub fn forget(&mut self, producer: &str) {
        self.staged.remove(producer);
    }
}
