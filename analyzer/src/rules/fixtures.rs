//! Fixtures: a few events, and what a rule must find in them. `bodycam detect test` runs them for every rule,
//! users' rules included.
//!
//! Fields that an event does not name are zero, empty or absent. Names of principals, sessions and tasks stand
//! for their pseudonyms.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use bodycam_lake::Table;
use bodycam_lake::columns;
use bodycam_record::kinds::{Body, Field};
use bodycam_record::rule::{ParamValue, Severity, Span};
use bodycam_record::value::{Type, Value};
use bodycam_record::{Digest, Envelope, Event, Family, Id16, KindTable, SessionId, TenantKey, digest};
use serde::Deserialize;

use super::LoadedRule;
use super::evaluate::{Batch, Hit, Sensitive, SharedSteps, evaluate};
use crate::engine::{Engine, Scope, spawn};
use crate::error::AnalyzerError;

/// Memory for one fixture.
const MEMORY: usize = 256 << 20;
/// Windows at the end of a fixture that are evaluated one by one as well, beside those with findings.
const SINGLE_WINDOWS: i64 = 3;

/// Events, and what a rule must find in them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    /// A sentence that says what the case is.
    pub name: String,
    /// Relations that the targets' configuration lists as sensitive.
    #[serde(default)]
    pub sensitive: Vec<Sensitive>,
    /// Parameters that differ from the defaults.
    #[serde(default)]
    pub params: BTreeMap<String, ParamValue>,
    /// The events.
    pub events: Vec<FixtureEvent>,
    /// What the rule must find, in any order; nothing when empty.
    #[serde(default)]
    pub expect: Vec<Expected>,
}

/// An event, or several alike.
#[derive(Debug, Clone, Deserialize)]
pub struct FixtureEvent {
    /// When, RFC 3339.
    at: String,
    /// Its session; one of the principal's own when absent.
    #[serde(default)]
    session: Option<String>,
    /// Its principal.
    principal: String,
    /// Its target.
    #[serde(default)]
    target: String,
    /// Its kind.
    kind: String,
    /// The same again, later.
    #[serde(default)]
    repeat: Option<Repeat>,
    /// The fields of its body.
    #[serde(flatten)]
    fields: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Repeat {
    /// How many events in all.
    times: i64,
    /// From one to the next.
    every: Span,
}

/// A finding that must be there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// A time in its window, RFC 3339.
    pub window: String,
    /// Values of the rule's entity columns, by name.
    pub entity: BTreeMap<String, serde_json::Value>,
    /// What was measured.
    #[serde(default)]
    pub measure: Option<i64>,
    /// What it crossed.
    #[serde(default)]
    pub threshold: Option<i64>,
    /// How bad it is.
    #[serde(default)]
    pub severity: Option<Severity>,
    /// Number of evidence events.
    #[serde(default)]
    pub evidence: Option<usize>,
    /// The first of them, `<session>:<seq>`.
    #[serde(default)]
    pub leads: Option<String>,
    /// A part of what it says.
    #[serde(default)]
    pub says: Option<String>,
}

/// The events of a fixture, and its pseudonyms.
struct Scene {
    tenant: TenantKey,
    next_seq: HashMap<SessionId, i64>,
    events: BTreeMap<Family, Vec<Event>>,
    first_ns: i64,
    last_ns: i64,
}

/// A fixture whose events are encoded: it can be run on a rule, and on what is left of the rule, again and again.
#[derive(Clone)]
pub(crate) struct Prepared {
    batches: BTreeMap<Table, Vec<arrow::array::RecordBatch>>,
    expected: std::sync::Arc<Vec<Want>>,
    params: BTreeMap<String, ParamValue>,
    sensitive: Vec<Sensitive>,
    first_ns: i64,
    last_ns: i64,
}

/// Runs a rule on one of its fixtures; gives what is wrong.
pub async fn run(rule: &LoadedRule, fixture: &Fixture) -> Result<Result<(), String>, AnalyzerError> {
    let prepared = match Prepared::of(rule, fixture)? {
        Ok(prepared) => prepared,
        Err(reason) => return Ok(Err(reason)),
    };
    let engine = Engine::without_store()?;
    match prepared.together(&engine, rule).await? {
        Ok(together) => prepared.one_by_one(&engine, rule, together).await,
        Err(reason) => Ok(Err(reason)),
    }
}

