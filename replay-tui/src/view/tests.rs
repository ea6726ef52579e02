//! What is drawn: contents, styles, any size, hostile recordings.

use proptest::prelude::*;
use ratatui::style::{Color, Modifier};

use super::*;
use crate::app::Msg;
use crate::fixture::Company;
use crate::stage::{CompanyStage, Stage, is_clean, lines, open, runtime};
use crate::theme::Theme;

fn row_with<'a>(lines: &'a [String], text: &str) -> (usize, &'a str) {
    let found = lines.iter().enumerate().find(|(_, l)| l.contains(text));
    let (y, line) = found.unwrap_or_else(|| panic!("'{text}' is not in\n{}", lines.join("\n")));
    (y, line)
}

#[test]
fn the_list_of_sessions_says_who_what_how_much_and_what_was_found() {
    let s = CompanyStage::new((120, 30));
    let lines = s.stage.lines();
    assert!(lines[0].contains("lake  4 sessions"), "{}", lines[0]);
    let (y, row) = row_with(&lines, "48.2k");
    for part in ["■", "11-21 10:01:00", "support-copilot", "customers-db", "postgres", "D1", "!EXF-002"] {
        assert!(row.contains(part), "{part} in {row}");
    }
    assert!(row_with(&lines, "etl-nightly").1.starts_with('●'));
    let buf = s.stage.draw();
    let column = |part: &str| {
        let at = row.find(part).unwrap();
        u16::try_from(unicode_width::UnicodeWidthStr::width(&row[..at])).unwrap()
    };
    let deny = &buf[(column("D1"), u16::try_from(y).unwrap())];
    assert_eq!((deny.fg, deny.modifier.contains(Modifier::BOLD)), (Color::Red, true));
    let chosen = &buf[(20, 2)];
    assert!(chosen.modifier.contains(Modifier::REVERSED), "the chosen row is reversed");
}

#[test]
fn a_session_shows_header_timeline_events_and_the_statement_with_its_rows() {
    let mut s = CompanyStage::new((200, 50));
    let bulk = s.company.bulk.session();
    s.stage.type_text(&format!(":open {bulk}#3"));
    s.stage.keys("enter");
    let lines = s.stage.lines();
    let text = lines.join("\n");
    assert!(
        lines[0].contains("support-copilot → customers-db/shop  chain ✔ 9/9  agent, sealed (client)"),
        "{}",
        lines[0]
    );
    assert!(lines[1].contains("1 denied  !EXF-002  !EXF-001") || lines[1].contains("!EXF"), "{}", lines[1]);
    assert!(lines[2].contains('█'), "heat: {}", lines[2]);
    assert!(lines[3].contains('D') && lines[3].contains('!'), "marks: {}", lines[3]);
    assert!(lines[4].contains("●") && lines[4].contains("⋯10m"), "axis with the idle gap: {}", lines[4]);
    assert!(lines[5].contains("00:10:00.15") && lines[5].contains("event 4/9"), "{}", lines[5]);
    assert!(lines[5].contains("so far 2 steps, 1 row,"), "{}", lines[5]);
    for part in [
        "ALLOW   !EXF-001 SELECT id, email, card",
        "DENY    DROP TABLE customers",
        "ERROR   error 42501: bodycam: refused by policy",
        "48,200 rows, ",
        " SELECT id, email, card",
        " WHERE region = $1←'EU'",
        " ORDER BY id",
        "300 of 48,200 rows stored, truncated",
        "person0@example.org",
        "content ✔",
    ] {
        assert!(text.contains(part), "'{part}' is not in\n{text}");
    }
    s.stage.keys("enter G");
    let text = s.stage.text();
    assert!(text.contains("person299@example.org") && text.contains("NULL"), "{text}");
    s.stage.keys("T");
    assert!(s.stage.text().contains("10:11:00.150"), "{}", s.stage.text());
}

#[test]
fn an_egress_session_shows_tunnels_requests_and_refusals() {
    let mut s = CompanyStage::new((200, 50));
    let egress = s.company.egress.session();
    s.stage.type_text(&format!(":open {egress}#4"));
    s.stage.keys("enter");
    let text = s.stage.text();
    for part in [
        "DENY    CONNECT paste.evil.example:443  refused: host-not-allowed",
        "CONNECT files.example.net:443",
        "6 MiB out",
        "address_class",
        "203.0.113.9",
        "POST http://hooks.example.net/in?key=1",
        "204 complete",
    ] {
        assert!(text.contains(part), "'{part}' is not in\n{text}");
    }
    s.stage.keys("G k k");
    assert!(s.stage.text().contains("user-agent: python-requests/2.32"), "{}", s.stage.text());
}

#[test]
fn without_colour_every_verdict_still_has_its_letters_and_ascii_is_ascii() {
    let mut s = CompanyStage::new((120, 40));
    let bulk = s.company.bulk.session();
    s.stage.state.theme = Theme { color: false, ascii: true };
    for keys in [format!(":open {bulk}"), String::new()] {
        s.stage.type_text(&keys);
        s.stage.keys("enter");
        let buf = s.stage.draw();
        assert!(buf.content.iter().all(|c| c.fg == Color::Reset && c.bg == Color::Reset));
        let text = lines(&buf).join("\n");
        let recorded = text.replace('←', "");
        assert!(recorded.is_ascii(), "{}", recorded.chars().filter(|c| !c.is_ascii()).collect::<String>());
        assert!(text.contains("DENY") && text.contains("chain ok 9/9"));
    }
    s.stage.keys("q q q g f");
    assert!(s.stage.text().is_ascii());
}

