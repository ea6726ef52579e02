//! The generated tables of `docs/event-format.md`: hash contexts, kinds with their fields, content kinds.

use std::fmt::Write as _;

use bodycam_record::ContentKind;
use bodycam_record::digest::CONTEXTS;
use bodycam_record::kinds::{Family, TABLES};

use super::{is_current, root};

#[test]
fn generated_docs_are_current() {
    let path = root().join("docs/event-format.md");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (name, section) in [("contexts", contexts()), ("kinds", kinds()), ("content-kinds", content_kinds())]
    {
        text = with_section(&text, name, &section);
    }
    is_current(&path, &text, "make docs");
}

/// `text` with the part between the two marks of `name` replaced.
fn with_section(text: &str, name: &str, section: &str) -> String {
    let (open, close) = (format!("<!-- generated: {name} -->\n"), format!("<!-- end of {name} -->\n"));
    let start = text.find(&open).unwrap_or_else(|| panic!("no mark {open}")) + open.len();
    let end = text.find(&close).unwrap_or_else(|| panic!("no mark {close}"));
    format!("{}{section}{}", &text[..start], &text[end..])
}

/// A doc comment as a table cell: its first space gone, references to Rust items in plain code style.
fn cell(doc: &str) -> String {
    doc.trim().replace("[`", "`").replace("`]", "`").replace('|', "\\|").replace("structured::", "")
}

fn contexts() -> String {
    let mut out = "\n| Name | Context string | Digest of |\n|---|---|---|\n".to_owned();
    for (name, string, doc) in CONTEXTS {
        writeln!(out, "| {name} | `{string}` | {} |", cell(doc)).unwrap();
    }
    out.push_str("| body | `bodycam 2026-11-21 body <kind name> v<kind version>` | The body of an event or ledger record of that kind. |\n\n");
    out
}

fn kinds() -> String {
    let mut out = String::new();
    for family in Family::EVENTS.into_iter().chain([Family::Ledger]) {
        for table in TABLES.iter().filter(|t| t.family == family) {
            write!(
                out,
                "\n#### {} `{}` version {} (table `{}`)\n\n{}\n\n",
                table.code,
                table.name,
                table.version,
                family.name(),
                cell(table.doc)
            )
            .unwrap();
            out.push_str("| # | Field | Type | Meaning |\n|---|---|---|---|\n");
            for (i, field) in table.fields.iter().enumerate() {
                let optional = if field.optional { ", optional" } else { "" };
                writeln!(
                    out,
                    "| {} | `{}` | {}{optional} | {} |",
                    i + 1,
                    field.name,
                    field.ty.name(),
                    cell(field.doc)
                )
                .unwrap();
            }
        }
    }
    out.push('\n');
    out
}

fn content_kinds() -> String {
    let mut out = "\n| Code | Name | Meaning |\n|---|---|---|\n".to_owned();
    for (_, code, name, doc) in ContentKind::ALL {
        writeln!(out, "| {code} | `{name}` | {} |", cell(doc)).unwrap();
    }
    out.push('\n');
    out
}
