//! PostgreSQL values for the eye: text format as it is, binary format decoded where the type is a common one,
//! else as hex. <https://www.postgresql.org/docs/current/catalog-pg-type.html>

use bodycam_record::content::structured::Bind;

use crate::shown::Shown;

/// Longest value that is shown, in bytes; the raw view shows the rest.
pub const VALUE_LIMIT: usize = 1024;

const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const TEXT: [u32; 7] = [25, 18, 19, 114, 1042, 1043, 2950];
const OID: u32 = 26;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const DATE: u32 = 1082;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const NUMERIC: u32 = 1700;
const UUID: u32 = 2950;
const JSONB: u32 = 3802;
/// 2000-01-01 in Unix seconds: PostgreSQL's epoch.
const EPOCH: i64 = 946_684_800;

/// A cell; `NULL` for none.
pub fn cell(value: Option<&[u8]>, type_oid: u32, format: i64) -> Shown {
    match value {
        None => Shown::of("NULL"),
        Some(bytes) if format == 1 => binary(bytes, type_oid),
        Some(bytes) => Shown::bytes_limit(bytes, VALUE_LIMIT),
    }
}

/// A bind parameter as one would write it: numbers bare, everything else quoted.
pub fn bind(bind: &Bind) -> Shown {
    let type_oid = u32::try_from(bind.type_oid).unwrap_or(0);
    let Some(bytes) = bind.value.as_deref() else { return Shown::of("NULL") };
    let text = cell(Some(bytes), type_oid, bind.format);
    let is_number = !text.is_empty()
        && text.as_str().chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | '.'))
        && matches!(type_oid, INT2 | INT4 | INT8 | OID | FLOAT4 | FLOAT8 | NUMERIC);
    match is_number || text.as_str().starts_with("\\x") {
        true => text,
        false => Shown::of(&format!("'{text}'")),
    }
}

/// Whether values of a type stand at the right of their column.
pub fn is_numeric(type_oid: u32) -> bool {
    matches!(type_oid, INT2 | INT4 | INT8 | OID | FLOAT4 | FLOAT8 | NUMERIC)
}

fn binary(bytes: &[u8], type_oid: u32) -> Shown {
    decode(bytes, type_oid).unwrap_or_else(|| hex(bytes))
}

fn decode(bytes: &[u8], type_oid: u32) -> Option<Shown> {
    let text = match type_oid {
        BOOL => match bytes {
            [0] => "f".to_owned(),
            [1] => "t".to_owned(),
            _ => return None,
        },
        INT2 => i16::from_be_bytes(bytes.try_into().ok()?).to_string(),
        INT4 => i32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        INT8 => i64::from_be_bytes(bytes.try_into().ok()?).to_string(),
        OID => u32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        FLOAT4 => f32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        FLOAT8 => f64::from_be_bytes(bytes.try_into().ok()?).to_string(),
        DATE => {
            let days = i64::from(i32::from_be_bytes(bytes.try_into().ok()?));
            let seconds = days.checked_mul(86_400)?.checked_add(EPOCH)?;
            let at = jiff::Timestamp::from_second(seconds).ok()?;
            at.strftime("%Y-%m-%d").to_string()
        }
        TIMESTAMP | TIMESTAMPTZ => {
            let micros = i64::from_be_bytes(bytes.try_into().ok()?);
            let at = jiff::Timestamp::from_microsecond(micros.checked_add(EPOCH * 1_000_000)?).ok()?;
            let zone = if type_oid == TIMESTAMPTZ { "+00" } else { "" };
            format!("{}{zone}", at.strftime("%Y-%m-%d %H:%M:%S%.f"))
        }
        NUMERIC => numeric(bytes)?,
        UUID => bodycam_record::SessionId::try_from(bytes).ok()?.to_string(),
        BYTEA => return Some(hex(bytes)),
        JSONB => {
            let (version, text) = bytes.split_first()?;
            return (*version == 1).then(|| Shown::bytes_limit(text, VALUE_LIMIT));
        }
        _ if TEXT.contains(&type_oid) => return Some(Shown::bytes_limit(bytes, VALUE_LIMIT)),
        // An unknown type that reads as text most probably is text (enums, domains, citext).
        _ => {
            let text = std::str::from_utf8(bytes).ok()?;
            let readable = !text.is_empty() && !text.chars().any(bodycam_record::shown::is_hostile);
            return readable.then(|| Shown::bytes_limit(bytes, VALUE_LIMIT));
        }
    };
    Some(Shown::of(&text))
}

