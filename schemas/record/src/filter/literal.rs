//! Literals: numbers with units, durations, moments, networks.

use std::fmt;
use std::net::IpAddr;

use super::Value;
use super::field::{Field, FieldType};

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;

/// A moment, as far as the text says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// A day, minute or second of the calendar (UTC): its first nanosecond and how long it is.
    At(i64, Precision),
    /// This long before now.
    Ago(i64),
    /// This long after the start of the session.
    Offset(i64),
}

/// How long a calendar moment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Day,
    Minute,
    Second,
}

impl Time {
    /// First nanosecond, and first nanosecond after it, given now and the start of the session.
    pub fn bounds(self, now_ns: i64, session_start_ns: i64) -> (i64, i64) {
        let (from, length) = match self {
            Time::At(ns, Precision::Day) => (ns, DAY),
            Time::At(ns, Precision::Minute) => (ns, 60 * SECOND),
            Time::At(ns, Precision::Second) => (ns, SECOND),
            Time::Ago(ns) => (now_ns.saturating_sub(ns), 1),
            Time::Offset(ns) => (session_start_ns.saturating_add(ns), 1),
        };
        (from, from.saturating_add(length))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Time::Ago(ns) => {
                f.write_str("-")?;
                write_duration(f, *ns)
            }
            Time::Offset(ns) => {
                f.write_str("+")?;
                write_duration(f, *ns)
            }
            Time::At(ns, precision) => {
                let (y, m, d) = civil(ns.div_euclid(DAY));
                let seconds = ns.rem_euclid(DAY) / SECOND;
                let (hh, mm, ss) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
                match precision {
                    Precision::Day => write!(f, "{y:04}-{m:02}-{d:02}"),
                    Precision::Minute => write!(f, "{y:04}-{m:02}-{d:02}T{hh:02}:{mm:02}"),
                    Precision::Second => write!(f, "{y:04}-{m:02}-{d:02}T{hh:02}:{mm:02}:{ss:02}"),
                }
            }
        }
    }
}

/// The value of `text` for `field`, or what would be right.
pub(super) fn value(field: Field, text: &str) -> Result<Value, String> {
    let expected = |what: &str| format!("'{}' is not {what}", crate::shown(text));
    match field.ty() {
        FieldType::Text => Ok(Value::Text(text.to_owned())),
        FieldType::Id => match text.chars().all(|c| c.is_ascii_hexdigit() || c == '-') && !text.is_empty() {
            true => Ok(Value::Text(text.to_ascii_lowercase())),
            false => Err(expected("an id (hex digits)")),
        },
        FieldType::Count => {
            scaled(text, COUNT_UNITS).map(Value::Number).ok_or_else(|| expected("a number, e.g. 10k"))
        }
        FieldType::Size => {
            scaled(text, SIZE_UNITS).map(Value::Number).ok_or_else(|| expected("a size, e.g. 5MiB"))
        }
        FieldType::Duration => {
            duration(text).map(Value::Duration).ok_or_else(|| expected("a duration, e.g. 250ms or 1h30m"))
        }
        FieldType::Time => time(text).map(Value::Time).ok_or_else(|| {
            expected(
                "a time, e.g. 2026-11-21, 2026-11-21T14:02, -2h (before now) or +12:30 (into the session)",
            )
        }),
        FieldType::Address => network(text).ok_or_else(|| expected("an address or network, e.g. 10.0.0.0/8")),
    }
}

/// The second end of a time range may leave out what it shares with the first: `2026-11-01..11-02`.
pub(super) fn complete_end(from: Option<&Value>, text: &str) -> Option<String> {
    let Some(Value::Time(Time::At(ns, _))) = from else { return None };
    let (y, m, d) = civil(ns.div_euclid(DAY));
    let parts: Vec<&str> = text.split('-').collect();
    match parts.as_slice() {
        [month, day] if month.len() == 2 && day.len() >= 2 => Some(format!("{y:04}-{text}")),
        [clock] if clock.contains(':') => Some(format!("{y:04}-{m:02}-{d:02}T{text}")),
        _ => None,
    }
}

