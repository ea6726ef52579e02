//! `bodycam detect …`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use bodycam_analyzer::DetectConfig;
use bodycam_analyzer::detect::{self, DetectOptions, Summary};
use bodycam_analyzer::findings::{News, time};
use bodycam_analyzer::rules::Sensitive;
use bodycam_record::{TenantKey, shown};

use super::{lake_at, runtime};
use crate::cli::Detect;
use crate::config::{Config, LakeConfig};
use crate::speak::{along, to_stderr};

mod watch;

pub use watch::Watching;

/// Runs, watches, tests, lists.
pub fn run(command: Detect) -> Result<ExitCode> {
    match command {
        Detect::Run { json, cluster, lake } => {
            let options = lake_at(&lake)?.detect_options(cluster.as_deref())?;
            let runtime = runtime()?;
            runtime.block_on(options.store.reach())?;
            let summary = runtime.block_on(detect::run(options, &mut |news| tell(news, json)))?;
            conclude(&summary, json);
            Ok(if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
        }
        Detect::Watch { json, cluster, lake } => watch::run(json, cluster.as_deref(), &lake),
        Detect::Test { dir } => test(dir.as_deref()),
        Detect::Ls { rules } => list(&DetectConfig { rules_dir: rules, ..DetectConfig::default() }),
    }
}

/// What detection needs of a configuration, for `lake`.
pub fn options(config: &Config, lake: &LakeConfig, tenant: Option<TenantKey>) -> Result<DetectOptions> {
    let sensitive = config.targets.iter().flat_map(|target| {
        target.sensitive.iter().map(|r| Sensitive { target: target.name.clone(), relation: r.clone() })
    });
    Ok(DetectOptions {
        store: lake.open()?,
        config: config.detect.clone(),
        sensitive: sensitive.collect(),
        tenant,
        metrics: Arc::default(),
        elsewhere: None,
    })
}

fn tell(news: &News, json: bool) {
    let line = if json { news.to_json() } else { line(news) };
    // A reader that has gone away must not stop the hunt: findings are in the lake.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A finding on one line, for people.
pub fn line(news: &News) -> String {
    match news {
        News::Found { finding, is_new, .. } => {
            let state = if *is_new { "" } else { " (revised)" };
            format!("{} {}{state}: {}", finding.severity, finding.rule, shown(&finding.text))
        }
        News::Retracted { id, rule, .. } => format!("{rule} {id}: taken back, the rows do not support it"),
    }
}

fn conclude(summary: &Summary, json: bool) {
    for failure in &summary.failures {
        to_stderr(format_args!("rule failed: {}\n", shown(failure)));
    }
    if let Some(ahead) = summary.ahead {
        to_stderr(format_args!(
            "warning: {} hours hold events that are dated after the newest commit, up to {}: a clock is wrong, or \
             somebody lies\n",
            ahead.hours,
            time(ahead.newest_ns)
        ));
    }
    if !json {
        // The hunt has ended as it has, whether or not anyone reads of it.
        along(format_args!(
            "{} rules, {} windows evaluated, {} new findings, {} taken back\n",
            summary.rules, summary.evaluated, summary.found, summary.retracted
        ));
    }
}

fn test(dir: Option<&Path>) -> Result<ExitCode> {
    let outcomes = runtime()?.block_on(detect::test(dir))?;
    let mut failed = 0;
    for outcome in &outcomes {
        match &outcome.failure {
            None => along(format_args!("ok      {} {}\n", outcome.rule, shown(&outcome.fixture))),
            Some(why) => {
                failed += 1;
                let (rule, fixture) = (&outcome.rule, shown(&outcome.fixture));
                along(format_args!("FAILED  {rule} {fixture}: {}\n", shown(why)));
            }
        }
    }
    along(format_args!("{} passed, {failed} failed\n", outcomes.len() - failed));
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn list(config: &DetectConfig) -> Result<ExitCode> {
    let rules = runtime()?.block_on(detect::ls(config))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<9} {:<8} {:<9} {:<10} TITLE", "ID", "VERSION", "SEVERITY", "ORIGIN")?;
    for loaded in &rules {
        let rule = &loaded.rule;
        let severity = format!("{:?}", rule.severity).to_lowercase();
        writeln!(
            out,
            "{:<9} {:<8} {severity:<9} {:<10} {}",
            rule.id.to_string(),
            rule.version.to_string(),
            shown(&loaded.origin),
            shown(&rule.title)
        )?;
    }
    Ok(ExitCode::from(u8::from(rules.is_empty())))
}
