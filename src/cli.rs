//! The command tree.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A body camera for AI agents: records, judges, replays and proves what they did.
#[derive(Debug, Parser)]
#[command(name = "bodycam", version, max_term_width = 110, disable_help_subcommand = true)]
#[command(
    after_help = "Example:\n  bodycam demo\n\nEvery subcommand has an example: bodycam SUBCOMMAND --help"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

#[cfg(feature = "gateway")]
/// Where the configuration is.
#[derive(Debug, Clone, Args)]
pub struct ConfigArg {
    /// The configuration file.
    #[arg(long, short, env = "BODYCAM_CONFIG", default_value = "bodycam.toml", global = false)]
    pub config: PathBuf,
}

#[cfg(feature = "reader")]
/// Where the lake is, and the key that opens its content.
#[derive(Debug, Clone, Args)]
pub struct LakeArg {
    /// The lake: a directory or `file://` URL. Without it, `[lake]` of the configuration file.
    #[arg(long, env = "BODYCAM_LAKE")]
    pub lake: Option<String>,
    /// Tenant key that opens names and content: `file:PATH` or `env:NAME`. Without it, `[gateway]` of the configuration file; `none` opens nothing.
    #[arg(long, env = "BODYCAM_TENANT_KEY_REF")]
    pub tenant_key: Option<String>,
    /// The configuration file, read only when `--lake` is not given.
    #[arg(long, short, env = "BODYCAM_CONFIG", default_value = "bodycam.toml")]
    pub config: PathBuf,
}

#[cfg(feature = "recorder")]
/// Where the lake is that is looked after.
#[derive(Debug, Clone, Args)]
pub struct LakeAdminArg {
    /// The lake: a directory or URL. Without it, `[lake]` of the configuration file.
    #[arg(long, env = "BODYCAM_LAKE")]
    pub lake: Option<String>,
    /// The configuration file: that of the recorder, whose key signs what is changed.
    #[arg(long, short, env = "BODYCAM_CONFIG", default_value = "bodycam.toml")]
    pub config: PathBuf,
}

