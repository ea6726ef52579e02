//! Every path in a lake, once. Names that come from outside (producers, streams, rules) are checked here
//! before they become part of a path, so that none can lead out of its folder.
//!
//! Times in paths are UTC hours of the event's wall clock.

use std::fmt;
use std::str::FromStr;

use bodycam_record::{Digest, PrincipalRef, SessionId};
use serde::{Deserialize, Serialize};

use crate::columns::Table;
use crate::error::LakeError;

/// Nanoseconds in an hour.
pub const HOUR_NS: i64 = 3_600_000_000_000;

/// Longest part of a stream name.
const MAX_PART: usize = 100;

/// A stream, the unit of order: `<producer>/<lane>` on a spool, `<topic>/<partition>` on Kafka, or one word for
/// the lake's own streams (`compaction`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamName(String);

/// An hour of event time, as hours since 1970-01-01T00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hour(pub i64);

impl StreamName {
    /// The lake's own stream of compaction commits.
    pub fn compaction() -> Self {
        StreamName("compaction".to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the last `/`: the producer of a spool stream.
    pub fn producer(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.0.as_str(), |(producer, _)| producer)
    }

    /// The part after the last `/`: the lane of a spool stream.
    pub fn lane(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(_, lane)| lane)
    }

    /// The name as one part of a path: `/` becomes `@`, which no name contains.
    pub fn in_path(&self) -> String {
        self.0.replace('/', "@")
    }
}

impl FromStr for StreamName {
    type Err = LakeError;
    fn from_str(name: &str) -> Result<Self, LakeError> {
        let parts = name.split('/').count();
        if parts <= 2 && name.split('/').all(is_safe_part) {
            return Ok(StreamName(name.to_owned()));
        }
        Err(LakeError::BadName {
            what: "stream",
            name: bodycam_record::shown(name),
            rule: "one or two parts joined by '/', each of at most 100 letters, digits, '.', '_' and '-', not starting with '.'",
        })
    }
}

impl TryFrom<String> for StreamName {
    type Error = LakeError;
    fn try_from(name: String) -> Result<Self, LakeError> {
        name.parse()
    }
}

impl From<StreamName> for String {
    fn from(name: StreamName) -> String {
        name.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a name can be one part of a path.
pub fn is_safe_part(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_PART
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Refuses a name that cannot be one part of a path.
pub fn safe_part<'a>(what: &'static str, name: &'a str) -> Result<&'a str, LakeError> {
    if is_safe_part(name) {
        return Ok(name);
    }
    Err(LakeError::BadName {
        what,
        name: bodycam_record::shown(name),
        rule: "at most 100 letters, digits, '.', '_' and '-', not starting with '.'",
    })
}

impl Hour {
    /// The hour of a wall time in Unix nanoseconds.
    pub fn of_ns(ts_wall_ns: i64) -> Self {
        Hour(ts_wall_ns.div_euclid(HOUR_NS))
    }

    /// The hour in which a session id was made: content rests in the hour of its session's opening, because a
    /// chunk travels before the event that it belongs to and knows no time of its own.
    pub fn of_session(session: SessionId) -> Self {
        let [a, b, c, d, e, f, ..] = session.0;
        let millis = i64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        Hour(millis.div_euclid(3_600_000))
    }

    /// First nanosecond; saturating at the ends of the clock.
    pub fn start_ns(self) -> i64 {
        self.0.saturating_mul(HOUR_NS)
    }

    /// `dt=YYYY-MM-DD/hh=HH`.
    pub fn partition(self) -> String {
        let (year, month, day) = civil(self.0.div_euclid(24));
        format!("dt={year:04}-{month:02}-{day:02}/hh={:02}", self.0.rem_euclid(24))
    }
}

/// Year, month and day of a number of days since 1970-01-01 (proleptic Gregorian).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// What a data file's name says about where it comes from.
#[derive(Debug, Clone, Copy)]
pub struct FileName<'a> {
    /// Stream of the commit.
    pub stream: &'a StreamName,
    /// Generation of the stream.
    pub generation: u64,
    /// First position of the commit.
    pub from: u64,
    /// Number of the file in the commit.
    pub n: usize,
    /// Chance bytes of the writing process, so that a leftover of a killed one is never written over or
    /// taken for a committed file.
    pub writer: u32,
}

impl fmt::Display for FileName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileName { stream, generation, from, n, writer } = self;
        write!(f, "{}-{generation}-{from}-{n}-{writer:08x}.parquet", stream.in_path())
    }
}

