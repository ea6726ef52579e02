//! `bodycam doctor`: is the set-up sound, and does everybody come through the gateway?
//!
//! Invariant: it changes nothing but the probe objects that it puts into the lake and deletes again, and a
//! check that could not be made is never `ok`.

use std::collections::HashSet;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use bodycam_analyzer::detect;
use bodycam_bus::spool::SpoolBus;
use bodycam_lake::Lake;
use bodycam_proxy::admin;
use bodycam_proxy::identity::{Roster, token};
use bodycam_proxy::postgres::TargetConfig;
use bodycam_proxy::postgres::live::LiveProcess;
use bodycam_proxy::postgres::survey::{ServerSession, Survey};
use bodycam_proxy::recording::Rows;
use bodycam_proxy::state::SqliteState;
use bodycam_record::shown;
use bodycam_record::shown::shown_json;
use serde::Serialize;

use super::{moment, now_ns, runtime};
use crate::config::Config;

/// Clock offset to a target from which on times in the record and there are hard to bring together.
const CLOCK_OFFSET_SECONDS: f64 = 1.0;
/// Tokens and contracts that end within this are worth a word.
const SOON_NS: i64 = 7 * 24 * 3600 * 1_000_000_000;
/// Between two looks at who is connected: longer than a client takes from its connection to its session.
const LOOKS: Duration = Duration::from_millis(1500);

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

/// One check.
#[derive(Debug, Serialize)]
struct Check {
    check: String,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// What was found, in order.
#[derive(Debug, Default)]
struct Report {
    checks: Vec<Check>,
    bypass: Vec<Bypass>,
}

/// A session of a target that no asked gateway knows.
#[derive(Debug, Serialize)]
struct Bypass {
    target: String,
    pid: i32,
    user: String,
    database: String,
    application: String,
    client: String,
    since: String,
}

/// Checks everything that the configuration names. `gateways` are admin listeners of further gateways before
/// the same targets.
pub fn run(config: &Config, gateways: &[SocketAddr], json: bool) -> Result<ExitCode> {
    let mut report = Report::default();
    files(config, &mut report);
    spool(config, &mut report);
    identity(config, &mut report);
    runtime()?.block_on(async {
        lake(config, &mut report).await;
        rules(config, &mut report).await;
        let running = gateway(config, gateways, &mut report).await;
        for target in &config.targets {
            survey(config, target, &running, &mut report).await;
        }
    });
    report.print(json)?;
    let failed = report.checks.iter().any(|c| c.state == State::Fail);
    Ok(ExitCode::from(u8::from(failed)))
}

impl Report {
    fn ok(&mut self, check: &str, detail: impl Into<String>) {
        self.put(check, State::Ok, detail.into(), None);
    }

    fn warn(&mut self, check: &str, detail: impl Into<String>, remedy: &str) {
        self.put(check, State::Warn, detail.into(), Some(remedy.to_owned()));
    }

    fn fail(&mut self, check: &str, detail: impl Into<String>, remedy: &str) {
        self.put(check, State::Fail, detail.into(), Some(remedy.to_owned()));
    }

    fn put(&mut self, check: &str, state: State, detail: String, remedy: Option<String>) {
        self.checks.push(Check { check: check.to_owned(), state, detail, remedy });
    }