/// Every subcommand.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[cfg(feature = "analyzer")]
    /// Show the whole pipeline on a throw-away PostgreSQL and a small local internet
    #[command(after_help = "Example:\n  bodycam demo --dir /tmp/bodycam-demo")]
    Demo {
        /// Where to put the demonstration's files; a new temporary directory without it.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Do not offer the replay at the end.
        #[arg(long)]
        no_replay: bool,
    },
    #[cfg(feature = "analyzer")]
    /// Run gateway, recorder and scheduled detection in one process
    #[command(after_help = "Example:\n  bodycam up --config bodycam.toml")]
    Up(ConfigArg),
    #[cfg(feature = "gateway")]
    /// Run only the gateway; events wait in the spool
    #[command(after_help = "Example:\n  bodycam gateway --config bodycam.toml")]
    Gateway(ConfigArg),
    #[cfg(feature = "recorder")]
    /// Run only the recorder: from the spool to the lake
    #[command(after_help = "Example:\n  bodycam recorder --config bodycam.toml")]
    Recorder(ConfigArg),
    #[cfg(feature = "analyzer")]
    /// Hunt exfiltration in the lake
    #[command(subcommand, after_help = "Example:\n  bodycam detect watch --config bodycam.toml")]
    Detect(Detect),
    #[cfg(feature = "analyzer")]
    /// Ask the lake in SQL (read-only)
    #[command(
        after_help = format!("Tables:\n{}\nExample:\n  bodycam query --lake lake \"SELECT target, count(*) FROM sessions GROUP BY 1\"", query_tables())
    )]
    Query {
        /// One SELECT.
        sql: String,
        /// How to print the rows.
        #[arg(long, value_enum, default_value_t = QueryFormat::Table)]
        format: QueryFormat,
        /// Write to this file instead of standard output (needed for parquet).
        #[arg(long, short)]
        output: Option<PathBuf>,
        /// Seconds after which the query is cancelled.
        #[arg(long, default_value_t = 300)]
        timeout: u64,
        /// Memory that the query may use, MiB.
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
        memory: u64,
        /// Run it on the cluster whose scheduler is here: `http://HOST:PORT`, or `https://` with `[cluster.tls]`.
        #[arg(long, value_name = "URL")]
        cluster: Option<String>,
        #[command(flatten)]
        lake: LakeArg,
    },
    #[cfg(feature = "analyzer")]
    /// Run a process of a cluster that `query --cluster` and `detect --cluster` ask
    #[command(subcommand, after_help = "Example:\n  bodycam cluster scheduler --config bodycam.toml")]
    Cluster(Cluster),
    #[cfg(feature = "reader")]
    /// Replay recorded sessions: in the terminal, or as text with `--format`
    #[command(
        after_help = "Examples:\n  bodycam replay --lake lake\n  bodycam replay 019a3f2c-7b21 --lake lake --format text --at +1:30"
    )]
    Replay {
        /// The session: its id, or the beginning of it; the list of sessions without it.
        session: Option<String>,
        /// Print instead of opening the terminal.
        #[arg(long, value_enum)]
        format: Option<ReplayFormat>,
        /// Start here: `+12:31`, `14:02:11`, `#812` or `50%`.
        #[arg(long)]
        at: Option<String>,
        /// Stop here, included (with `--format`).
        #[arg(long, requires = "format")]
        to: Option<String>,
        /// Rows of each result, and lines of each COPY, that the text shows; at most 100000.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=100_000))]
        rows: u32,
        #[command(flatten)]
        lake: LakeArg,
    },
    #[cfg(feature = "reader")]
    /// List and show sessions
    #[command(subcommand, after_help = "Example:\n  bodycam sessions ls --lake lake")]
    Sessions(Sessions),
    #[cfg(feature = "reader")]
    /// List and search events
    #[command(subcommand, after_help = "Example:\n  bodycam events grep customers --lake lake")]
    Events(Events),
    #[cfg(feature = "reader")]
    /// List findings
    #[command(subcommand, after_help = "Example:\n  bodycam findings ls --lake lake")]
    Findings(Findings),
    #[cfg(feature = "gateway")]
    /// List the people, agents and contractors of the configuration
    #[command(after_help = "Example:\n  bodycam principals")]
    Principals(ConfigArg),
    #[cfg(feature = "gateway")]
    /// Issue, list and revoke tokens
    #[command(subcommand, after_help = "Example:\n  bodycam token issue --principal etl-agent --ttl 30d")]
    Token(Token),
    #[cfg(feature = "reader")]
    /// Check the record without trusting who stored it
    #[command(
        after_help = "Exit codes: 0 verified and anchored, 1 could not run, 2 tampered, 3 incomplete but declared,\n4 consistent but not anchored outside, 5 something unsupported. Where several apply: the first of 1 2 5 3 4 0.\n\nExample:\n  bodycam verify --lake lake --json"
    )]
    Verify {
        /// Print the report as JSON.
        #[arg(long)]
        json: bool,
        /// Judge silence as of this time (RFC 3339 or Unix seconds): an open session or a producer without a STOP is incomplete after 15 s without a heartbeat.
        #[arg(long, value_name = "TIME")]
        as_of: Option<String>,
        /// Keys that you got from a second channel, one a line: `producer NAME KEY` or `recorder KEY`, the key as 64 hex digits.
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
        #[command(flatten)]
        lake: LakeArg,
    },
    #[cfg(feature = "recorder")]
    /// Look after the lake: what is in it, merge small files, remove what nobody needs
    #[command(subcommand, after_help = "Example:\n  bodycam lake stat --lake lake")]
    Lake(LakeCommand),
    #[cfg(feature = "reader")]
    /// Print the keys of the replay
    #[command(after_help = "Example:\n  bodycam keys")]
    Keys {
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
    },
    #[cfg(feature = "analyzer")]
    /// Check the set-up, and list target sessions that did not come through the gateway
    #[command(
        after_help = "Exit codes: 0 nothing failed (there may be warnings), 1 a check failed, 2 could not run.\n\nExample:\n  bodycam doctor --config bodycam.toml"
    )]
    Doctor {
        /// Admin listener of a further gateway before the same targets (`host:port` as numbers); repeatable.
        #[arg(long, value_name = "ADDRESS")]
        gateway: Vec<std::net::SocketAddr>,
        /// Print the report as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArg,
    },
    #[cfg(feature = "gateway")]
    /// Check or explain the configuration
    #[command(subcommand, after_help = "Example:\n  bodycam config check --config bodycam.toml")]
    Config(ConfigCommand),
}