/// A moment.
pub(super) fn time(text: &str) -> Option<Time> {
    if let Some(rest) = text.strip_prefix('-') {
        return duration(rest).map(Time::Ago);
    }
    if let Some(rest) = text.strip_prefix('+') {
        return clock_offset(rest).or_else(|| duration(rest)).map(Time::Offset);
    }
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, clock) = match text.split_once(['T', 't']) {
        Some((date, clock)) => (date, Some(clock)),
        None => (text, None),
    };
    let [y, m, d] = digits(date, '-', &[4, 2, 2])?;
    if !(1..=12).contains(&m) || !(1..=31).contains(&d) {
        return None;
    }
    let days = days_of(y, m, d);
    if civil(days) != (y, m, d) {
        return None;
    }
    let midnight = days.checked_mul(DAY)?;
    let Some(clock) = clock else { return Some(Time::At(midnight, Precision::Day)) };
    let (hh, mm, ss, precision) = match digits(clock, ':', &[2, 2, 2]) {
        Some([hh, mm, ss]) => (hh, mm, ss, Precision::Second),
        None => {
            let [hh, mm] = digits(clock, ':', &[2, 2])?;
            (hh, mm, 0, Precision::Minute)
        }
    };
    if hh > 23 || mm > 59 || ss > 59 {
        return None;
    }
    let ns = midnight.checked_add((hh * 3600 + mm * 60 + ss) * SECOND)?;
    Some(Time::At(ns, precision))
}

/// `[H:]MM:SS`, with a fraction of the second.
fn clock_offset(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = whole.split(':').map(|p| p.parse::<u32>().ok());
    let (a, b, c) = (parts.next()??, parts.next()??, parts.next());
    if parts.next().is_some() {
        return None;
    }
    let (hours, minutes, seconds) = match c {
        None => (0, a, b),
        Some(c) => (a, b, c?),
    };
    if seconds > 59 || (c.is_some() && minutes > 59) {
        return None;
    }
    let mut ns = (i64::from(hours) * 3600 + i64::from(minutes) * 60 + i64::from(seconds)) * SECOND;
    let mut unit = SECOND;
    for digit in fraction.chars() {
        unit /= 10;
        ns += i64::from(digit.to_digit(10)?) * unit;
    }
    Some(ns)
}

/// A sum of numbers with units, largest first or in any order: `1h30m`.
pub(super) fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0i64;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let (_, scale) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(decimal(number, *scale)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Writes a duration in the largest unit that divides it.
pub(super) fn write_duration(f: &mut fmt::Formatter<'_>, ns: i64) -> fmt::Result {
    let (unit, scale) =
        DURATION_UNITS.iter().find(|(_, scale)| ns != 0 && ns % scale == 0).unwrap_or(&("s", SECOND));
    write!(f, "{}{unit}", ns / scale)
}

/// Length of the prefix that means one address.
pub(super) fn full_prefix(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

const DURATION_UNITS: &[(&str, i64)] = &[
    ("d", DAY),
    ("h", 3600 * SECOND),
    ("m", 60 * SECOND),
    ("s", SECOND),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

const COUNT_UNITS: &[(&str, i64)] =
    &[("", 1), ("k", 1_000), ("K", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)];

const SIZE_UNITS: &[(&str, i64)] = &[
    ("", 1),
    ("B", 1),
    ("k", 1_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("M", 1_000_000),
    ("MB", 1_000_000),
    ("G", 1_000_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

fn scaled(text: &str, units: &[(&str, i64)]) -> Option<i64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    decimal(number, *scale)
}

/// `number × scale`, exact; none when it is not whole.
fn decimal(number: &str, scale: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') {
        return None;
    }
    let mut value = whole.parse::<i64>().ok()?.checked_mul(scale)?;
    let mut unit = scale;
    for digit in fraction.chars() {
        let digit = i64::from(digit.to_digit(10)?);
        if unit % 10 != 0 && digit != 0 {
            return None;
        }
        unit /= 10;
        value = value.checked_add(digit * unit)?;
    }
    Some(value)
}

fn network(text: &str) -> Option<Value> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?),
        None => {
            let address = text.parse::<IpAddr>().ok()?;
            (address, full_prefix(&address))
        }
    };
    (prefix <= full_prefix(&address)).then_some(Value::Network(address, prefix))
}

fn digits<const N: usize>(text: &str, between: char, widths: &[usize; N]) -> Option<[i64; N]> {
    let mut out = [0; N];
    let mut parts = text.split(between);
    for (slot, width) in out.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != *width || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

/// Days since 1970-01-01 of a day of the proleptic Gregorian calendar (Howard Hinnant's `days_from_civil`).
fn days_of(y: i64, m: i64, d: i64) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let day_of_year = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a day since 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}