/// Which commit a data file was written for, as its name says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenFor {
    /// Stream of the commit.
    pub stream: StreamName,
    /// Generation of the stream.
    pub generation: u64,
    /// First position of the commit.
    pub from: u64,
}

impl WrittenFor {
    /// What the name at the end of `path` says; none when no recorder made it up.
    pub fn of(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next()?.strip_suffix(".parquet")?;
        let mut parts = name.rsplitn(5, '-');
        let (writer, n, from) = (parts.next()?, parts.next()?, parts.next()?);
        let (generation, stream) = (parts.next()?, parts.next()?);
        let from = from.parse().ok()?;
        let written_for = Self {
            stream: stream.replace('@', "/").parse().ok()?,
            generation: generation.parse().ok()?,
            from,
        };
        let writer = u32::from_str_radix(writer, 16).ok()?;
        let n = n.parse().ok()?;
        let again =
            FileName { stream: &written_for.stream, generation: written_for.generation, from, n, writer };
        (again.to_string().strip_suffix(".parquet") == Some(name)).then_some(written_for)
    }
}

/// The folder of a table.
pub fn table_dir(table: Table) -> String {
    match table {
        Table::Events(family) => format!("tables/{}", family.name()),
        Table::Content | Table::Sessions | Table::Templates | Table::Findings => table.name().to_owned(),
    }
}

/// A data file of a table; tables without hours take none.
pub fn data_file(table: Table, hour: Option<Hour>, name: FileName<'_>) -> String {
    match hour {
        Some(hour) => format!("{}/{}/{name}", table_dir(table), hour.partition()),
        None => format!("{}/{name}", table_dir(table)),
    }
}

/// The wrapped key of a session.
pub fn session_key(session: SessionId) -> String {
    format!("keys/{session}")
}

/// The wrapped name of a principal.
pub fn directory_entry(principal: PrincipalRef) -> String {
    format!("directory/{principal}")
}

/// The lock that a recorder holds, on a local disk.
pub const RECORDER_LOCK: &str = "recorder.lock";

/// The commit of a stream that starts at position `from`.
pub fn commit(stream: &StreamName, generation: u64, from: u64) -> String {
    format!("commits/{}/{generation}/{from}.json", stream.in_path())
}

/// The folder of a stream's commits.
pub fn commits(stream: &StreamName, generation: u64) -> String {
    format!("commits/{}/{generation}", stream.in_path())
}

/// The `n`th entry of the list of streams.
pub fn stream(n: u64) -> String {
    format!("streams/{n}.json")
}

/// The folder of snapshots.
pub const SNAPSHOTS: &str = "snapshots";

/// The `n`th snapshot.
pub fn snapshot(n: u64) -> String {
    format!("snapshots/{n}.json")
}

/// The hint that says which snapshot is the newest.
pub const SNAPSHOT_HINT: &str = "snapshots/newest.json";

/// Folder of the hints which streams have moved.
pub const RECENT: &str = "recent";

/// The hint of a writer.
pub fn recent(writer: &str) -> Result<String, LakeError> {
    Ok(format!("{RECENT}/{}.json", safe_part("writer", writer)?))
}

/// The record of the `n`th evaluation of a rule's window.
pub fn window(rule: &str, major: u64, window_start_ns: i64, n: u64) -> Result<String, LakeError> {
    let rule = safe_part("rule", rule)?;
    Ok(format!("windows/{rule}/{major}/{window_start_ns}/{n}.json"))
}

/// A findings file that a window record names. The digest of its content is in the name, so that an evaluation
/// that was killed before its record leaves nothing that a later one would write over.
pub fn window_findings(
    rule: &str,
    major: u64,
    window_start_ns: i64,
    n: u64,
    sha256: Digest,
) -> Result<String, LakeError> {
    let rule = safe_part("rule", rule)?;
    let digest = sha256.to_hex();
    let digest = digest.get(..16).unwrap_or_default();
    // A minus sign would read as one more separator, and times before 1970 have one.
    let start = window_start_ns.to_string().replace('-', "m");
    Ok(format!("findings/{rule}-{major}-{start}-{n}-{digest}.parquet"))
}

/// The `k`th entry of the list of window records.
pub fn window_index(k: u64) -> String {
    format!("windows/index/{k}.json")
}

/// A state object (rollups, first-seen) of a rule or job.
pub fn state(name: &str) -> Result<String, LakeError> {
    Ok(format!("state/{}", safe_part("state object", name)?))
}

