//! The roster: people, agents and contractors, from `[[principals]]` in the configuration.
//!
//! Every agent has a human owner and every contractor a sponsor and an end date. Invariant: an agent can do
//! nothing that its owner cannot, and nobody outlives the person who answers for them.

use std::collections::HashMap;
use std::sync::Arc;

use bodycam_record::shown;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::login::Ended;

/// What a principal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    /// A member of the organisation.
    Person,
    /// A program that acts on its own, owned by a person or a contractor.
    Agent,
    /// A person from outside, sponsored by a person and with an end date.
    Contractor,
}

impl PrincipalKind {
    /// Its name in the configuration and in the record.
    pub fn name(self) -> &'static str {
        match self {
            PrincipalKind::Person => "person",
            PrincipalKind::Agent => "agent",
            PrincipalKind::Contractor => "contractor",
        }
    }
}

/// One principal: `[[principals]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrincipalConfig {
    /// Name, as clients give it (PostgreSQL `user`, proxy user). Letters, digits, `.`, `_`, `-`, `@`; at most 63 bytes.
    pub name: String,
    /// `person`, `agent` or `contractor`.
    pub kind: PrincipalKind,
    /// Who answers for an agent: the name of a person or contractor. Required for agents, refused for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Who vouches for a contractor: the name of a person. Required for contractors, refused for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sponsor: Option<String>,
    /// Last day of access, `"2027-03-31"` (to its end, UTC), or a moment, `"2027-03-31T18:00:00Z"`. Required for contractors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    /// Switched off: no logins, and open sessions are closed within a minute. A running gateway follows changes of `[[principals]]` in its file.
    #[serde(default)]
    pub disabled: bool,
    /// Targets this principal may reach: names, or patterns with `*`. Nothing by default; an agent also needs its owner's.
    #[serde(default)]
    pub targets: Vec<String>,
    /// Hosts this principal may reach through the egress proxy: `"api.example.com"`, `"*.example.com:443"`, `"10.0.0.5:8080"`. A CONNECT tunnel carries only TLS that names the host in clear, unless the entry says `"opaque:git.example.com:22"`. Nothing by default; an agent also needs its owner's.
    #[serde(default)]
    pub egress: Vec<String>,
    /// Sessions open at the same time, of all protocols together, whatever the listeners' own limits; those apply when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
}

/// A principal that the configuration describes wrongly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("principal '{principal}', field '{field}': {problem}")]
pub struct RosterError {
    /// Name of the principal, safe to show.
    pub principal: String,
    /// Field concerned.
    pub field: &'static str,
    /// What is wrong and what to do.
    pub problem: String,
}

/// A valid roster.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    members: HashMap<Arc<str>, Arc<Member>>,
}

/// A principal of a valid roster, with the rights of its whole chain.
#[derive(Debug)]
pub struct Member {
    /// Name.
    pub name: Arc<str>,
    /// Kind.
    pub kind: PrincipalKind,
    /// Owner of an agent.
    pub owner: Option<Arc<str>>,
    /// Sponsor of a contractor.
    pub sponsor: Option<Arc<str>>,
    /// First moment without access, Unix ns.
    pub ends_ns: Option<i64>,
    /// Switched off.
    pub disabled: bool,
    /// Sessions open at the same time.
    pub max_sessions: Option<u32>,
    /// Target lists of the chain, its own first: a target must be in every one.
    pub targets: Arc<[Arc<[String]>]>,
    /// Egress lists of the chain, its own first: a host must be in every one.
    pub egress: Arc<[Arc<[String]>]>,
}

impl Roster {
    /// The roster of these entries, or the first thing wrong with them.
    pub fn new(entries: &[PrincipalConfig]) -> Result<Self, RosterError> {
        let mut by_name: HashMap<&str, &PrincipalConfig> = HashMap::new();
        for entry in entries {
            check_alone(entry)?;
            if by_name.insert(&entry.name, entry).is_some() {
                return Err(fault(entry, "name", "appears twice; names are unique".to_owned()));
            }
        }
        let mut members = HashMap::with_capacity(entries.len());
        for entry in entries {
            let owner = match &entry.owner {
                None => None,
                Some(owner) => Some(answers(entry, "owner", owner, &by_name)?),
            };
            if let Some(sponsor) = &entry.sponsor
                && answers(entry, "sponsor", sponsor, &by_name)?.kind != PrincipalKind::Person
            {
                return Err(fault(entry, "sponsor", format!("'{}' is not a person", shown(sponsor))));
            }
            let chain: Vec<&PrincipalConfig> = std::iter::once(entry).chain(owner).collect();
            let lists = |of: fn(&PrincipalConfig) -> &Vec<String>| -> Arc<[Arc<[String]>]> {
                chain.iter().map(|c| Arc::from(of(c).as_slice())).collect()
            };
            let name: Arc<str> = entry.name.as_str().into();
            members.insert(
                name.clone(),
                Arc::new(Member {
                    name,
                    kind: entry.kind,
                    owner: entry.owner.as_deref().map(Into::into),
                    sponsor: entry.sponsor.as_deref().map(Into::into),
                    ends_ns: entry.ends.as_deref().map(|e| end_of(entry, e)).transpose()?,
                    disabled: entry.disabled,
                    max_sessions: entry.max_sessions,
                    targets: lists(|c| &c.targets),
                    egress: lists(|c| &c.egress),
                }),
            );
        }
        Ok(Self { members })
    }

