//! The details of an event: decision, statement with binds in place, facts, the result's rows, or its bytes.
//! Rows and bytes are drawn from where they are scrolled to; nothing else of them is touched.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::app::{DetailView, Pane, SessionState, State};
use crate::detail::Detail;
use crate::shown::{Shown, fit, fit_right, wrap};
use crate::statement::TokenKind;
use crate::table::ResultTable;
use crate::theme::Role;
use crate::units;
use crate::view::put;

/// Bytes of content that the raw view lays out; the hex view shows all.
const RAW_LIMIT: usize = 128 * 1024;

type Pieces = Vec<(String, Role)>;

/// Draws the pane.
pub fn draw(state: &State, session: &SessionState, area: Rect, buf: &mut Buffer) {
    let focus = if session.pane == Pane::Detail { Role::Title } else { Role::Dim };
    let Some(detail) = &session.detail else {
        put(buf, area, 0, &[(" detail".to_owned(), focus)], state);
        return;
    };
    let view = match session.detail_view {
        DetailView::Pretty => "",
        DetailView::Raw => "  as recorded",
        DetailView::Hex => "  bytes",
    };
    let fits = match detail.committed {
        Some(true) => (state.theme.sign("  content ✔", "  content ok").to_owned(), Role::Good),
        Some(false) => ("  CONTENT DOES NOT FIT ITS COMMITMENT".to_owned(), Role::Alert),
        None => (String::new(), Role::Dim),
    };
    put(buf, area, 0, &[(format!(" #{} {}{view}", detail.seq, detail.kind), focus), fits], state);
    let body = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    match session.detail_view {
        DetailView::Pretty => pretty(state, session, detail, body, buf),
        DetailView::Raw => raw(state, session, detail, body, buf),
        DetailView::Hex => hex(state, session, detail, body, buf),
    }
}

fn pretty(state: &State, session: &SessionState, detail: &Detail, area: Rect, buf: &mut Buffer) {
    let width = usize::from(area.width.saturating_sub(1)).max(1);
    let height = usize::from(area.height);
    let head = lines(state, session, detail, width);
    let table_lines = detail.table.as_ref().map_or(0, |t| t.rows() + 2);
    let total = head.len() + table_lines;
    let top = session.detail_scroll.0.min(total.saturating_sub(height));
    for y in 0..height {
        let line = top + y;
        if line >= total {
            break;
        }
        let pieces = match (head.get(line), &detail.table) {
            (Some(pieces), _) => pieces.clone(),
            (None, Some(table)) => {
                table_line(state, table, line - head.len(), session.detail_scroll.1, width)
            }
            (None, None) => break,
        };
        put(buf, area, u16::try_from(y).unwrap_or(u16::MAX), &pieces, state);
    }
    if top > 0 || total > height {
        let share = format!(" {}-{}/{total} ", top + 1, (top + height).min(total));
        let width = u16::try_from(share.len()).unwrap_or(0).min(area.width);
        let corner = Rect { x: area.x + area.width - width, y: area.y - 1, width, height: 1 };
        put(buf, corner, 0, &[(share, Role::Dim)], state);
    }
}