impl Prepared {
    /// `fixture` for `rule`, or what is wrong with it.
    pub(crate) fn of(rule: &LoadedRule, fixture: &Fixture) -> Result<Result<Self, String>, AnalyzerError> {
        let scene = match Scene::of(&fixture.events) {
            Ok(scene) => scene,
            Err(reason) => return Ok(Err(reason)),
        };
        let expected = match scene.expected(rule, &fixture.expect) {
            Ok(expected) => std::sync::Arc::new(expected),
            Err(reason) => return Ok(Err(reason)),
        };
        Ok(Ok(Self {
            batches: scene.batches()?,
            expected,
            params: fixture.params.clone(),
            sensitive: fixture.sensitive.clone(),
            first_ns: scene.first_ns,
            last_ns: scene.last_ns,
        }))
    }

    /// What the rule finds in all windows together, if that is what it must find.
    pub(crate) async fn together(
        &self,
        engine: &Engine,
        rule: &LoadedRule,
    ) -> Result<Result<Vec<Hit>, String>, AnalyzerError> {
        let first = rule.rule.window_start(self.first_ns);
        let last = rule.rule.window_start(self.last_ns);
        let all = (first, last.saturating_add(rule.rule.window.nanos()));
        let found = self.found(engine, rule, vec![all]).await?;
        Ok(compare(&self.expected, &found).map(|()| found))
    }

    /// Whether its windows give the findings of `together` one by one as well.
    pub(crate) async fn one_by_one(
        &self,
        engine: &Engine,
        rule: &LoadedRule,
        together: Vec<Hit>,
    ) -> Result<Result<(), String>, AnalyzerError> {
        let window = rule.rule.window.nanos();
        let first = rule.rule.window_start(self.first_ns);
        let last = rule.rule.window_start(self.last_ns);
        let mut starts: BTreeSet<i64> = together.iter().map(|hit| hit.window_start_ns).collect();
        starts.extend((0..SINGLE_WINDOWS).map(|back| last - back * window).filter(|start| *start >= first));
        let alone = starts.into_iter().map(|start| (start, start.saturating_add(window))).collect();
        if self.found(engine, rule, alone).await? != together {
            let reason = "its windows give other findings one by one than together: \
                          compare times with window_start and $lookback, not with $from alone";
            return Ok(Err(reason.to_owned()));
        }
        Ok(Ok(()))
    }

    /// What the rule finds in some ranges of windows, one after the other.
    async fn found(
        &self,
        engine: &Engine,
        rule: &LoadedRule,
        ranges: Vec<(i64, i64)>,
    ) -> Result<Vec<Hit>, AnalyzerError> {
        let rule = if self.params.is_empty() { rule.clone() } else { rule.with(&self.params)? };
        let (engine, batches, sensitive) = (engine.clone(), self.batches.clone(), self.sensitive.clone());
        spawn(async move {
            let mut found = Vec::new();
            for (from_ns, to_ns) in ranges {
                let batch = Batch { from_ns, to_ns, sensitive: &sensitive };
                let scope = Scope::memory(batches.clone(), MEMORY);
                found.extend(evaluate(&engine, scope, &rule, &batch, &SharedSteps::default()).await?);
            }
            Ok(found)
        })?
        .await
    }
}

/// What must be found, as the rule would say it.
pub(crate) struct Want {
    key: (i64, Vec<Option<String>>),
    leads: Option<(SessionId, i64)>,
    expected: Expected,
}