    /// The member of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Member>> {
        self.members.get(name)
    }

    /// Every member, in no order.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.values()
    }

    /// Whether `name` and everyone who answers for it are active at `now_ns`.
    pub fn standing(&self, name: &str, now_ns: i64) -> Result<&Arc<Member>, Ended> {
        let member = self.get(name).ok_or(Ended::Removed)?;
        if member.disabled {
            return Err(Ended::Disabled);
        }
        if member.ends_ns.is_some_and(|end| now_ns >= end) {
            return Err(Ended::ContractOver);
        }
        for answering in [&member.owner, &member.sponsor].into_iter().flatten() {
            // Owners are people or contractors and sponsors are people, so this ends after two steps.
            self.standing(answering, now_ns).map_err(|_| Ended::OwnerGone)?;
        }
        Ok(member)
    }
}

impl Member {
    /// Whether every list of the chain names this target.
    pub fn may_reach(&self, target: &str) -> bool {
        self.targets.iter().all(|list| list.iter().any(|pattern| matches(pattern, target)))
    }
}

/// Whether `pattern`, in which `*` stands for any text, matches all of `name`.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

/// The first entry of a list that is in it already.
pub fn repeated<T: PartialEq>(list: &[T]) -> Option<&T> {
    list.iter()
        .enumerate()
        .find(|(at, entry)| list.iter().take(*at).any(|before| before == *entry))
        .map(|e| e.1)
}

fn fault(entry: &PrincipalConfig, field: &'static str, problem: String) -> RosterError {
    RosterError { principal: shown(&entry.name), field, problem }
}

/// What can be checked without looking at the other entries.
fn check_alone(entry: &PrincipalConfig) -> Result<(), RosterError> {
    let spelled = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    if entry.name.is_empty() || entry.name.len() > 63 || !entry.name.chars().all(spelled) {
        let problem = "must be 1 to 63 of the characters A-Z a-z 0-9 . _ - @".to_owned();
        return Err(fault(entry, "name", problem));
    }
    let required = |field, present: bool, wanted: bool| match (present, wanted) {
        (false, true) => Err(fault(entry, field, format!("is required for kind \"{}\"", entry.kind.name()))),
        (true, false) => {
            Err(fault(entry, field, format!("does nothing for kind \"{}\"; remove it", entry.kind.name())))
        }
        _ => Ok(()),
    };
    required("owner", entry.owner.is_some(), entry.kind == PrincipalKind::Agent)?;
    required("sponsor", entry.sponsor.is_some(), entry.kind == PrincipalKind::Contractor)?;
    if entry.kind == PrincipalKind::Contractor {
        required("ends", entry.ends.is_some(), true)?;
    }
    if entry.max_sessions == Some(0) {
        let problem = "0 would let nobody in; use disabled = true".to_owned();
        return Err(fault(entry, "max_sessions", problem));
    }
    for (field, list) in [("targets", &entry.targets), ("egress", &entry.egress)] {
        if let Some(bad) = list.iter().find(|t| t.trim().is_empty() || t.trim() != t.as_str()) {
            return Err(fault(entry, field, format!("'{}' is empty or has spaces around it", shown(bad))));
        }
    }
    // Hosts can be spelled in more ways than one: who reads the rules compares them.
    if let Some(twice) = repeated(&entry.targets) {
        let problem = format!("'{}' appears twice; remove one of them", shown(twice));
        return Err(fault(entry, "targets", problem));
    }
    Ok(())
}

/// Refuses entries that could do nothing at all: no target, no host, and nobody whom they vouch for; and agents
/// whose targets are none of their owner's. `targets` are all there are. Who has no access at `now_ns` anyway, by
/// its own entry or by those who answer for it, is passed over: rosters keep such entries.
pub fn check_rights(entries: &[PrincipalConfig], targets: &[&str], now_ns: i64) -> Result<(), RosterError> {
    let roster = Roster::new(entries)?;
    for entry in entries {
        let Ok(member) = roster.standing(&entry.name, now_ns) else { continue };
        let vouches = || entries.iter().any(|other| other.sponsor.as_deref() == Some(entry.name.as_str()));
        if entry.targets.is_empty() && entry.egress.is_empty() && !vouches() {
            let problem =
                "and 'egress' are empty, so that it may reach nothing; list what it may reach, or remove it";
            return Err(fault(entry, "targets", problem.to_owned()));
        }
        if let Some(owner) = &entry.owner
            && !entry.targets.is_empty()
            && !targets.iter().any(|target| member.may_reach(target))
        {
            let problem = format!(
                "no target in it is also in that of its owner '{}'; an agent reaches what both may: list \
                 something of its owner's, or remove it",
                shown(owner)
            );
            return Err(fault(entry, "targets", problem));
        }
    }
    Ok(())
}