/// Everything above the result's rows.
fn lines(state: &State, session: &SessionState, detail: &Detail, width: usize) -> Vec<Pieces> {
    let mut out: Vec<Pieces> = Vec::new();
    if let Some(decision) = &detail.decision {
        let denied = decision.verdict.as_str() == "deny";
        let role = if denied { Role::Deny } else { Role::Allow };
        let mut card = vec![(format!(" {}", decision.verdict.as_str().to_uppercase()), role)];
        if let Some(reason) = &decision.reason {
            card.push((format!("  {reason}"), Role::Plain));
        }
        card.push((format!("  policy {}", decision.policy), Role::Dim));
        out.push(card);
    }
    let evidence: Vec<String> =
        session.evidence.get(&detail.seq).into_iter().flatten().map(|(rule, _)| format!("!{rule}")).collect();
    if !evidence.is_empty() {
        let rules = Shown::limit(&evidence.join(" "), 400);
        let lines = wrap(&format!("evidence of {rules}"), width);
        out.extend(lines.into_iter().map(|l| vec![(format!(" {l}"), Role::Alert)]));
    }
    for note in &detail.notes {
        out.extend(wrap(note, width).into_iter().map(|l| vec![(format!(" {l}"), Role::Error)]));
    }
    for line in &detail.statement {
        out.extend(statement_lines(line, width));
    }
    if !detail.statement.is_empty() {
        out.push(Vec::new());
    }
    for (name, value) in &detail.content {
        let text = format!("{name}: {value}");
        out.extend(wrap(&text, width).into_iter().map(|l| vec![(format!(" {l}"), Role::Plain)]));
    }
    out.extend(fact_lines(detail, width));
    if let Some(table) = &detail.table {
        out.push(Vec::new());
        let caption = format!(" {}  (h l columns)", table.caption());
        out.push(vec![(state.theme.text(&caption), Role::Title)]);
    }
    out
}

/// Facts one after another, as many on a line as fit: what matters is above and below them.
fn fact_lines(detail: &Detail, width: usize) -> Vec<Pieces> {
    let mut out: Vec<Pieces> = Vec::new();
    let mut used = 0;
    for (name, value) in &detail.facts {
        let needs = name.len() + 1 + value.width() + 2;
        if used > 0 && used + needs <= width {
            used += needs;
            if let Some(line) = out.last_mut() {
                line.extend([(format!("  {name} "), Role::Dim), (value.to_string(), Role::Plain)]);
            }
            continue;
        }
        let room = width.saturating_sub(name.len() + 1).max(8);
        for (i, part) in wrap(value.as_str(), room).into_iter().enumerate() {
            let name = if i == 0 { (*name).to_owned() } else { " ".repeat(name.len()) };
            out.push(vec![(format!(" {name} "), Role::Dim), (part, Role::Plain)]);
        }
        used = if needs <= width { needs } else { width };
    }
    out
}

/// One laid-out line of a statement, wrapped.
fn statement_lines(line: &crate::statement::Line, width: usize) -> Vec<Pieces> {
    let indent = " ".repeat(1 + 2 * line.indent);
    let room = width.saturating_sub(indent.len()).max(8);
    let mut out = Vec::new();
    let mut pieces: Pieces = vec![(indent.clone(), Role::Plain)];
    let mut used = 0;
    for token in &line.tokens {
        let role = match token.kind {
            TokenKind::Keyword => Role::Keyword,
            TokenKind::Plain => Role::Plain,
            TokenKind::Literal => Role::Literal,
            TokenKind::Comment | TokenKind::Note => Role::Comment,
            TokenKind::Parameter => Role::Dim,
            TokenKind::Bound => Role::Bound,
        };
        let fits = used + token.text.width() <= room;
        if !fits && used > 0 {
            out.push(std::mem::replace(&mut pieces, vec![(format!("{indent}  "), Role::Plain)]));
            used = 2;
        }
        let parts = wrap(token.text.as_str(), room.saturating_sub(2).max(8));
        let last = parts.len().saturating_sub(1);
        for (i, part) in parts.into_iter().enumerate() {
            used += Shown::of(&part).width();
            pieces.push((part, role));
            if i < last {
                out.push(std::mem::replace(&mut pieces, vec![(format!("{indent}  "), Role::Plain)]));
                used = 2;
            }
        }
    }
    out.push(pieces);
    out
}

