//! `findings ls`.

use std::io::Write;

use bodycam_record::filter::Field;
use serde_json::json;

use super::{Column, ListOptions, Outcome, print};
use crate::error::ReplayError;
use crate::matcher::{Cell, Matcher, Row};
use crate::shown::Shown;
use crate::source::{Finding, Source};
use crate::units;

/// The fields that a filter can ask of findings.
pub(crate) const FIELDS: &[Field] =
    &[Field::Finding, Field::Severity, Field::Principal, Field::Target, Field::Session, Field::At];

impl Row for Finding {
    fn cell(&self, field: Field) -> Cell<'_> {
        match field {
            Field::Finding => Cell::text(&self.row.rule),
            Field::Severity => Cell::text(&self.row.severity),
            Field::Principal => match self.row.principal_ref {
                None => Cell::Absent,
                Some(reference) => {
                    let name = self.principal.as_deref().map(std::borrow::Cow::Borrowed);
                    Cell::Text(std::iter::once(reference.to_hex().into()).chain(name).collect())
                }
            },
            Field::Target => Cell::optional(self.row.target.as_deref()),
            Field::Session => Cell::list(&self.row.session_ids),
            Field::At => Cell::Int(self.row.window_start_ns),
            _ => Cell::Absent,
        }
    }

    fn words(&self) -> Vec<std::borrow::Cow<'_, str>> {
        let mut words: Vec<std::borrow::Cow<'_, str>> = vec![
            self.row.rule.as_str().into(),
            self.row.severity.as_str().into(),
            self.row.text.as_str().into(),
        ];
        words.extend(self.principal.as_deref().map(std::borrow::Cow::Borrowed));
        words.extend(self.row.target.as_deref().map(std::borrow::Cow::Borrowed));
        words
    }

    fn session_start_ns(&self) -> i64 {
        self.row.window_start_ns
    }
}

fn columns() -> [Column<Finding>; 12] {
    [
        Column::left("severity", |f| Shown::of(&f.row.severity), |f| json!(f.row.severity)),
        Column::left("rule", |f| Shown::of(&f.row.rule), |f| json!(f.row.rule)),
        Column::left(
            "window",
            |f| Shown::of(&units::moment(f.row.window_start_ns)),
            |f| json!([units::instant(f.row.window_start_ns), units::instant(f.row.window_end_ns)]),
        ),
        Column::left("principal", Finding::who, |f| match &f.principal {
            Some(name) => json!(&**name),
            None => json!(f.row.principal_ref),
        }),
        Column::left("target", |f| Shown::of(f.row.target.as_deref().unwrap_or("")), |f| json!(f.row.target)),
        Column::right("measure", |f| number(f.row.measure), |f| json!(f.row.measure)),
        Column::right("threshold", |f| number(f.row.threshold), |f| json!(f.row.threshold)),
        Column::right(
            "evidence",
            |f| Shown::of(&f.evidence.len().to_string()),
            |f| json!(f.evidence.iter().map(|(session, seq)| format!("{session}#{seq}")).collect::<Vec<_>>()),
        ),
        Column::left(
            "final",
            |f| Shown::of(if f.row.is_final { "yes" } else { "no" }),
            |f| json!(f.row.is_final),
        ),
        Column::left(
            "id",
            |f| Shown::of(f.row.id.to_hex().get(..12).unwrap_or_default()),
            |f| json!(f.row.id),
        ),
        Column::left(
            "session",
            |f| Shown::of(f.row.session_ids.first().map_or("", String::as_str)),
            |f| json!(f.row.session_ids),
        ),
        Column::left("text", |f| Shown::of(&f.row.text), |f| json!(f.row.text)),
    ]
}

fn number(n: Option<i64>) -> Shown {
    Shown::of(&n.map(units::count).unwrap_or_default())
}

/// Prints the findings that pass the filter, highest severity first and then newest window.
pub fn findings(
    source: &dyn Source,
    options: &ListOptions,
    out: &mut dyn Write,
) -> Result<Outcome, ReplayError> {
    let known = Some((FIELDS, "findings"));
    let matcher = Matcher::new(&options.filter, &options.saved, options.now_ns, known)?;
    let mut found = source.findings()?;
    found.retain(|f| matcher.matches(f));
    let total = found.len();
    found.truncate(options.limit);
    print(out, options.format, &columns(), &found, total)
}