    fn print(&self, json: bool) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        let count = |state| self.checks.iter().filter(|c| c.state == state).count();
        let (warned, failed) = (count(State::Warn), count(State::Fail));
        if json {
            let value = serde_json::json!({
                "checks": self.checks, "not_through_the_gateway": self.bypass, "warned": warned, "failed": failed,
            });
            return writeln!(out, "{}", shown_json(&value.to_string()));
        }
        for check in &self.checks {
            let state = match check.state {
                State::Ok => "ok  ",
                State::Warn => "warn",
                State::Fail => "FAIL",
            };
            writeln!(out, "{state}  {:<20} {}", shown(&check.check), shown(&check.detail))?;
            if let Some(remedy) = &check.remedy {
                writeln!(out, "      {:<20} → {}", "", shown(remedy))?;
            }
        }
        if !self.bypass.is_empty() {
            writeln!(out, "\nSessions that did not come through the gateway:")?;
            writeln!(
                out,
                "  {:<14} {:>8}  {:<16} {:<16} {:<22} {:<27} APPLICATION",
                "TARGET", "PID", "ROLE", "DATABASE", "CLIENT", "SINCE"
            )?;
            for b in &self.bypass {
                let unknown = |text: &str| if text.is_empty() { "?".to_owned() } else { shown(text) };
                writeln!(
                    out,
                    "  {:<14} {:>8}  {:<16} {:<16} {:<22} {:<27} {}",
                    shown(&b.target),
                    b.pid,
                    shown(&b.user),
                    shown(&b.database),
                    unknown(&b.client),
                    unknown(&b.since),
                    shown(&b.application)
                )?;
            }
        }
        writeln!(out, "\n{} checks, {warned} warnings, {failed} failed", self.checks.len())
    }
}

/// Key files, and settings that are sound but deserve a word.
fn files(config: &Config, report: &mut Report) {
    match crate::tenant_key::load(&config.gateway.tenant_key, false) {
        Err(error) => report.fail(
            "tenant key",
            format!("{error:#}"),
            "`bodycam up` makes the file at its first start; if it was lost, what was recorded cannot be read",
        ),
        Ok(_) => match config.gateway.tenant_key.strip_prefix("file:").and_then(|p| loose(Path::new(p))) {
            Some(mode) => report.fail(
                "tenant key",
                format!("{} can be read by others (mode {mode:03o})", config.gateway.tenant_key),
                "chmod 600 it, and think of who has read it",
            ),
            None => report.ok("tenant key", config.gateway.tenant_key.clone()),
        },
    }
    match loose(&config.recorder.key) {
        Some(mode) => report.fail(
            "recorder key",
            format!("{} can be read by others (mode {mode:03o})", config.recorder.key.display()),
            "chmod 600 it",
        ),
        None if config.recorder.key.exists() => {
            report.ok("recorder key", config.recorder.key.display().to_string());
        }
        None => report.warn(
            "recorder key",
            format!("{} is not there yet", config.recorder.key.display()),
            "the recorder makes it at its first start",
        ),
    }
    for target in &config.targets {
        let Some((path, mode)) = target.password.as_ref().and_then(|secret| secret.exposed()) else {
            continue;
        };
        report.warn(
            &format!("password of {}", shown(&target.name)),
            format!("{} can be read by others (mode {mode:03o})", path.display()),
            "chmod 600 it, unless nobody else is on this machine",
        );
    }
    match config.record.rows {
        Rows::Clear => report.warn(
            "record.rows",
            "rows of results are recorded in clear",
            "make sure that who holds the tenant key may see what is in the targets, or set \"digest\"",
        ),
        _ => report.ok("record.rows", "rows of results are recorded as counts and digests"),
    }
    for (name, listen, tls) in [
        (
            "[postgres]",
            config.postgres.as_ref().map(|p| p.listen),
            config.postgres.as_ref().and_then(|p| p.tls.as_ref()).is_some(),
        ),
        (
            "[http]",
            config.http.as_ref().map(|h| h.listen),
            config.http.as_ref().and_then(|h| h.tls.as_ref()).is_some(),
        ),
    ] {
        match listen {
            Some(listen) if !tls && !listen.ip().is_loopback() => report.warn(
                name,
                format!("listens on {listen} without TLS: tokens and data cross the network in clear"),
                "set its tls section, or listen on loopback",
            ),
            Some(listen) => report.ok(name, format!("listens on {listen}")),
            None => {}
        }
    }
}