#[cfg(feature = "analyzer")]
/// Every table that a query sees, with its meaning, one a line.
fn query_tables() -> String {
    let tables = bodycam_analyzer::engine::tables();
    tables.map(|(name, meaning)| format!("  {name:<20} {meaning}\n")).collect()
}

#[cfg(feature = "analyzer")]
/// How `query` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QueryFormat {
    Table,
    Csv,
    Json,
    Parquet,
}

/// How lists are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ListFormat {
    #[default]
    Table,
    Json,
    Jsonl,
    Csv,
}

#[cfg(feature = "reader")]
/// How `replay` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReplayFormat {
    /// For people.
    Text,
    /// One event a line.
    Jsonl,
}

#[cfg(feature = "analyzer")]
/// `detect …`
#[derive(Debug, Subcommand)]
pub enum Detect {
    /// Judge every window that is due, once
    #[command(after_help = "Example:\n  bodycam detect run --lake lake")]
    Run {
        /// Print findings as JSON lines.
        #[arg(long)]
        json: bool,
        /// Run its queries on the cluster whose scheduler is here: `http://HOST:PORT`, or `https://` with `[cluster.tls]`.
        #[arg(long, value_name = "URL")]
        cluster: Option<String>,
        #[command(flatten)]
        lake: LakeArg,
    },
    /// Judge windows as they become due, until stopped
    #[command(after_help = "Example:\n  bodycam detect watch --lake lake --json")]
    Watch {
        /// Print findings as JSON lines.
        #[arg(long)]
        json: bool,
        /// Run its queries on the cluster whose scheduler is here: `http://HOST:PORT`, or `https://` with `[cluster.tls]`.
        #[arg(long, value_name = "URL")]
        cluster: Option<String>,
        #[command(flatten)]
        lake: LakeArg,
    },
    /// Run the fixtures of the rules
    #[command(after_help = "Example:\n  bodycam detect test rules/")]
    Test {
        /// A directory of rules with fixtures; the built-in ones without it.
        dir: Option<PathBuf>,
    },
    /// List the rules
    #[command(after_help = "Example:\n  bodycam detect ls")]
    Ls {
        /// A directory of further rules.
        #[arg(long)]
        rules: Option<PathBuf>,
    },
}

#[cfg(feature = "analyzer")]
/// `cluster …`
#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Take queries, and hand out their parts
    #[command(after_help = "Example:\n  bodycam cluster scheduler --config bodycam.toml")]
    Scheduler(ConfigArg),
    /// Run parts of queries over the lake
    #[command(after_help = "Example:\n  bodycam cluster executor --config bodycam.toml")]
    Executor {
        /// Tenant key that opens content: `file:PATH` or `env:NAME`. Without it, `[gateway]` of the configuration file; `none` opens nothing.
        #[arg(long, env = "BODYCAM_TENANT_KEY_REF")]
        tenant_key: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
    },
}

#[cfg(feature = "reader")]
/// `sessions …`
#[derive(Debug, Subcommand)]
pub enum Sessions {
    /// List sessions, newest first
    #[command(after_help = "Example:\n  bodycam sessions ls --lake lake -f 'target:crm rows>1000'")]
    Ls {
        /// Keep what this filter matches.
        #[arg(long, short)]
        filter: Option<String>,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        /// Most rows.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        lake: LakeArg,
    },
    /// Show one session: who, what, how much, chain
    #[command(after_help = "Example:\n  bodycam sessions show 019a… --lake lake")]
    Show {
        /// The session: its id, or the beginning of it.
        session: String,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        #[command(flatten)]
        lake: LakeArg,
    },
}

#[cfg(feature = "reader")]
/// `events …`
#[derive(Debug, Subcommand)]
pub enum Events {
    /// List the events of a session
    #[command(after_help = "Example:\n  bodycam events ls 019a… --lake lake --format jsonl")]
    Ls {
        /// The session: its id, or the beginning of it.
        session: String,
        /// Keep what this filter matches.
        #[arg(long, short)]
        filter: Option<String>,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        /// Most rows.
        #[arg(long, default_value_t = 100_000)]
        limit: usize,
        #[command(flatten)]
        lake: LakeArg,
    },
    /// Search the texts of events: statements and their binds, URLs, errors, hosts, relations
    #[command(after_help = "Example:\n  bodycam events grep customers -f 'rows>100' --lake lake")]
    Grep {
        /// The text, without regard to case.
        pattern: String,
        /// Whether the pattern is a regular expression.
        #[arg(long)]
        regex: bool,
        /// Keep what this filter matches.
        #[arg(long, short)]
        filter: Option<String>,
        /// Only in this session.
        #[arg(long)]
        session: Option<String>,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        /// Most rows.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
        #[command(flatten)]
        lake: LakeArg,
    },
}