#[test]
fn findings_say_what_was_measured_and_against_what() {
    let mut s = CompanyStage::new((120, 30));
    s.stage.keys("g f");
    let lines = s.stage.lines();
    let (_, row) = row_with(&lines, "EXF-002");
    for part in ["high", "support-copilot", "customers-db", "48.2k", "10k"] {
        assert!(row.contains(part), "{part} in {row}");
    }
    assert!(lines.iter().any(|l| l.contains("One result of 48,200 rows")), "{}", lines.join("\n"));
}

#[test]
fn a_terminal_that_is_too_small_says_so_and_recovers() {
    let mut s = CompanyStage::new((120, 30));
    s.stage.tell(Msg::Resize(59, 16));
    assert!(s.stage.text().starts_with("60x16 needed, 59x16 here"));
    s.stage.tell(Msg::Resize(60, 16));
    let text = s.stage.text();
    assert!(
        text.contains("11-21 10:01 support-c") && text.contains("customers-") && text.contains("!EXF-"),
        "{text}"
    );
}

fn visit_everything(stage: &mut Stage, mut look: impl FnMut(&Stage)) {
    look(stage);
    for keys in [
        "enter", "j", "J", "enter", "p", "x", "x", "G", "\\", "\\", "T", "q", "g v", "q", "?", "esc",
        "ctrl-p", "esc",
    ] {
        stage.keys(keys);
        look(stage);
    }
    for _ in 0..20 {
        stage.keys(".");
        look(stage);
    }
    stage.keys("f");
    stage.type_text("principal:\u{9b}\u{202e} x:");
    look(stage);
    stage.keys("enter");
    look(stage);
    stage.keys("esc /");
    stage.type_text("\u{202e}evil");
    stage.keys("enter");
    look(stage);
    stage.keys("g f");
    look(stage);
    stage.keys("enter } g s");
    look(stage);
    stage.keys("+");
    look(stage);
}

#[test]
fn no_hostile_byte_reaches_any_cell_of_any_screen() {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(Company::record_hostile(dir.path()));
    let mut stage = Stage::new(open(dir.path()), (100, 30));
    let mut screens = 0;
    let mut escaped = 0;
    visit_everything(&mut stage, |stage| {
        let buf = stage.draw();
        for cell in &buf.content {
            assert!(is_clean(cell.symbol()), "{:?} in\n{}", cell.symbol(), stage.text());
        }
        screens += 1;
        escaped += usize::from(stage.text().contains("\\x1b"));
    });
    assert!(screens > 40 && escaped > 20, "the hostile texts were on {escaped} of {screens} screens");
    // The guard before the terminal would have caught it too.
    let mut buf = stage.draw();
    buf.content[0].set_symbol("\u{202e}");
    censor(&mut buf);
    assert_eq!(buf.content[0].symbol(), "?");
}

#[test]
fn no_screen_panics_at_any_size() {
    let s = std::cell::RefCell::new(CompanyStage::new((80, 24)));
    let bulk = s.borrow().company.bulk.session();
    let strategy = (
        1u16..250,
        1u16..80,
        prop::sample::select(vec![
            "?", "q", "enter", "tab", "\\", "x", "p", "G", "ctrl-p", "esc", "g g", "g f", "g s", "f", "9",
            "}",
        ]),
    );
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(200));
    runner
        .run(&strategy, |(width, height, keys)| {
            let mut s = s.borrow_mut();
            s.stage.state.quit = false;
            s.stage.tell(Msg::Resize(width, height));
            s.stage.keys(keys);
            if s.stage.state.session.is_none() {
                s.stage.keys("ctrl-c");
                s.stage.type_text(&format!(":open {bulk}"));
                s.stage.keys("enter");
            }
            let buf = s.stage.draw();
            prop_assert_eq!(buf.content.len(), usize::from(width) * usize::from(height));
            Ok(())
        })
        .unwrap();
}

#[test]
fn panes_stand_side_by_side_one_below_the_other_or_alone_as_the_terminal_has_room() {
    let mut s = CompanyStage::new((120, 36));
    let bulk = s.company.bulk.session();
    s.stage.type_text(&format!(":open {bulk}#3"));
    s.stage.keys("enter");
    let line_of = |s: &CompanyStage, part: &str| s.stage.lines().iter().position(|l| l.contains(part));
    let (events, detail) = ("verdict event", "content ✔");
    assert_eq!(line_of(&s, events), line_of(&s, detail), "side by side");
    s.stage.tell(Msg::Resize(80, 24));
    assert!(line_of(&s, events).unwrap() < line_of(&s, detail).unwrap(), "one below the other");
    s.stage.tell(Msg::Resize(60, 16));
    assert!(line_of(&s, events).is_some() && line_of(&s, detail).is_none(), "{}", s.stage.text());
    assert!(s.stage.lines()[0].contains("chain ✔ 9/9"), "{}", s.stage.lines()[0]);
    s.stage.keys("tab");
    assert!(line_of(&s, events).is_none() && line_of(&s, detail).is_some(), "{}", s.stage.text());
    s.stage.keys("q");
    assert!(line_of(&s, events).is_some(), "{}", s.stage.text());
    s.stage.tell(Msg::Resize(59, 16));
    assert_eq!(s.stage.lines()[0], "60x16 needed, 59x16 here");
}

#[test]
fn a_result_table_ends_with_its_last_row() {
    let mut s = CompanyStage::new((120, 60));
    let bulk = s.company.bulk.session();
    s.stage.type_text(&format!(":open {bulk}#3"));
    s.stage.keys("enter enter G");
    let text = s.stage.text();
    assert!(text.contains("person299@example.org"), "{text}");
    s.stage.tell(Msg::Resize(120, 400));
    let caption = "300 of 48,200 rows stored, truncated";
    assert_eq!(s.stage.text().matches(caption).count(), 2, "above the rows and below them");
}