/// The mode of a file that others may read.
fn loose(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

fn spool(config: &Config, report: &mut Report) {
    let name = "spool";
    let dir = &config.spool.dir;
    if !dir.exists() {
        let detail = format!("{} is not there yet", dir.display());
        return report.warn(name, detail, "the gateway makes it at its first start");
    }
    let bus = SpoolBus::new(&config.spool);
    let (mut bytes, mut waiting) = (0, 0);
    let read = (|| {
        for (stream, (_, held)) in bus.depth()? {
            bytes += held;
            waiting += bus.end(&stream)?.saturating_sub(bus.released(&stream)?);
        }
        Ok::<(), bodycam_bus::BusError>(())
    })();
    if let Err(error) = read {
        return report.fail(name, error.to_string(), "look at the disk and at who may read the directory");
    }
    let limit = config.spool.max_bytes;
    let state = format!(
        "{}: {waiting} records wait for the recorder, {} of {} MiB",
        dir.display(),
        bytes >> 20,
        limit >> 20
    );
    let free = match rustix::fs::statvfs(dir) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(error) => return report.fail(name, format!("{}: {error}", dir.display()), "look at the disk"),
    };
    if bytes >= limit {
        report.fail(
            name,
            state,
            "the spool is full and traffic is held: start the recorder, or see why it does not commit",
        );
    } else if free < limit.saturating_sub(bytes) {
        let detail = format!("{state}; the disk has {} MiB left, less than max_bytes allows", free >> 20);
        report.warn(name, detail, "free the disk, or lower [spool] max_bytes: a full disk holds all traffic");
    } else if bytes > limit / 2 {
        report.warn(name, state, "the recorder lags: see its log and bodycam_recorder_* on /metrics");
    } else {
        report.ok(name, state);
    }
}

fn identity(config: &Config, report: &mut Report) {
    if !config.state.path.exists() {
        let detail = format!("{} is not there yet: nobody holds a token", config.state.path.display());
        return report.warn("tokens", detail, "bodycam token issue --principal NAME --ttl 30d");
    }
    let read = || {
        let roster = Roster::new(&config.principals)?;
        let tokens = token::list(&SqliteState::open_existing(&config.state.path)?)?;
        Ok::<_, anyhow::Error>((roster, tokens))
    };
    let (roster, tokens) = match read() {
        Ok(read) => read,
        Err(error) => {
            return report.fail("tokens", format!("{error:#}"), "bring the file back, or issue tokens anew");
        }
    };
    let now = now_ns();
    let live: Vec<_> = tokens.iter().filter(|t| t.revoked_ns.is_none() && t.expires_ns > now).collect();
    let mut silent: Vec<_> = roster
        .members()
        .filter(|m| roster.standing(&m.name, now).is_ok() && !live.iter().any(|t| *t.principal == *m.name))
        .map(|m| shown(&m.name))
        .collect();
    silent.sort();
    match silent.is_empty() {
        true => report.ok("tokens", format!("{} live, at least one for every active principal", live.len())),
        false => report.warn(
            "tokens",
            format!("{} live; none for {}", live.len(), silent.join(", ")),
            "bodycam token issue --principal NAME --ttl 30d",
        ),
    }
    for token in live.iter().filter(|t| t.expires_ns - now < SOON_NS) {
        let detail =
            format!("{} of {} ends at {}", token.id, shown(&token.principal), moment(token.expires_ns));
        report.warn("token", detail, "issue the next one in time");
    }
    for member in roster.members() {
        if let Some(ends) = member.ends_ns.filter(|ends| *ends <= now) {
            let detail =
                format!("that of {} was over at {}: nobody logs in as it", shown(&member.name), moment(ends));
            report.warn(
                "contract",
                detail,
                "remove the [[principals]] entry, or write another day into `ends`",
            );
        }
        let Some(ends) = member.ends_ns.filter(|ends| *ends > now && *ends - now < SOON_NS) else { continue };
        let detail = format!("{} has access until {}", shown(&member.name), moment(ends));
        report.warn("contract", detail, "its sessions are closed then");
    }
}

async fn lake(config: &Config, report: &mut Report) {
    let name = "lake";
    let url = &config.lake.url;
    if !url.contains("://") && !Path::new(url).exists() {
        return report.warn(
            name,
            format!("{url} is not there yet"),
            "the recorder makes it at its first start",
        );
    }
    let look = async {
        let store = config.lake.open()?;
        store.reach().await?;
        store.probe(rand_nonce()).await?;
        anyhow::Ok(Lake::open(store).await?)
    };
    match look.await {
        Err(error) => {
            report.fail(name, error.to_string(), "bodycam verify names what is wrong with what is there")
        }
        Ok(lake) => {
            let state = lake.state();
            report.ok(name, format!("{url}: {} streams, {} commits", state.streams.len(), state.commits));
        }
    }
}