fn compare(expected: &[Want], hits: &[Hit]) -> Result<(), String> {
    let key = |hit: &Hit| (hit.window_start_ns, hit.entity.clone());
    for want in expected {
        let Some(hit) = hits.iter().find(|hit| key(hit) == want.key) else {
            return Err(format!("it did not find {}", named(&want.key.1)));
        };
        let Expected { measure, threshold, severity, evidence, says, .. } = &want.expected;
        let wrong = |what: &str, is: String, must: String| {
            Err(format!("it found {} with {what} {is}, not {must}", named(&want.key.1)))
        };
        if measure.is_some() && *measure != hit.measure {
            return wrong("measure", format!("{:?}", hit.measure), format!("{measure:?}"));
        }
        if threshold.is_some() && *threshold != hit.threshold {
            return wrong("threshold", format!("{:?}", hit.threshold), format!("{threshold:?}"));
        }
        if let Some(severity) = severity.filter(|s| *s != hit.severity) {
            return wrong("severity", hit.severity.to_string(), severity.to_string());
        }
        if let Some(n) = evidence.filter(|n| *n != hit.evidence.len()) {
            return wrong("evidence events", hit.evidence.len().to_string(), n.to_string());
        }
        let first = hit.evidence.first();
        if want.leads.is_some() && first != want.leads.as_ref() {
            let shown = |event: Option<&(SessionId, i64)>| match event {
                Some((session, seq)) => format!("{session}:{seq}"),
                None => "none".to_owned(),
            };
            return wrong("first evidence", shown(first), shown(want.leads.as_ref()));
        }
        if let Some(says) = says.as_ref().filter(|says| !hit.text.contains(says.as_str())) {
            return wrong("text", bodycam_record::shown(&hit.text), bodycam_record::shown(says));
        }
    }
    match hits.iter().find(|hit| !expected.iter().any(|want| want.key == key(hit))) {
        Some(hit) => {
            Err(format!("it found {} as well: {}", named(&hit.entity), bodycam_record::shown(&hit.text)))
        }
        None => Ok(()),
    }
}

fn named(entity: &[Option<String>]) -> String {
    let values = entity.iter().map(|v| bodycam_record::shown(v.as_deref().unwrap_or("NULL")));
    format!("({})", values.collect::<Vec<_>>().join(", "))
}

fn time(text: &str) -> Result<i64, String> {
    string_to_timestamp_nanos(text).map_err(|_| format!("'{}' is not a time", bodycam_record::shown(text)))
}

impl Scene {
    fn of(events: &[FixtureEvent]) -> Result<Self, String> {
        let mut scene = Scene {
            tenant: TenantKey::new([0; 32]),
            next_seq: HashMap::new(),
            events: BTreeMap::new(),
            first_ns: i64::MAX,
            last_ns: i64::MIN,
        };
        for event in events {
            let at = time(&event.at)?;
            let Repeat { times, every } =
                event.repeat.clone().unwrap_or(Repeat { times: 1, every: Span::seconds(0) });
            for n in 0..times {
                scene.add(event, at.saturating_add(every.nanos().saturating_mul(n)))?;
            }
        }
        match scene.events.is_empty() {
            true => Err("it has no events".to_owned()),
            false => Ok(scene),
        }
    }

    fn add(&mut self, event: &FixtureEvent, ts_wall_ns: i64) -> Result<(), String> {
        let wrong = |what: &str| format!("event of kind {}: {what}", bodycam_record::shown(&event.kind));
        let table = KindTable::named(&event.kind).ok_or_else(|| wrong("there is no such kind"))?;
        if let Some(name) = event.fields.keys().find(|name| !table.fields.iter().any(|f| f.name == **name)) {
            return Err(wrong(&format!("it has no field {}", bodycam_record::shown(name))));
        }
        let values: Result<Vec<Value>, String> = table
            .fields
            .iter()
            .map(|field| self.value(field, event.fields.get(field.name)).map_err(|e| wrong(&e)))
            .collect();
        let body =
            Body::from_values(table.code, table.version, values?).map_err(|e| wrong(&e.to_string()))?;
        let body = body.canonical();
        let session = session_of(event.session.as_deref().unwrap_or(&event.principal));
        let seq = self.next_seq.entry(session).or_default();
        let envelope = Envelope {
            suite: digest::SUITE,
            schema_version: bodycam_record::envelope::SCHEMA_VERSION,
            producer: "fixture".to_owned(),
            epoch: 1,
            session,
            seq: *seq,
            ts_wall_ns,
            ts_mono_ns: 0,
            kind: table.code,
            kind_version: table.version,
            parent_seq: None,
            principal_ref: self.tenant.principal_ref(&event.principal),
            target: event.target.clone(),
            policy_digest: Digest::ZERO,
            body_digest: table.body_digest(&body),
            content_no: None,
            content: None,
            prev: Digest::ZERO,
        };
        *seq += 1;
        let hash = envelope.hash();
        self.events.entry(table.family).or_default().push(Event { envelope, body, hash });
        self.first_ns = self.first_ns.min(ts_wall_ns);
        self.last_ns = self.last_ns.max(ts_wall_ns);
        Ok(())
    }

