//! `bodycam token …` and `bodycam principals`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use bodycam_proxy::identity::{Roster, token};
use bodycam_proxy::state::{SqliteState, StoredToken};
use bodycam_record::shown;
use bodycam_record::shown::shown_json;
use serde_json::json;

use super::{load, moment, now_ns};
use crate::cli::{ListFormat, Token};
use crate::config::Config;
use crate::speak::{to_stderr, to_stdout};

/// Issues, lists, revokes.
pub fn run(command: Token) -> Result<ExitCode> {
    match command {
        Token::Issue { principal, ttl, note, config } => {
            let config = load(&config)?;
            let (roster, state) = (Roster::new(&config.principals)?, SqliteState::open(&config.state.path)?);
            let ttl_ns = token::parse_ttl(&ttl)?;
            let issued = token::issue(&state, &roster, &principal, ttl_ns, &note, now_ns())?;
            to_stderr(format_args!(
                "token {} for {}, until {}; it is shown this once:\n",
                issued.id,
                shown(&principal),
                moment(issued.expires_ns)
            ));
            to_stdout(format_args!("{}\n", issued.text.as_str()))?;
        }
        Token::Ls { principal, format, config } => {
            let config = load(&config)?;
            let state = SqliteState::open_existing(&config.state.path)?;
            let mut tokens = token::list(&state)?;
            tokens.retain(|t| principal.as_ref().is_none_or(|p| *p == t.principal));
            print_tokens(&tokens, format)?;
            return Ok(if tokens.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS });
        }
        Token::Revoke { id, config } => {
            let config = load(&config)?;
            let state = SqliteState::open_existing(&config.state.path)?;
            token::revoke(&state, &id, now_ns())?;
            to_stdout(format_args!("revoked; open sessions that use it are closed within a minute\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists the roster.
pub fn principals(config: &Config) -> Result<ExitCode> {
    let roster = Roster::new(&config.principals)?;
    let now = now_ns();
    let mut members: Vec<_> = roster.members().collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<24} {:<11} {:<24} {:<11} TARGETS", "NAME", "KIND", "ANSWERS FOR IT", "STANDING")?;
    for member in members {
        let answers = member.owner.as_ref().or(member.sponsor.as_ref()).map_or("", |n| n);
        let standing = match roster.standing(&member.name, now) {
            Ok(_) => "active".to_owned(),
            Err(ended) => ended.code().to_owned(),
        };
        let targets = member.targets.first().map(|t| t.join(" ")).unwrap_or_default();
        writeln!(
            out,
            "{:<24} {:<11} {:<24} {standing:<11} {}",
            shown(&member.name),
            member.kind.name(),
            shown(answers),
            shown(&targets)
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn standing(token: &StoredToken) -> &'static str {
    match token.revoked_ns {
        Some(_) => "revoked",
        None if token.expires_ns <= now_ns() => "expired",
        None => "live",
    }
}

fn print_tokens(tokens: &[StoredToken], format: ListFormat) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let rows: Vec<_> = tokens
        .iter()
        .map(|t| {
            json!({
                "id": t.id, "principal": t.principal, "standing": standing(t), "note": t.note,
                "issued": moment(t.issued_ns), "expires": moment(t.expires_ns),
                "revoked": t.revoked_ns.map(moment),
            })
        })
        .collect();
    match format {
        ListFormat::Table => {
            writeln!(
                out,
                "{:<18} {:<20} {:<8} {:<21} {:<21} NOTE",
                "ID", "PRINCIPAL", "STANDING", "ISSUED", "EXPIRES"
            )?;
            for t in tokens {
                writeln!(
                    out,
                    "{:<18} {:<20} {:<8} {:<21} {:<21} {}",
                    t.id,
                    shown(&t.principal),
                    standing(t),
                    moment(t.issued_ns),
                    moment(t.expires_ns),
                    shown(&t.note)
                )?;
            }
        }
        ListFormat::Json => {
            let all =
                json!({"total": rows.len(), "returned": rows.len(), "truncated": false, "tokens": rows});
            writeln!(out, "{}", shown_json(&all.to_string()))?;
        }
        ListFormat::Jsonl => {
            rows.iter().try_for_each(|row| writeln!(out, "{}", shown_json(&row.to_string())))?
        }
        ListFormat::Csv => {
            writeln!(out, "id,principal,standing,issued,expires,note")?;
            for t in tokens {
                let note = shown(&t.note).replace('"', "\"\"");
                writeln!(
                    out,
                    "{},{},{},{},{},\"{note}\"",
                    t.id,
                    shown(&t.principal),
                    standing(t),
                    moment(t.issued_ns),
                    moment(t.expires_ns)
                )?;
            }
        }
    }
    Ok(())
}