/// A number that no other probe has.
fn rand_nonce() -> u64 {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => u64::from(std::process::id()) ^ u64::try_from(now_ns()).unwrap_or_default(),
    }
}

async fn rules(config: &Config, report: &mut Report) {
    match detect::ls(&config.detect).await {
        Ok(rules) if rules.is_empty() => {
            report.warn(
                "rules",
                "every rule is disabled: nothing is judged",
                "remove some of [detect] disable",
            );
        }
        Ok(rules) => report.ok("rules", format!("{} detections", rules.len())),
        Err(error) => report.fail(
            "rules",
            error.to_string(),
            "mend the rule; `bodycam detect test DIR` runs its fixtures",
        ),
    }
    let sensitive: usize = config.targets.iter().map(|t| t.sensitive.len()).sum();
    if sensitive == 0 && !config.targets.is_empty() {
        report.warn(
            "sensitive",
            "no target lists `sensitive` relations: small reads of them are not told from others",
            "list them as schema.name under [[targets]]",
        );
    }
}

/// The gateways that answer.
async fn gateway(config: &Config, others: &[SocketAddr], report: &mut Report) -> Vec<SocketAddr> {
    let mut running = Vec::new();
    for (at, address) in std::iter::once(&config.admin.listen).chain(others).enumerate() {
        let name = if at == 0 { "gateway" } else { "other gateway" };
        match admin::ask(*address, "/readyz").await {
            Ok((200, _)) => report.ok(name, format!("is ready (admin listener {address})")),
            Ok((_, body)) => {
                report.fail(name, format!("{address} is not ready: {}", body.trim()), "see its log");
            }
            Err(error) => {
                let remedy = "start it with `bodycam up` or `bodycam gateway`; if it runs elsewhere, name its admin listener with --gateway";
                report.warn(name, format!("nothing answers at {address}: {error}"), remedy);
                continue;
            }
        }
        running.push(*address);
    }
    let mut fails = None;
    for address in [config.admin.listen, config.admin.recorder_listen] {
        let Ok((200, metrics)) = admin::ask(address, "/metrics").await else { continue };
        let gauge = metrics.lines().find_map(|line| line.strip_prefix("bodycam_recorder_failing "));
        fails = fails.or(gauge.map(|value| value.trim() != "0"));
    }
    match fails {
        Some(false) => report.ok("recorder", "runs"),
        Some(true) => report.fail(
            "recorder",
            "it fails and starts again",
            "see its log; the spool holds what it has not stored",
        ),
        None => report.warn(
            "recorder",
            "none answers on [admin] listen or recorder_listen",
            "start `bodycam up` or `bodycam recorder`",
        ),
    }
    running
}

async fn survey(config: &Config, target: &TargetConfig, running: &[SocketAddr], report: &mut Report) {
    let name = format!("target {}", target.name);
    let seconds = config.postgres.as_ref().map_or(10, |p| p.connect_timeout_seconds);
    let survey = match Survey::of(target, Duration::from_secs(seconds)).await {
        Ok(survey) => survey,
        Err(error) => {
            return report.fail(&name, error.to_string(), "unless the gateway runs with another environment than this command, nobody reaches this target through it");
        }
    };
    let detail = format!("{} as role {}: PostgreSQL {}", target.address, target.role, survey.version);
    match survey.excess.is_empty() {
        true => report.ok(&name, detail),
        false => report.warn(
            &name,
            format!("{detail}; the role has {}", survey.excess.join(", ")),
            "take away what the principals behind it do not need",
        ),
    }
    if survey.clock_offset.abs() > CLOCK_OFFSET_SECONDS {
        let detail = format!("its clock differs from this machine's by {:.1} s", survey.clock_offset);
        report.warn(&name, detail, "let both follow one NTP source");
    }
    if !survey.sees_sessions {
        let detail = "the role does not see where sessions come from, nor sessions that replicate";
        report.warn(&name, detail, &format!("GRANT pg_read_all_stats TO {}", target.role));
    }
    sensitive(config, target, &survey, report).await;
    // Several targets can be databases of one server, whose sessions are looked at once.
    let here: Vec<&str> =
        config.targets.iter().filter(|t| t.address == target.address).map(|t| t.name.as_str()).collect();
    if here.first() != Some(&target.name.as_str()) {
        return;
    }
    match around(&here, &survey, running).await {
        Err(error) => {
            report.fail(&name, format!("cannot tell who is connected: {error:#}"), "run doctor again")
        }
        Ok(found) if found.is_empty() => report.ok(&name, "every session comes through the gateway"),
        Ok(found) => {
            let count = found.len();
            match running.is_empty() {
                true => report.warn(
                    &name,
                    format!("{count} sessions, and no gateway that could say whether they are its own"),
                    "start the gateway, or name its admin listener with --gateway",
                ),
                false => report.fail(
                    &name,
                    format!("{count} sessions did not come through the gateway; nothing of them is recorded"),
                    "let the server accept the gateway's address and role only (pg_hba.conf, firewall)",
                ),
            }
            report.bypass.extend(found);
        }
    }
}