    fn value(&self, field: &Field, given: Option<&serde_json::Value>) -> Result<Value, String> {
        use serde_json::Value as Json;
        let given = match given {
            None | Some(Json::Null) if field.optional => return Ok(Value::Absent),
            given => given,
        };
        let wrong = || format!("field {} takes {}", field.name, field.ty.name());
        let items = |json: &Json| json.as_array().cloned().ok_or_else(wrong);
        let text = |json: &Json| json.as_str().map(str::to_owned).ok_or_else(wrong);
        Ok(match (field.ty, given) {
            (Type::Bool, given) => Value::Bool(given.map_or(Some(false), Json::as_bool).ok_or_else(wrong)?),
            (Type::Int, given) => Value::Int(given.map_or(Some(0), Json::as_i64).ok_or_else(wrong)?),
            (Type::Text, given) => Value::Text(given.map_or(Ok(String::new()), text)?),
            (Type::Bytes, given) => Value::Bytes(given.map_or(Ok(String::new()), text)?.into_bytes()),
            (Type::Id16, None) => Value::Id16(Id16::ZERO),
            (Type::Id16, Some(given)) => Value::Id16(self.tenant.correlation(&text(given)?)),
            (Type::Digest, None) => Value::Digest(Digest::ZERO),
            (Type::Digest, Some(given)) => Value::Digest(digest::POLICY.digest(text(given)?.as_bytes())),
            (Type::IntList, given) => {
                let list = given.map_or(Ok(Vec::new()), items)?;
                let list: Option<Vec<i64>> = list.iter().map(Json::as_i64).collect();
                Value::IntList(list.ok_or_else(wrong)?)
            }
            (Type::TextList, given) => {
                let list = given.map_or(Ok(Vec::new()), items)?;
                Value::TextList(list.iter().map(text).collect::<Result<_, _>>()?)
            }
        })
    }

    fn batches(&self) -> Result<BTreeMap<Table, Vec<arrow::array::RecordBatch>>, AnalyzerError> {
        let mut batches = BTreeMap::new();
        for (family, events) in &self.events {
            batches.insert(Table::Events(*family), vec![columns::encode(*family, events)?]);
        }
        Ok(batches)
    }

    fn expected(&self, rule: &LoadedRule, expected: &[Expected]) -> Result<Vec<Want>, String> {
        let mut wants = Vec::new();
        for expected in expected {
            let start = rule.rule.window_start(time(&expected.window)?);
            let names: BTreeSet<&str> = expected.entity.keys().map(String::as_str).collect();
            if names != rule.rule.entity.iter().map(String::as_str).collect() {
                return Err(format!(
                    "it expects an entity of {names:?}, and the rule's is {:?}",
                    rule.rule.entity
                ));
            }
            let entity = rule.rule.entity.iter().map(|name| self.entity(name, expected.entity.get(name)));
            let leads = expected.leads.as_deref().map(|event| {
                let parts =
                    event.rsplit_once(':').and_then(|(s, seq)| Some((session_of(s), seq.parse().ok()?)));
                parts.ok_or_else(|| format!("'{}' is not <session>:<seq>", bodycam_record::shown(event)))
            });
            let key = (start, entity.collect());
            wants.push(Want { key, leads: leads.transpose()?, expected: expected.clone() });
        }
        Ok(wants)
    }

    /// An entity value, with names in the place of pseudonyms.
    fn entity(&self, column: &str, value: Option<&serde_json::Value>) -> Option<String> {
        match (column, value?) {
            ("principal_ref", serde_json::Value::String(name)) => {
                Some(self.tenant.principal_ref(name).to_hex())
            }
            ("session_id", serde_json::Value::String(name)) => Some(session_of(name).to_string()),
            (_, serde_json::Value::String(text)) => Some(text.clone()),
            (_, serde_json::Value::Null) => None,
            (_, other) => Some(other.to_string()),
        }
    }
}

/// The events that fixture events stand for.
#[cfg(test)]
pub(crate) fn events(events: &[FixtureEvent]) -> Vec<Event> {
    Scene::of(events).unwrap().events.into_values().flatten().collect()
}

/// The session that a name stands for.
fn session_of(name: &str) -> SessionId {
    let mut random = [0; 10];
    for (byte, from) in random.iter_mut().zip(digest::TARGET.digest(name.as_bytes()).0) {
        *byte = from;
    }
    SessionId::new(0, random)
}
