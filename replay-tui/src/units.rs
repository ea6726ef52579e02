//! Numbers, sizes, durations and times as people read them.

use jiff::Timestamp;

const SECOND: i64 = 1_000_000_000;

/// `1 234 567` with thin grouping: `1,234,567`.
pub fn count(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if n < 0 { format!("-{out}") } else { out }
}

/// A count in at most five columns: `999`, `12.3k`, `4.5M`.
pub fn short_count(n: i64) -> String {
    scaled(n, 1000, &["", "k", "M", "G", "T", "P", "E"])
}

/// A size in bytes: `512 B`, `1.5 KiB`, `20 MiB`.
pub fn size(n: i64) -> String {
    scaled(n, 1024, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

fn scaled(n: i64, base: u64, units: &[&str]) -> String {
    let sign = if n < 0 { "-" } else { "" };
    let mut value = n.unsigned_abs();
    let mut rest = 0;
    let mut unit = units.first().copied().unwrap_or_default();
    for next in units.iter().skip(1) {
        if value < base {
            break;
        }
        rest = value % base;
        value /= base;
        unit = next;
    }
    let tenths = rest * 10 / base;
    match value < 100 && unit != units.first().copied().unwrap_or_default() && tenths > 0 {
        true => format!("{sign}{value}.{tenths}{unit}"),
        false => format!("{sign}{value}{unit}"),
    }
}

/// A duration of microseconds: `850 µs` as `0.85 ms`, `12.4 ms`, `3.20 s`, `4m 05s`.
pub fn micros(us: i64) -> String {
    duration(us.saturating_mul(1000))
}

/// A duration of nanoseconds: `0.85 ms`, `12.4 ms`, `3.20 s`, `4m 05s`, `2h 03m`.
pub fn duration(ns: i64) -> String {
    let ns = ns.max(0);
    match ns {
        0..100_000_000 => format!("{}.{:02} ms", ns / 1_000_000, ns % 1_000_000 / 10_000),
        100_000_000..60_000_000_000 => format!("{}.{:02} s", ns / SECOND, ns % SECOND / 10_000_000),
        _ => {
            let seconds = ns / SECOND;
            match seconds / 3600 {
                0 => format!("{}m {:02}s", seconds / 60, seconds % 60),
                1..24 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
                _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24),
            }
        }
    }
}

/// A position in a session: `00:12:31.204`.
pub fn position(ns: i64) -> String {
    let ms = ns.max(0) / 1_000_000;
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

/// A position to the millisecond, as short as it can be: `+12:31.204`, `+2:12:31.204`.
pub fn offset(ns: i64) -> String {
    let ms = ns.max(0) / 1_000_000;
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    match hours {
        0 => format!("+{minutes:02}:{seconds:02}.{:03}", ms % 1000),
        _ => format!("+{hours}:{minutes:02}:{seconds:02}.{:03}", ms % 1000),
    }
}

/// A moment in UTC: `2026-11-21 14:02:11`.
pub fn moment(unix_ns: i64) -> String {
    strftime(unix_ns, "%Y-%m-%d %H:%M:%S")
}

/// A moment in UTC, to the millisecond and with its zone: `2026-11-21T14:02:11.204Z`.
pub fn instant(unix_ns: i64) -> String {
    strftime(unix_ns, "%Y-%m-%dT%H:%M:%S%.3fZ")
}

/// The time of day in UTC: `14:02:11.204`.
pub fn clock(unix_ns: i64) -> String {
    strftime(unix_ns, "%H:%M:%S%.3f")
}

/// How long before `now_ns`: `12s ago`, `5m ago`, `3h ago`, `2d ago`.
pub fn ago(unix_ns: i64, now_ns: i64) -> String {
    let seconds = now_ns.saturating_sub(unix_ns).max(0) / SECOND;
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// `1 row`, `2 rows`.
pub fn plural(n: i64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

fn strftime(unix_ns: i64, format: &str) -> String {
    match Timestamp::from_nanosecond(i128::from(unix_ns)) {
        Ok(at) => at.strftime(format).to_string(),
        Err(_) => format!("{unix_ns} ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(
            [count(0), count(999), count(48_200), count(-1_234_567)],
            ["0", "999", "48,200", "-1,234,567"]
        );
        assert_eq!([short_count(999), short_count(1500), short_count(48_200)], ["999", "1.5k", "48.2k"]);
        assert_eq!(
            [size(0), size(1536), size(6 << 20), size(i64::MAX)],
            ["0 B", "1.5 KiB", "6 MiB", "7.9 EiB"]
        );
        assert_eq!(short_count(i64::MIN).chars().next(), Some('-'));
    }

    #[test]
    fn times_read_as_people_write_them() {
        assert_eq!(micros(850), "0.85 ms");
        assert_eq!(duration(3_204_000_000), "3.20 s");
        assert_eq!(duration(245 * SECOND), "4m 05s");
        assert_eq!(duration(7_380 * SECOND), "2h 03m");
        assert_eq!(position(751_204_000_000), "00:12:31.204");
        assert_eq!(offset(751_204_000_000), "+12:31.204");
        assert_eq!(offset(4_351_900_000_000), "+1:12:31.900");
        assert_eq!(moment(1_795_255_200_000_000_000), "2026-11-21 10:00:00");
        assert_eq!(instant(1_795_255_200_123_456_789), "2026-11-21T10:00:00.123Z");
        assert_eq!(moment(i64::MIN).len(), moment(i64::MAX).len());
        assert_eq!(ago(0, 7_300 * SECOND), "2h ago");
    }
}