#[cfg(feature = "reader")]
/// `findings …`
#[derive(Debug, Subcommand)]
pub enum Findings {
    /// List findings, highest severity first, then newest
    #[command(after_help = "Example:\n  bodycam findings ls --lake lake --format json")]
    Ls {
        /// Keep what this filter matches.
        #[arg(long, short)]
        filter: Option<String>,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        /// Most rows.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
        #[command(flatten)]
        lake: LakeArg,
    },
}

#[cfg(feature = "recorder")]
/// `lake …`
#[derive(Debug, Subcommand)]
pub enum LakeCommand {
    /// Say what the lake holds: files, streams, commits, what waits to be deleted
    #[command(after_help = "Example:\n  bodycam lake stat --lake lake --by hour --table sql")]
    Stat {
        /// How finely files are counted.
        #[arg(long, value_enum, default_value_t)]
        by: By,
        /// Only files of this table.
        #[arg(long)]
        table: Option<String>,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        lake: LakeAdminArg,
    },
    /// Merge small files now; a recorder at work does so by itself
    #[command(
        after_help = "Files from 128 MiB on are left as they are. A recorder that is at work need not be stopped.\n\nExample:\n  bodycam lake compact --config bodycam.toml --hour 2026-11-21T10 --dry-run"
    )]
    Compact {
        /// Only files of this hour (UTC): `2026-11-21T10`.
        #[arg(long)]
        hour: Option<String>,
        /// Only files of this table.
        #[arg(long)]
        table: Option<String>,
        /// Say what would be merged, and merge nothing.
        #[arg(long)]
        dry_run: bool,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        lake: LakeAdminArg,
    },
    /// Say what nobody needs any more, and with `--remove` remove it; a recorder at work does so once a day
    #[command(
        after_help = "A replaced file goes when recorder.compact_grace_seconds have passed. A file that no commit names goes when\nit is old and the commit that it was written for can not be made any more.\n\nExample:\n  bodycam lake gc --config bodycam.toml --older-than 24h --remove"
    )]
    Gc {
        /// Age from which files that no commit names are removed: `90m`, `12h`, `30d`.
        #[arg(long, default_value = "24h")]
        older_than: String,
        /// Remove; without it nothing is removed.
        #[arg(long)]
        remove: bool,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        lake: LakeAdminArg,
    },
}

#[cfg(feature = "recorder")]
/// How finely `lake stat` counts files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum By {
    /// One line a table.
    Table,
    /// One line a table and day.
    #[default]
    Day,
    /// One line a table and hour.
    Hour,
}

#[cfg(feature = "gateway")]
/// `token …`
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Issue a token; it is printed once and stored nowhere
    #[command(after_help = "Example:\n  bodycam token issue --principal etl-agent --ttl 30d")]
    Issue {
        /// Name of the principal.
        #[arg(long)]
        principal: String,
        /// How long it lives: `90m`, `12h`, `30d`.
        #[arg(long)]
        ttl: String,
        /// What it is for.
        #[arg(long, default_value = "")]
        note: String,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// List tokens (never their secrets)
    #[command(after_help = "Example:\n  bodycam token ls --principal etl-agent")]
    Ls {
        /// Only those of this principal.
        #[arg(long)]
        principal: Option<String>,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Revoke a token: open sessions that use it are closed within a minute
    #[command(after_help = "Example:\n  bodycam token revoke k3v5q7xw2mzb4ahc")]
    Revoke {
        /// Id of the token, as `token ls` shows it.
        id: String,
        #[command(flatten)]
        config: ConfigArg,
    },
}

#[cfg(feature = "gateway")]
/// `config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read the configuration and say what is wrong with it; binds nothing
    #[command(after_help = "Example:\n  bodycam config check --config bodycam.toml")]
    Check(ConfigArg),
    #[cfg(feature = "analyzer")]
    /// Print the reference of every setting (docs/configuration.md)
    #[command(after_help = "Example:\n  bodycam config reference")]
    Reference,
}
