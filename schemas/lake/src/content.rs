//! Opening content: chunks, with the tenant key, through the session's wrapped key; and the names
//! behind pseudonyms.

use std::collections::HashMap;
use std::sync::Arc;

use bodycam_record::{Chunk, PrincipalRef, SealedChunk, SessionId, SessionKey, TenantKey};
use futures::TryStreamExt;

use crate::columns::{Table, content};
use crate::error::LakeError;
use crate::lake::View;
use crate::layout;
use crate::reader::Filter;

/// Opens content of a lake.
pub struct ContentReader {
    view: View,
    tenant: TenantKey,
    keys: HashMap<SessionId, Option<Arc<SessionKey>>>,
    names: HashMap<PrincipalRef, Option<String>>,
}

/// One content, as far as it can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// Its chunks, in order of their index.
    Chunks(Vec<Chunk>),
    /// The session's key is not in the lake: erased, or not yet committed.
    NoKey,
    /// A chunk was altered or belongs elsewhere.
    Altered,
}

impl View {
    /// The sealed chunks of a session with content number in `[from, to)`, in order of number and index.
    pub async fn sealed_chunks(
        &self,
        session: SessionId,
        from: i64,
        to: i64,
    ) -> Result<Vec<SealedChunk>, LakeError> {
        let filter = Filter { seq: Some((from, to)), ..Filter::session(session) };
        let mut chunks = Vec::new();
        let mut batches = self.read(Table::Content, &filter);
        while let Some((file, batch)) = batches.try_next().await? {
            for row in content::decode(&batch)? {
                chunks.push(row.map_err(|fault| LakeError::damaged(&file.path, fault))?);
            }
        }
        chunks.sort_by_key(|c| (c.content_no, c.index));
        chunks.dedup();
        Ok(chunks)
    }

    /// The wrapped key of a session.
    pub async fn wrapped_key(&self, session: SessionId) -> Result<Option<Vec<u8>>, LakeError> {
        Ok(self.store.get(&layout::session_key(session)).await?.map(|b| b.to_vec()))
    }

    /// The wrapped name behind a pseudonym.
    pub async fn wrapped_name(&self, principal: PrincipalRef) -> Result<Option<Vec<u8>>, LakeError> {
        Ok(self.store.get(&layout::directory_entry(principal)).await?.map(|b| b.to_vec()))
    }
}

impl ContentReader {
    /// A reader of `view`'s content with this tenant's key.
    pub fn new(view: View, tenant: TenantKey) -> Self {
        Self { view, tenant, keys: HashMap::new(), names: HashMap::new() }
    }

    /// Goes on with a newer view of the same lake. Keys and names that were missing are looked for again.
    pub fn set_view(&mut self, view: View) {
        self.view = view;
        self.keys.retain(|_, key| key.is_some());
        self.names.retain(|_, name| name.is_some());
    }

    /// The tenant key.
    pub fn tenant(&self) -> &TenantKey {
        &self.tenant
    }

    /// The content with number `no` of a session: that of the event whose `content_no` it is.
    pub async fn open(&mut self, session: SessionId, no: i64) -> Result<Opened, LakeError> {
        let mut opened = self.open_range(session, no, no.saturating_add(1)).await?;
        Ok(opened.remove(&no).unwrap_or(Opened::Chunks(Vec::new())))
    }

    /// The content with numbers in `[from, to)`, by number.
    pub async fn open_range(
        &mut self,
        session: SessionId,
        from: i64,
        to: i64,
    ) -> Result<HashMap<i64, Opened>, LakeError> {
        let sealed = self.view.sealed_chunks(session, from, to).await?;
        let key = self.key(session).await?;
        let mut opened: HashMap<i64, Opened> = HashMap::new();
        for chunk in sealed {
            let no = chunk.content_no;
            let Some(key) = &key else {
                opened.insert(no, Opened::NoKey);
                continue;
            };
            let entry = opened.entry(no).or_insert_with(|| Opened::Chunks(Vec::new()));
            match (chunk.open(key), &mut *entry) {
                (Ok(chunk), Opened::Chunks(chunks)) => chunks.push(chunk),
                (Ok(_), _) => {}
                (Err(_), _) => *entry = Opened::Altered,
            }
        }
        Ok(opened)
    }

    /// The key of a session; none when the lake does not hold it.
    pub async fn key(&mut self, session: SessionId) -> Result<Option<Arc<SessionKey>>, LakeError> {
        if let Some(key) = self.keys.get(&session) {
            return Ok(key.clone());
        }
        let key = match self.view.wrapped_key(session).await? {
            None => None,
            Some(wrapped) => {
                let key = self.tenant.unwrap(session, &wrapped);
                let path = layout::session_key(session);
                Some(Arc::new(key.map_err(|source| LakeError::Unopenable { path, source })?))
            }
        };
        self.keys.insert(session, key.clone());
        Ok(key)
    }

    /// The name behind a pseudonym; none when the lake does not hold it.
    pub async fn name(&mut self, principal: PrincipalRef) -> Result<Option<String>, LakeError> {
        if let Some(name) = self.names.get(&principal) {
            return Ok(name.clone());
        }
        let name = match self.view.wrapped_name(principal).await? {
            None => None,
            Some(wrapped) => {
                let name = self.tenant.unwrap_name(principal, &wrapped);
                let path = layout::directory_entry(principal);
                Some(name.map_err(|source| LakeError::Unopenable { path, source })?)
            }
        };
        self.names.insert(principal, name.clone());
        Ok(name)
    }
}