/// `numeric_recv`: digits of base 10,000 with a weight, a sign and a display scale.
fn numeric(bytes: &[u8]) -> Option<String> {
    let mut words = bytes.chunks(2).map(|w| Some(i16::from_be_bytes(w.try_into().ok()?)));
    let (count, weight, sign, scale) = (words.next()??, words.next()??, words.next()??, words.next()??);
    let digits: Vec<i16> = words.collect::<Option<_>>()?;
    if digits.len() != usize::try_from(count).ok()? || digits.iter().any(|d| !(0..10_000).contains(d)) {
        return None;
    }
    let sign = match sign.cast_unsigned() {
        0 => "",
        0x4000 => "-",
        0xC000 => return Some("NaN".to_owned()),
        0xD000 => return Some("Infinity".to_owned()),
        0xF000 => return Some("-Infinity".to_owned()),
        _ => return None,
    };
    if !(-256..=256).contains(&weight) || !(0..=2048).contains(&scale) {
        return None;
    }
    let digit = |position: i32| {
        let index = usize::try_from(i32::from(weight) - position).ok();
        index.and_then(|i| digits.get(i)).copied().unwrap_or(0)
    };
    let mut whole = String::new();
    for position in (0..=i32::from(weight).max(0)).rev() {
        whole.push_str(&format!("{:04}", digit(position)));
    }
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let scale = usize::try_from(scale).ok()?;
    let mut fraction = String::new();
    let mut position = -1;
    while fraction.len() < scale {
        fraction.push_str(&format!("{:04}", digit(position)));
        position -= 1;
    }
    fraction.truncate(scale);
    let point = if scale > 0 { "." } else { "" };
    Some(format!("{sign}{whole}{point}{fraction}"))
}

fn hex(bytes: &[u8]) -> Shown {
    let head = bytes.get(..VALUE_LIMIT / 2).unwrap_or(bytes);
    let more = bytes.len() - head.len();
    let note = if more > 0 { format!("… ({more} more bytes)") } else { String::new() };
    Shown::of(&format!("\\x{}{note}", bodycam_record::ids::to_hex(head)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_values_read_as_the_server_would_print_them() {
        // The well-formed ones come from PostgreSQL 15: `SELECT encode(<type>_send(x), 'hex'), x::text`.
        for (oid, bytes, text) in [
            (INT4, "fffffff9", "-7"),
            (INT8, "00000000000003e8", "1000"),
            (BOOL, "01", "t"),
            (FLOAT8, "3ff8000000000000", "1.5"),
            (DATE, "0000265d", "2026-11-21"),
            (TIMESTAMP, "000303c53918cfe0", "2026-11-21 10:02:11.5"),
            (TIMESTAMPTZ, "000303c53918cfe0", "2026-11-21 10:02:11.5+00"),
            (NUMERIC, "00030001000000020001092904b0", "12345.12"),
            (NUMERIC, "0001ffff0000000400c8", "0.0200"),
            (NUMERIC, "0000000000000000", "0"),
            (NUMERIC, "0000000000000002", "0.00"),
            (NUMERIC, "00000000d0000020", "Infinity"),
            (NUMERIC, "0001000040000000002a", "-42"),
            (NUMERIC, "0001000200000000000c", "1200000000"),
            (NUMERIC, "00000000c0000000", "NaN"),
            (UUID, "00112233445566778899aabbccddeeff", "00112233-4455-6677-8899-aabbccddeeff"),
            (JSONB, "017b7d", "{}"),
            (25, "c3a9", "é"),
            (BYTEA, "00ff", "\\x00ff"),
            (99_999, "6f6b", "ok"),
            (99_999, "6f1b", "\\x6f1b"),
            (INT4, "00", "\\x00"),
        ] {
            let raw = unhex(bytes);
            assert_eq!(cell(Some(&raw), oid, 1).as_str(), text, "{oid} {bytes}");
        }
    }

    #[test]
    fn binds_are_quoted_unless_they_are_numbers() {
        let of = |type_oid: i64, format, value: Option<&[u8]>| {
            bind(&Bind { type_oid, format, value: value.map(<[u8]>::to_vec) }).to_string()
        };
        assert_eq!(of(23, 0, Some(b"42")), "42");
        assert_eq!(of(23, 1, Some(&[0, 0, 0, 42])), "42");
        assert_eq!(of(0, 0, Some(b"42")), "'42'");
        assert_eq!(of(25, 0, Some(b"EU\x1b")), "'EU\\x1b'");
        assert_eq!(of(25, 0, None), "NULL");
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }
}