/// The entry that `field` of `entry` names: another one, and a human.
fn answers<'a>(
    entry: &PrincipalConfig,
    field: &'static str,
    name: &str,
    by_name: &HashMap<&str, &'a PrincipalConfig>,
) -> Result<&'a PrincipalConfig, RosterError> {
    match by_name.get(name) {
        None => Err(fault(entry, field, format!("'{}' is not in the roster", shown(name)))),
        Some(found) if found.kind == PrincipalKind::Agent => {
            Err(fault(entry, field, format!("'{}' is an agent; name a human", shown(name))))
        }
        Some(found) => Ok(found),
    }
}

/// The first moment after `ends`, Unix ns.
fn end_of(entry: &PrincipalConfig, ends: &str) -> Result<i64, RosterError> {
    let unreadable = || {
        let problem =
            format!("'{}' is neither a date (2027-03-31) nor a moment (2027-03-31T18:00:00Z)", shown(ends));
        fault(entry, "ends", problem)
    };
    let moment = match ends.parse::<jiff::Timestamp>() {
        Ok(moment) => moment,
        Err(_) if ends.len() == "2027-03-31".len() => {
            let day: jiff::civil::Date = ends.parse().map_err(|_| unreadable())?;
            let next = day.tomorrow().map_err(|_| unreadable())?;
            next.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| unreadable())?.timestamp()
        }
        Err(_) => return Err(unreadable()),
    };
    i64::try_from(moment.as_nanosecond()).map_err(|_| unreadable())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const TEXT: &str = r#"
        [[principals]]
        name = "ann"
        kind = "person"
        targets = ["orders", "staging-*"]
        egress = ["*.example.com", "10.0.0.5:8080"]

        [[principals]]
        name = "agent-7"
        kind = "agent"
        owner = "ann"
        targets = ["*"]
        egress = ["api.example.com", "evil.test"]
        max_sessions = 4

        [[principals]]
        name = "cid"
        kind = "contractor"
        sponsor = "ann"
        ends = "2027-03-31"
        targets = ["orders"]

        [[principals]]
        name = "cids-agent"
        kind = "agent"
        owner = "cid"
        targets = ["orders", "staging-1"]
    "#;

    #[derive(Deserialize)]
    struct Config {
        principals: Vec<PrincipalConfig>,
    }

    /// The entries of a small house.
    pub fn entries() -> Vec<PrincipalConfig> {
        toml::from_str::<Config>(TEXT).unwrap().principals
    }

    /// Their roster.
    pub fn roster() -> Roster {
        Roster::new(&entries()).unwrap()
    }

    fn ns(moment: &str) -> i64 {
        i64::try_from(moment.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    #[test]
    fn an_agent_reaches_what_both_it_and_its_owner_may() {
        let roster = roster();
        let reach = |name: &str, target: &str| roster.get(name).unwrap().may_reach(target);
        assert!(reach("ann", "staging-2") && !reach("ann", "hr"));
        assert!(reach("agent-7", "orders") && reach("agent-7", "staging-2") && !reach("agent-7", "hr"));
        assert!(reach("cids-agent", "orders") && !reach("cids-agent", "staging-1"));
        let agent = roster.get("agent-7").unwrap();
        let leaves = |host: &str| agent.egress.iter().all(|list| list.iter().any(|rule| matches(rule, host)));
        assert!(leaves("api.example.com") && !leaves("evil.test") && !leaves("www.example.com"));
    }

    #[test]
    fn access_ends_with_the_last_day_of_a_contract_also_for_agents() {
        let roster = roster();
        let (before, after) = (ns("2027-03-31T23:59:59.999Z"), ns("2027-04-01T00:00:00Z"));
        for (name, ended) in [("cid", Ended::ContractOver), ("cids-agent", Ended::OwnerGone)] {
            assert!(roster.standing(name, before).is_ok(), "{name}");
            assert_eq!(roster.standing(name, after).unwrap_err(), ended, "{name}");
        }
        assert_eq!(roster.standing("nobody", before).unwrap_err(), Ended::Removed);
    }

    #[test]
    fn a_disabled_sponsor_ends_the_contractor_and_the_contractors_agent() {
        let mut entries = entries();
        entries[0].disabled = true;
        let roster = Roster::new(&entries).unwrap();
        assert_eq!(roster.standing("ann", 0).unwrap_err(), Ended::Disabled);
        for name in ["agent-7", "cid", "cids-agent"] {
            assert_eq!(roster.standing(name, 0).unwrap_err(), Ended::OwnerGone, "{name}");
        }
    }

    #[test]
    fn a_wrong_entry_is_named_with_principal_and_field() {
        let change = |at: usize, change: fn(&mut PrincipalConfig)| {
            let mut entries = entries();
            change(&mut entries[at]);
            let error = Roster::new(&entries).unwrap_err();
            (error.principal, error.field)
        };
        let named = |name: &str, field| (name.to_owned(), field);
        assert_eq!(change(1, |e| e.owner = None), named("agent-7", "owner"));
        assert_eq!(change(1, |e| e.owner = Some("bob".into())), named("agent-7", "owner"));
        assert_eq!(change(1, |e| e.owner = Some("cids-agent".into())), named("agent-7", "owner"));
        assert_eq!(change(0, |e| e.owner = Some("cid".into())), named("ann", "owner"));
        assert_eq!(change(2, |e| e.sponsor = None), named("cid", "sponsor"));
        assert_eq!(change(2, |e| e.sponsor = Some("cid".into())), named("cid", "sponsor"));
        assert_eq!(change(2, |e| e.ends = None), named("cid", "ends"));
        assert_eq!(change(2, |e| e.ends = Some("31.3.2027".into())), named("cid", "ends"));
        assert_eq!(change(0, |e| e.name = "cid".into()), named("cid", "name"));
        assert_eq!(change(3, |e| e.name = "a b".into()), named("a b", "name"));
        assert_eq!(change(0, |e| e.max_sessions = Some(0)), named("ann", "max_sessions"));
        assert_eq!(change(0, |e| e.targets = vec![" x".into()]), named("ann", "targets"));
        assert_eq!(change(0, |e| e.targets = vec!["x".into(), "x".into()]), named("ann", "targets"));
        assert!(toml::from_str::<Config>("[[principals]]\nname='x'\nkind='person'\ntarget=['a']").is_err());
    }

    #[test]
    fn who_may_reach_nothing_and_vouches_for_nobody_is_named() {
        let check = |entries: &[PrincipalConfig]| check_rights(entries, &["orders", "hr"], 0);
        check(&entries()).unwrap();
        let mut idle = entries();
        idle[1].targets.clear();
        idle[1].egress.clear();
        let error = check(&idle).unwrap_err();
        assert_eq!((error.principal.as_str(), error.field), ("agent-7", "targets"));
        idle[1].disabled = true;
        check(&idle).unwrap();
        idle[0].targets.clear();
        idle[0].egress.clear();
        check(&idle).unwrap();
    }

    #[test]
    fn an_agent_whose_targets_are_none_of_its_owners_is_named_unless_its_access_is_over() {
        let check = |now: &str, change: fn(&mut Vec<PrincipalConfig>)| {
            let mut entries = entries();
            change(&mut entries);
            let outcome = check_rights(&entries, &["orders", "staging-1", "hr"], ns(now));
            outcome.map_err(|error| (error.principal.clone(), error.to_string()))
        };
        const DURING: &str = "2027-03-01T00:00:00Z";
        let (name, error) = check(DURING, |e| e[3].targets = vec!["staging-*".into()]).unwrap_err();
        assert!(name == "cids-agent" && error.contains("its owner 'cid'"), "{error}");
        // Both have patterns, and no target is in both; hosts do not make up for it.
        let (name, _) = check(DURING, |e| e[1].targets = vec!["h*".into()]).unwrap_err();
        assert_eq!(name, "agent-7");
        for (now, change) in [
            (
                DURING,
                (|e| e[1].targets = vec!["hr".into(), "orders".into()]) as fn(&mut Vec<PrincipalConfig>),
            ),
            (DURING, |e| e[1].targets.clear()),
            (DURING, |e| (e[3].targets, e[3].disabled) = (vec!["hr".into()], true)),
            (DURING, |e| (e[3].targets, e[2].disabled) = (vec!["hr".into()], true)),
            (DURING, |e| (e[3].targets, e[0].disabled) = (vec!["hr".into()], true)),
            ("2027-04-01T00:00:00Z", |e| e[3].targets = vec!["hr".into()]),
            ("2027-04-01T00:00:00Z", |e| e[2].targets.clear()),
        ] {
            check(now, change).unwrap();
        }
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, hit) in [
            ("*", "", true),
            ("orders", "orders", true),
            ("orders", "orders2", false),
            ("st*-1", "staging-1", true),
            ("st*-1", "staging-2", false),
            ("*a*b*", "xaxbx", true),
            ("*a*b*", "xbxax", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), hit, "{pattern} {name}");
        }
    }
}