/// Line `line` of a result: its heading, then its rows.
fn table_line(state: &State, table: &ResultTable, line: usize, first_column: usize, width: usize) -> Pieces {
    let bar = state.theme.sign(" │ ", " | ");
    let number_width = table.rows().to_string().len();
    let mut pieces = Vec::new();
    let cells = match line.checked_sub(1) {
        None => {
            pieces.push((format!(" {}", " ".repeat(number_width)), Role::Dim));
            table.columns().iter().map(|c| c.name.clone()).collect()
        }
        Some(row) if row < table.rows() => {
            pieces.push((format!(" {}", fit_right(&(row + 1).to_string(), number_width)), Role::Dim));
            table.row(row)
        }
        Some(_) => return vec![(state.theme.text(&format!(" {}", table.caption())), Role::Dim)],
    };
    let role = if line == 0 { Role::Keyword } else { Role::Plain };
    let mut used = number_width + 1;
    for (column, cell) in table.columns().iter().zip(&cells).skip(first_column) {
        if used >= width {
            break;
        }
        let text = match column.numeric {
            true => fit_right(cell.as_str(), column.width),
            false => cell.fit(column.width),
        };
        used += 3 + column.width;
        pieces.push((bar.to_owned(), Role::Dim));
        let is_null = line > 0 && cell.as_str() == "NULL";
        pieces.push((text, if is_null { Role::Dim } else { role }));
    }
    pieces
}

fn raw(state: &State, session: &SessionState, detail: &Detail, area: Rect, buf: &mut Buffer) {
    let width = usize::from(area.width.saturating_sub(1)).max(1);
    let head = detail.raw.get(..RAW_LIMIT).unwrap_or(&detail.raw);
    let mut lines: Vec<String> =
        head.split(|b| *b == b'\n').flat_map(|line| wrap(Shown::bytes(line).as_str(), width)).collect();
    if detail.raw.is_empty() {
        lines = vec!["no content".to_owned()];
    }
    if head.len() < detail.raw.len() {
        lines.push(format!("({} more bytes; x shows all)", detail.raw.len() - head.len()));
    }
    let height = usize::from(area.height);
    let top = session.detail_scroll.0.min(lines.len().saturating_sub(height));
    for (y, line) in lines.iter().skip(top).take(height).enumerate() {
        put(buf, area, u16::try_from(y).unwrap_or(u16::MAX), &[(format!(" {line}"), Role::Plain)], state);
    }
}

fn hex(state: &State, session: &SessionState, detail: &Detail, area: Rect, buf: &mut Buffer) {
    // Offset, bytes, text: 10 + 3 * n + n + 2 columns.
    let per_line = match area.width {
        0..44 => 4,
        44..76 => 8,
        _ => 16,
    };
    let height = usize::from(area.height);
    let total = detail.raw.len().div_ceil(per_line);
    let top = session.detail_scroll.0.min(total.saturating_sub(height));
    for y in 0..height {
        let at = (top + y) * per_line;
        let Some(bytes) = detail.raw.get(at..).filter(|b| !b.is_empty()) else { break };
        let bytes = bytes.get(..per_line).unwrap_or(bytes);
        let hex: String = bytes.iter().map(|b| format!("{b:02x} ")).collect();
        let text: String =
            bytes.iter().map(|b| if (0x20..0x7f).contains(b) { char::from(*b) } else { '.' }).collect();
        let pieces = [
            (format!(" {at:08x} "), Role::Dim),
            (fit(&hex, 3 * per_line), Role::Plain),
            (format!(" {text}"), Role::Literal),
        ];
        put(buf, area, u16::try_from(y).unwrap_or(u16::MAX), &pieces, state);
    }
    if detail.raw.is_empty() {
        put(buf, area, 0, &[(" no content".to_owned(), Role::Dim)], state);
    }
    if total > height {
        let share = format!(
            " {} of {} ",
            units::size(i64::try_from(top * per_line).unwrap_or(0)),
            units::size(i64::try_from(detail.raw.len()).unwrap_or(0))
        );
        let width = u16::try_from(share.len()).unwrap_or(0).min(area.width);
        put(
            buf,
            Rect { x: area.x + area.width - width, y: area.y - 1, width, height: 1 },
            0,
            &[(share, Role::Dim)],
            state,
        );
    }
}