/// Whether a path that a commit names lies where files of its table belong.
pub fn belongs(table: Table, path: &str) -> bool {
    path.strip_prefix(table_dir(table).as_str()).and_then(|rest| rest.strip_prefix('/')).is_some_and(|rest| {
        rest.ends_with(".parquet")
            && rest.len() <= 512
            && rest.split('/').all(|part| {
                !part.is_empty()
                    && !part.starts_with('.')
                    && part
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@' | b'='))
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodycam_record::Family;

    #[test]
    fn an_hour_has_its_calendar_name() {
        for (ns, expected) in [
            (0, "dt=1970-01-01/hh=00"),
            (-1, "dt=1969-12-31/hh=23"),
            (951_782_400_000_000_000, "dt=2000-02-29/hh=00"),
            (1_795_305_599_999_999_999, "dt=2026-11-21/hh=23"),
            (1_772_323_200_000_000_000, "dt=2026-03-01/hh=00"),
            (i64::MAX, "dt=2262-04-11/hh=23"),
            (i64::MIN, "dt=1677-09-21/hh=00"),
        ] {
            assert_eq!(Hour::of_ns(ns).partition(), expected, "{ns}");
        }
    }

    #[test]
    fn content_rests_in_the_hour_of_its_sessions_opening() {
        let session = SessionId::new(1_795_305_599_999, [7; 10]);
        assert_eq!(Hour::of_session(session).partition(), "dt=2026-11-21/hh=23");
        assert!(Hour::of_session(SessionId([0xff; 16])).partition().starts_with("dt=10889-"));
    }

    #[test]
    fn no_stream_name_leads_out_of_its_folder() {
        for bad in
            ["", "/", "a/", "/a", "a//b", "..", "../x", "a/..", "a/.b", "a@b", "a/b/c", "a b", "a\0", "ä"]
        {
            assert!(bad.parse::<StreamName>().is_err(), "{bad}");
        }
        let long = "x".repeat(101);
        assert!(long.parse::<StreamName>().is_err());
        let good: StreamName = "gw-1.eu/ledger".parse().unwrap();
        assert_eq!((good.producer(), good.lane()), ("gw-1.eu", "ledger"));
        assert_eq!(commit(&good, 2, 30), "commits/gw-1.eu@ledger/2/30.json");
        assert_ne!(
            "a/b".parse::<StreamName>().unwrap().in_path(),
            "a.b".parse::<StreamName>().unwrap().in_path()
        );
    }

    #[test]
    fn a_files_name_says_for_which_commit_it_was_written() {
        for stream in ["gw/0", "eu-1.gw-2/ledger", "compaction"] {
            let stream: StreamName = stream.parse().unwrap();
            let name = FileName { stream: &stream, generation: 3, from: 120, n: 7, writer: 0xbeef };
            let path = data_file(Table::Events(Family::Sql), Some(Hour(0)), name);
            assert_eq!(WrittenFor::of(&path), Some(WrittenFor { stream, generation: 3, from: 120 }));
        }
        let findings = window_findings("BCR-EXF-001", 1, 0, 2, Digest([0x11; 32])).unwrap();
        for other in [
            &findings,
            "a.parquet",
            "gw@0-0-1-2-beef.parquet",
            "gw@0-0-1-x-0000beef.parquet",
            "gw@0-0-1-2-0000beef",
        ] {
            assert_eq!(WrittenFor::of(other), None, "{other}");
        }
    }

    #[test]
    fn a_path_in_a_commit_must_lie_in_its_tables_folder() {
        let sql = Table::Events(Family::Sql);
        let name = FileName { stream: &"gw/0".parse().unwrap(), generation: 0, from: 5, n: 1, writer: 0xabc };
        let path = data_file(sql, Some(Hour(0)), name);
        assert_eq!(path, "tables/sql/dt=1970-01-01/hh=00/gw@0-0-5-1-00000abc.parquet");
        assert!(belongs(sql, &path));
        for bad in [
            "tables/session/dt=1970-01-01/hh=00/a.parquet",
            "tables/sql/../http/a.parquet",
            "tables/sql/a.json",
            "tables/sql//a.parquet",
            "/tables/sql/a.parquet",
            "tables/sqla.parquet",
            "tables/sql/.hidden.parquet",
        ] {
            assert!(!belongs(sql, bad), "{bad}");
        }
    }
}
