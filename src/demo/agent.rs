//! The people and agents of the demonstration, with real clients: tokio-postgres for the weeks before,
//! psql and curl for today.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::company;

/// A principal with its token.
#[derive(Debug, Clone)]
pub struct Login {
    /// Principal.
    pub name: String,
    /// Token.
    pub token: String,
}

/// One ordinary session: a handful of statements, a few rows each.
pub async fn ordinary_session(gateway: SocketAddr, login: &Login, seed: u32) -> Result<usize> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(gateway.port()).user(&login.name).password(&login.token).dbname("shop");
    config.application_name("helpdesk").connect_timeout(Duration::from_secs(10));
    let (client, connection) = config
        .connect(tokio_postgres::NoTls)
        .await
        .with_context(|| format!("{} could not log in at the gateway", login.name))?;
    let driver = tokio::spawn(connection);
    let work = company::ordinary_work(seed);
    for sql in &work {
        client.query(sql, &[]).await.with_context(|| format!("{}: {sql}", login.name))?;
    }
    drop(client);
    driver.await?.context("the session did not end well")?;
    Ok(work.len())
}

/// psql through the gateway.
pub fn psql(gateway: SocketAddr, login: &Login, sql: &str) -> Result<String> {
    let mut psql = Command::new("psql");
    psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-d", "shop"])
        .args(["-p", &gateway.port().to_string(), "-U", &login.name, "-c", sql])
        .env("PGPASSWORD", &login.token)
        .env("PGSSLMODE", "disable");
    text(psql.output().context("cannot run psql")?, "psql")
}

/// curl through the egress proxy: a GET, or an upload of `file`.
pub fn curl(proxy: SocketAddr, login: &Login, url: &str, file: Option<&Path>) -> Result<String> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail-with-body", "--max-time", "30"]).args([
        "--proxy",
        &format!("http://{proxy}"),
        "--proxy-user",
        &format!("{}:{}", login.name, login.token),
    ]);
    if let Some(file) = file {
        curl.arg("--data-binary").arg(format!("@{}", file.display()));
    }
    for name in ["no_proxy", "NO_PROXY", "http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"]
    {
        curl.env_remove(name);
    }
    text(curl.arg(url).output().context("cannot run curl")?, "curl")
}

fn text(output: Output, program: &str) -> Result<String> {
    if !output.status.success() {
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        bail!("{program} failed: {}", bodycam_record::shown(&String::from_utf8_lossy(&said)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
