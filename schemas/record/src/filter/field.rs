//! The fields that a filter can test: what the record has, and nothing else.

/// The type of a field's literals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldType {
    /// Text, compared without regard to case.
    Text,
    /// Hex digits (and hyphens).
    Id,
    /// A whole number: `10k`.
    Count,
    /// Bytes: `5MiB`.
    Size,
    /// `250ms`, `1h30m`.
    Duration,
    /// `2026-11-21`, `2026-11-21T14:02`, `-2h` (before now), `+12:30` (after the session's start).
    Time,
    /// An address or a network.
    Address,
}

/// What a filter can say about a field.
#[derive(Debug)]
pub struct FieldInfo {
    /// The field.
    pub field: Field,
    /// Its name.
    pub name: &'static str,
    /// Other names that mean the same.
    pub aliases: &'static [&'static str],
    /// Type of its literals.
    pub ty: FieldType,
    /// Meaning.
    pub doc: &'static str,
}

macro_rules! fields {
    ($($(#[doc = $doc:literal])* $variant:ident $name:literal [$($alias:literal),*] $ty:ident;)*) => {
        /// A field.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Field { $($(#[doc = $doc])* $variant),* }

        /// Every field, in the order of the documentation.
        pub const FIELDS: &[FieldInfo] = &[$(FieldInfo {
            field: Field::$variant,
            name: $name,
            aliases: &[$($alias),*],
            ty: FieldType::$ty,
            doc: concat!($($doc),*),
        }),*];

        impl Field {
            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Field::$variant => $name),* }
            }

            /// Type of its literals.
            pub fn ty(self) -> FieldType {
                match self { $(Field::$variant => FieldType::$ty),* }
            }

            /// The field of a name or an alias, in any case.
            pub fn named(name: &str) -> Option<Field> {
                match name.to_ascii_lowercase().as_str() {
                    $($name $(| $alias)* => Some(Field::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

fields! {
    /// Name of the principal where the directory opens, and its pseudonym.
    Principal "principal" ["actor", "user", "agent"] Text;
    /// Name of the target in the configuration.
    Target "target" [] Text;
    /// Wire protocol: `postgres` or `http`.
    Proto "proto" ["protocol"] Text;
    /// Database at the target.
    Database "database" ["db"] Text;
    /// The session's id.
    Session "session" [] Id;
    /// Correlation id under the tenant key, 32 hex digits.
    Correlation "correlation" [] Id;
    /// State of the session: `open`, `sealed`, `crashed`.
    State "state" [] Text;
    /// Kind of the event, e.g. `sql.statement`.
    Kind "kind" [] Text;
    /// `allow` or `deny`.
    Verdict "verdict" [] Text;
    /// Why something was refused or ended.
    Reason "reason" [] Text;
    /// Kind of the statement: `select`, `update`, `ddl`, …
    Statement "statement" [] Text;
    /// Text of the statement.
    Sql "sql" ["cmd"] Text;
    /// Relations that the statement reads or writes.
    Table "table" ["relation"] Text;
    /// Plain output columns of the statement.
    Column "column" [] Text;
    /// How it ended: `complete`, `error`, `cut`, `client-closed`, …
    Outcome "outcome" [] Text;
    /// SQLSTATE of the error.
    Sqlstate "sqlstate" ["code"] Text;
    /// Destination host.
    Host "host" ["sni"] Text;
    /// URL of the request.
    Url "url" [] Text;
    /// Method of the request.
    Method "method" [] Text;
    /// Status code of the response.
    Status "status" [] Count;
    /// Address that was connected to.
    Address "address" ["ip"] Address;
    /// Result rows sent to the client.
    Rows "rows" [] Count;
    /// Bytes to the client; from the client to the target for HTTP.
    Bytes "bytes" [] Size;
    /// Duration of the statement, request, tunnel or session.
    Dur "dur" ["latency", "duration"] Duration;
    /// Number of the event in its session.
    Seq "seq" [] Count;
    /// Events in the session.
    Events "events" [] Count;
    /// Refusals in the session.
    Denies "denies" [] Count;
    /// Errors in the session.
    Errors "errors" [] Count;
    /// Rules of the findings that name the session or the event as evidence.
    Finding "finding" ["rule"] Text;
    /// Severity of those findings.
    Severity "severity" [] Text;
    /// When it happened; when the session started.
    At "at" ["ts", "time"] Time;
}

/// The field whose name or alias is nearest to a misspelt one.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    FIELDS
        .iter()
        .flat_map(|f| std::iter::once(f.name).chain(f.aliases.iter().copied()))
        .map(|known| (distance(&name, known), known))
        .filter(|(d, known)| *d <= 2 && *d < known.len())
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (cb, above) in b.iter().zip(row.iter().skip(1)) {
            let cell = (diagonal + usize::from(ca != *cb)).min(left + 1).min(above + 1);
            diagonal = *above;
            left = cell;
            next.push(cell);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