/// Whether the relations that the target lists as sensitive are there: detections compare names.
async fn sensitive(config: &Config, target: &TargetConfig, survey: &Survey, report: &mut Report) {
    if target.sensitive.is_empty() {
        return;
    }
    let name = format!("sensitive of {}", target.name);
    // Clients get to those that no earlier target takes.
    let leads_here = |database: &String| {
        let first = config.targets.iter().find(|other| other.serves(database));
        first.is_some_and(|first| first.name == target.name)
    };
    let look = async {
        let databases: Vec<String> = survey.databases().await?.into_iter().filter(leads_here).collect();
        Ok::<_, anyhow::Error>(survey.lacking(&databases, &target.sensitive).await?)
    };
    match look.await {
        Err(error) => report.warn(
            &name,
            format!("cannot tell whether the relations are there: {error:#}"),
            "run doctor again",
        ),
        Ok(lacking) if lacking.is_empty() => {
            report.ok(&name, format!("every relation is there ({})", target.sensitive.len()));
        }
        Ok(lacking) => report.warn(
            &name,
            format!(
                "no database behind this target has {}: no detection ever watches it",
                lacking.join(", ")
            ),
            "write names as the server spells them, schema.relation, or take out what is gone",
        ),
    }
}

/// Sessions of the server of `targets` that were there at both looks and that no gateway listed at any: one that is just beginning or
/// ending is not taken for a bypass.
async fn around(targets: &[&str], survey: &Survey, running: &[SocketAddr]) -> Result<Vec<Bypass>> {
    let first = survey.sessions().await?;
    let mut ours = processes(targets, running).await?;
    let suspects: Vec<ServerSession> = first.into_iter().filter(|s| !ours.contains(&s.process)).collect();
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    tokio::time::sleep(LOOKS).await;
    let second = survey.sessions().await?;
    ours.extend(processes(targets, running).await?);
    let same = |a: &ServerSession, b: &ServerSession| a.process == b.process && a.since == b.since;
    let stayed = suspects.into_iter().filter(|s| second.iter().any(|other| same(s, other)));
    Ok(stayed
        .filter(|s| !ours.contains(&s.process))
        .map(|s| Bypass {
            target: targets.join(" "),
            pid: s.process,
            user: s.user,
            database: s.database,
            application: s.application,
            client: s.client,
            since: s.since,
        })
        .collect())
}

/// Server processes of these targets that the gateways call their own.
async fn processes(targets: &[&str], running: &[SocketAddr]) -> Result<HashSet<i32>> {
    let mut all = HashSet::new();
    for address in running {
        let (status, body) = admin::ask(*address, "/processes").await?;
        anyhow::ensure!(status == 200, "the gateway at {address} answered {status}");
        let listed: Vec<LiveProcess> = serde_json::from_str(&body)?;
        all.extend(listed.into_iter().filter(|p| targets.contains(&p.target.as_str())).map(|p| p.process));
    }
    Ok(all)
}
