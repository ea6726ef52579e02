//! The list of findings, and what the chosen one says.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::app::State;
use crate::layout::Layout;
use crate::shown::{Shown, fit, fit_right, wrap};
use crate::source::Finding;
use crate::theme::Role;
use crate::units;
use crate::view::{put, select_row};

/// Lines that explain the chosen finding.
const EXPLAINED: u16 = 5;

/// Draws the screen.
pub fn draw(state: &State, layout: &Layout, buf: &mut Buffer) {
    let list = &state.findings;
    let count = match list.filter.is_empty() {
        true => format!("{} findings", list.all.len()),
        false => format!("{} of {} findings", list.shown.len(), list.all.len()),
    };
    let header = [
        (" findings  ".to_owned(), Role::Title),
        (format!("{}  ", Shown::limit(&state.lake, 100)), Role::Dim),
        (count, Role::Plain),
    ];
    put(buf, layout.header, 0, &header, state);

    let table = Rect { height: layout.list.height.saturating_sub(EXPLAINED), ..layout.list };
    let width = usize::from(table.width);
    let wide = width >= 90;
    let rest = width.saturating_sub(9 + 10 + 15 + 10 + 10 + 4 + if wide { 16 } else { 0 });
    let who = (rest / 2).max(8);
    let line = |cells: [&str; 8]| {
        let [severity, rule, when, principal, target, measure, threshold, evidence] = cells;
        let mut out = format!(" {} {} ", fit(severity, 8), fit(rule, 9));
        if wide {
            out.push_str(&format!("{} ", fit(when, 14)));
        }
        out.push_str(&format!(
            "{} {} {} {} {}",
            fit(principal, who),
            fit(target, who),
            fit_right(measure, 9),
            fit_right(threshold, 9),
            fit_right(evidence, 3)
        ));
        out
    };
    let heads =
        line(["severity", "rule", "window (UTC)", "principal", "target", "measure", "threshold", "ev."]);
    put(buf, table, 0, &[(heads, Role::Dim)], state);
    for row in 0..usize::from(table.height.saturating_sub(1)) {
        let found = list.shown.get(list.position.top + row).and_then(|i| list.all.get(*i));
        let Some(finding) = found else { break };
        let number = |n: Option<i64>| n.map(units::short_count).unwrap_or_default();
        let moment = units::moment(finding.row.window_start_ns);
        let text = line([
            Shown::limit(&finding.row.severity, 20).as_str(),
            Shown::limit(&finding.row.rule, 40).as_str(),
            moment.get(5..).unwrap_or(&moment),
            finding.who().as_str(),
            Shown::limit(finding.row.target.as_deref().unwrap_or(""), 100).as_str(),
            &number(finding.row.measure),
            &number(finding.row.threshold),
            &finding.evidence.len().to_string(),
        ]);
        let y = u16::try_from(row + 1).unwrap_or(u16::MAX);
        put(buf, table, y, &[(text, severity_role(finding))], state);
        if list.position.top + row == list.position.selected {
            select_row(buf, table, y, state);
        }
    }
    if list.shown.is_empty() {
        put(
            buf,
            table,
            2,
            &[("  no findings; `bodycam detect run` looks for some".to_owned(), Role::Dim)],
            state,
        );
    }
    if let Some(finding) = state.selected_finding() {
        let below = Rect { y: table.y + table.height, height: EXPLAINED, ..layout.list };
        explain(state, finding, below, buf);
    }
}

fn explain(state: &State, finding: &Finding, area: Rect, buf: &mut Buffer) {
    let row = &finding.row;
    let rule = state.theme.sign("─", "-").repeat(usize::from(area.width));
    put(buf, area, 0, &[(rule, Role::Dim)], state);
    let head = format!(
        " {} {}, revision {}{}  {} to {} UTC  id {}",
        Shown::limit(&row.rule, 60),
        Shown::limit(&row.rule_version, 20),
        row.revision,
        if row.is_final { "" } else { " (not final)" },
        units::moment(row.window_start_ns),
        units::moment(row.window_end_ns),
        row.id.to_hex().get(..12).unwrap_or_default(),
    );
    put(buf, area, 1, &[(head, Role::Title)], state);
    let text = Shown::limit(&row.text, 2000);
    for (i, line) in wrap(text.as_str(), usize::from(area.width.saturating_sub(2))).iter().take(3).enumerate()
    {
        let y = u16::try_from(i + 2).unwrap_or(u16::MAX);
        put(buf, area, y, &[(format!(" {line}"), Role::Plain)], state);
    }
}

fn severity_role(finding: &Finding) -> Role {
    match finding.row.severity.as_str() {
        "critical" | "high" => Role::Alert,
        "medium" => Role::Error,
        _ => Role::Plain,
    }
}
