//! Keys and answers on a real lake: what each does to the state.

use super::*;
use crate::app::{DetailView, Pane, PromptKind, SortBy};
use crate::fixture::{SECOND, T0};
use crate::stage::CompanyStage;
use crate::timeline::Ticker;

const SIZE: (u16, u16) = (120, 40);

fn seq(stage: &CompanyStage) -> Option<i64> {
    stage.stage.state.session.as_ref().and_then(SessionState::seq)
}

fn shown_targets(stage: &CompanyStage) -> Vec<String> {
    let list = &stage.stage.state.sessions;
    list.shown.iter().map(|i| list.all[*i as usize].row.target.clone()).collect()
}

#[test]
fn the_list_moves_sorts_filters_and_opens() {
    let mut s = CompanyStage::new(SIZE);
    assert_eq!(
        shown_targets(&s),
        ["customers-db", "orders-db", "egress", "customers-db"],
        "newest activity first"
    );
    s.stage.keys("j j");
    assert_eq!(s.stage.state.sessions.position.selected, 2);
    s.stage.keys("G");
    assert_eq!(s.stage.state.sessions.position.selected, 3);
    s.stage.keys("g g k");
    assert_eq!(s.stage.state.sessions.position.selected, 0);
    while s.stage.state.sessions.sort != SortBy::Rows {
        s.stage.keys("s");
    }
    assert_eq!(s.stage.state.sessions.all[s.stage.state.sessions.shown[0] as usize].row.rows, 48_201);
    s.stage.keys("S");
    assert_eq!(s.stage.state.sessions.all[s.stage.state.sessions.shown[3] as usize].row.rows, 48_201);

    s.stage.keys("f");
    s.stage.type_text("target:customers denies>0");
    s.stage.keys("enter");
    assert_eq!(shown_targets(&s), ["customers-db"]);
    s.stage.keys("esc");
    assert_eq!(shown_targets(&s).len(), 4);

    s.stage.keys("f");
    s.stage.type_text("sql:x");
    let prompt = s.stage.state.prompt.clone().unwrap();
    assert!(prompt.error.unwrap().0.contains("not known of the sessions index"));
    s.stage.keys("enter");
    assert!(s.stage.state.prompt.is_some(), "a wrong filter is not applied");
    s.stage.keys("esc");

    s.stage.keys("f ctrl-u");
    s.stage.type_text("@bulk");
    s.stage.keys("enter enter");
    assert_eq!(s.stage.state.screen, Screen::Session);
    assert_eq!(s.stage.state.session.as_ref().unwrap().item.row.session_id, s.company.bulk.session());
    s.stage.keys("q");
    assert_eq!(s.stage.state.screen, Screen::Sessions);
    s.stage.keys("q");
    assert!(s.stage.state.quit);
}

#[test]
fn keys_step_and_seek_and_the_cursor_follows() {
    let mut s = CompanyStage::new(SIZE);
    let bulk = s.company.bulk.session();
    s.stage.type_text(&format!(":open {bulk}"));
    s.stage.keys("enter");
    let count = s.stage.state.session.as_ref().unwrap().timeline.len();
    assert_eq!(count, 9);
    for (keys, expected) in [
        (".", 1),
        ("j", 2),
        (",", 1),
        ("J", 3),
        ("J", 6),
        ("K", 3),
        ("b", 4),
        ("e", 7),
        ("E", 7),
        ("g g", 0),
        ("}", 3),
        ("}", 4),
        ("}", 6),
        ("{", 4),
        ("9", 5),
        ("0", 0),
        ("G", 8),
        ("t # 4 enter", 4),
        ("m g g ]", 4),
        ("m G [", 8),
    ] {
        s.stage.keys(keys);
        assert_eq!(seq(&s), Some(expected), "after {keys}: {:?}", s.stage.state.status);
    }
    assert!(s.stage.state.status.as_ref().unwrap().text.as_str().contains("mark"));
    s.stage.keys("g g");
    s.stage.keys("right");
    assert_eq!(seq(&s), Some(8), "the whole session, idle time cut, is shorter than 5 s");
    s.stage.keys("i left");
    assert_eq!(seq(&s), Some(2), "with idle time kept, 5 s before the end is inside the gap");
    s.stage.keys("t");
    s.stage.type_text("nowhere");
    s.stage.keys("enter");
    assert!(s.stage.state.prompt.as_ref().unwrap().error.is_some());
    s.stage.keys("esc");
}

#[test]
fn the_player_plays_cuts_idle_time_and_stops_at_the_end() {
    let mut s = CompanyStage::new(SIZE);
    let bulk = s.company.bulk.session();
    s.stage.type_text(&format!(":open {bulk}"));
    s.stage.keys("enter");
    s.stage.state.now_ns = 5 * SECOND;
    s.stage.keys("space");
    let mut seen = Vec::new();
    for tenth in 0..30 {
        s.stage.tick(5 * SECOND + tenth * SECOND / 10);
        seen.extend(seq(&s));
    }
    seen.dedup();
    assert_eq!(seen.first(), Some(&0));
    assert_eq!(seen.last(), Some(&8), "{seen:?}");
    assert!(seen.is_sorted());
    let player = s.stage.state.session.as_ref().unwrap().player;
    assert!(!player.playing);
    s.stage.keys("g g + + space");
    assert_eq!(s.stage.state.session.as_ref().unwrap().player.speed_label(), "4x");
    s.stage.keys("=");
    assert!(s.stage.state.session.as_ref().unwrap().player.playing);
    s.stage.keys("j");
    assert!(!s.stage.state.session.as_ref().unwrap().player.playing, "moving by hand pauses");
}

#[test]
fn findings_lead_to_their_evidence_across_sessions() {
    let mut s = CompanyStage::new(SIZE);
    s.stage.keys("g f /");
    s.stage.type_text("014");
    s.stage.keys("enter");
    assert_eq!(s.stage.state.selected_finding().unwrap().row.rule, "EXF-014");
    s.stage.keys("enter");
    assert_eq!(s.stage.state.session.as_ref().unwrap().item.row.session_id, s.company.bulk.session());
    assert_eq!(seq(&s), Some(4), "the first evidence event, with its result");
    s.stage.keys("}");
    assert_eq!(s.stage.state.session.as_ref().unwrap().item.row.session_id, s.company.egress.session());
    assert_eq!(seq(&s), Some(4));
    s.stage.keys("{");
    assert_eq!(s.stage.state.session.as_ref().unwrap().item.row.session_id, s.company.bulk.session());
    s.stage.keys("} } }");
    assert!(s.stage.state.status.as_ref().unwrap().text.as_str().contains("last evidence"));
    s.stage.keys("q q");
    assert_eq!(s.stage.state.screen, Screen::Sessions);
}

#[test]
fn filters_and_searches_in_a_session_read_statement_texts() {
    let mut s = CompanyStage::new(SIZE);
    let bulk = s.company.bulk.session();
    s.stage.type_text(&format!(":open {bulk}"));
    s.stage.keys("enter f");
    s.stage.type_text("sql:\"where region\" or verdict:deny kind=sql.statement");
    s.stage.keys("enter");
    assert_eq!(s.stage.state.session.as_ref().unwrap().filter.as_ref().unwrap().seqs, [3, 6]);
    s.stage.keys("g g j");
    assert_eq!(seq(&s), Some(6), "only what passes is walked");
    s.stage.keys("esc /");
    s.stage.type_text("refused by policy");
    s.stage.keys("enter");
    assert_eq!(seq(&s), Some(7));
    s.stage.keys("/");
    s.stage.type_text("customers");
    s.stage.keys("enter");
    assert_eq!(s.stage.state.session.as_ref().unwrap().search.as_ref().unwrap().seqs, [1, 3, 6]);
    assert_eq!(seq(&s), Some(1), "around the end");
    s.stage.keys("n n N");
    assert_eq!(seq(&s), Some(3));
    s.stage.keys("/");
    s.stage.type_text("$1←'eu'");
    s.stage.keys("enter");
    let session = s.stage.state.session.as_ref().unwrap();
    assert_eq!(session.search.as_ref().unwrap().seqs, [3], "binds, as they are shown");
    s.stage.keys("t");
    s.stage.type_text("#99");
    s.stage.keys("enter");
    let said = s.stage.state.status.as_ref().unwrap().text.as_str();
    assert!(said.contains("the last one of this session is #8"), "{said}");
    s.stage.keys("/");
    s.stage.type_text("nowhere at all");
    s.stage.keys("enter");
    assert!(s.stage.state.status.as_ref().unwrap().text.as_str().contains("is not in this session"));
}

#[test]
fn events_that_cannot_be_read_are_not_said_to_be_none_and_their_file_is_named() {
    let mut s = CompanyStage::new(SIZE);
    let bulk = s.company.bulk.session();
    let view = s.company.dir.lake.view();
    let tables = bodycam_record::Family::EVENTS.map(bodycam_lake::Table::Events);
    let files: Vec<_> = tables.iter().flat_map(|t| view.state().files(*t)).map(|f| f.path.clone()).collect();
    for file in &files {
        let path = s.dir.path().join(file);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    s.stage.type_text(&format!(":open {bulk}"));
    s.stage.keys("enter");
    let text = s.stage.text();
    assert!(text.contains("the events cannot be read:") && !text.contains("no events of this"), "{text}");
    let joined: String = text.chars().filter(|c| !c.is_whitespace() && *c != '│').collect();
    assert!(files.iter().any(|f| joined.contains(&**f)), "{files:?}\n{text}");
    assert!(joined.contains("notascommitted") && joined.contains("bodycamverify"), "{text}");
}

#[test]
fn an_answer_of_an_older_generation_changes_nothing() {
    let mut s = CompanyStage::new(SIZE);
    let bulk = s.company.bulk.session();
    s.stage.type_text(&format!(":open {bulk}"));
    s.stage.keys("enter");
    let session = s.stage.state.session.as_ref().unwrap();
    let (old, list, timeline) =
        (session.generation - 1, s.stage.state.sessions.generation, session.timeline.len());
    s.stage.tell(Msg::Scanned {
        generation: old,
        ticks: vec![session.timeline.ticks()[0]; 3],
        ticker: Ticker::default(),
        chain: Box::default(),
        next_seq: 99,
        done: true,
    });
    s.stage.tell(Msg::Sessions { generation: list - 1, sessions: Vec::new(), truncated: true });
    let shown = s.stage.state.sessions.shown_generation;
    s.stage.tell(Msg::SessionsShown { generation: shown - 1, shown: Vec::new() });
    s.stage.tell(Msg::Matched { generation: 1, seqs: vec![1], scanned: 1, done: true });
    s.stage.tell(Msg::Detail { generation: 1, detail: None });
    let session = s.stage.state.session.as_ref().unwrap();
    assert_eq!((session.timeline.len(), session.next_seq), (timeline, 9));
    assert!(session.detail.is_some() && session.filter.is_none());
    assert_eq!(s.stage.state.sessions.shown.len(), 4);
    s.stage.tell(Msg::Failed { generation: list, error: "bad\u{1b}[31m news".into() });
    assert_eq!(s.stage.state.status.as_ref().unwrap().text.as_str(), "bad\\x1b[31m news");
}

#[test]
fn a_growing_lake_is_followed_and_the_chosen_session_stays_chosen() {
    let mut s = CompanyStage::new(SIZE);
    s.stage.keys("j j");
    let chosen = s.stage.state.selected_session().unwrap().row.session_id;
    let live = s.company.live.session();
    s.stage.type_text(&format!(":open {live}"));
    s.stage.keys("enter L");
    assert_eq!(seq(&s), Some(6));
    s.stage.keys("f");
    s.stage.type_text("kind=sql.statement");
    s.stage.keys("enter");

    let statement = s.company.live.statement(b"SELECT 'new'", &[], "allow", &["public.orders"]);
    s.company.live.result(statement, &["id"], &[vec![Some(b"9".to_vec())]], 1);
    let crate::fixture::Company { dir, live, .. } = &mut s.company;
    s.runtime.block_on(dir.commit(&mut [live], &[]));
    assert!(s.stage.source.refresh().unwrap());
    assert!(!s.stage.source.refresh().unwrap());
    s.stage.tell(Msg::Refreshed);
    assert_eq!(seq(&s), Some(8), "the newest event is in view");
    let session = s.stage.state.session.as_ref().unwrap();
    assert_eq!(session.filter.as_ref().unwrap().seqs, [1, 3, 5, 7], "the filter looked at what is new");
    assert_eq!(session.item.row.events, 9);
    assert_eq!((session.chain.verified(), session.chain.fault()), (9, None));
    assert!(s.stage.text().contains("SELECT 'new'"), "{}", s.stage.text());
    s.stage.keys("g s");
    assert_eq!(s.stage.state.selected_session().unwrap().row.session_id, chosen);
}

#[test]
fn a_broken_chain_is_said_with_its_first_bad_event() {
    let mut s = CompanyStage::new(SIZE);
    let broken = s.company.broken.session();
    s.stage.type_text(&format!(":open {broken}"));
    s.stage.keys("enter");
    let fault = s.stage.state.session.as_ref().unwrap().chain.fault().cloned().unwrap();
    assert_eq!((fault.seq, fault.what), (2, "the hash does not follow from the columns"));
    assert!(s.stage.text().contains("BROKEN at #2"), "{}", s.stage.text());
    s.stage.keys("g v");
    assert!(s.stage.text().contains(&fault.stored.unwrap().to_hex()), "{}", s.stage.text());
    s.stage.keys("q");
    assert!(s.stage.state.overlay.is_none());
}

#[test]
fn a_missing_event_and_one_that_stands_twice_are_faults() {
    use crate::chain::ChainCheck;
    let s = CompanyStage::new(SIZE);
    let events = s.stage.source.bare_events(s.company.bulk.session(), 0, 100).unwrap();
    let fault = |events: &[crate::event::EventItem]| {
        let mut check = ChainCheck::default();
        check.extend(events);
        check.fault().map(|f| (f.seq, f.what))
    };
    assert_eq!(fault(&events), None);
    let without: Vec<_> = events.iter().filter(|e| e.seq() != 3).cloned().collect();
    assert_eq!(fault(&without), Some((3, "the event is missing")));
    let headless = &events[1..];
    assert_eq!(fault(headless), Some((0, "the event is missing")));
    let mut twice = events.clone();
    twice.insert(3, events[2].clone());
    assert_eq!(fault(&twice).unwrap().0, 2);
    let mut other = events.clone();
    other.swap(1, 2);
    assert!(fault(&other).is_some());
}

#[test]
fn panes_views_and_overlays_open_and_close() {
    let mut s = CompanyStage::new(SIZE);
    let bulk = s.company.bulk.session();
    s.stage.type_text(&format!(":open {bulk}#4"));
    s.stage.keys("enter");
    assert_eq!(seq(&s), Some(4));
    let pane = |s: &CompanyStage| s.stage.state.session.as_ref().unwrap().pane;
    s.stage.keys("enter");
    assert_eq!(pane(&s), Pane::Detail);
    s.stage.keys("j ctrl-d l l l l h");
    assert_eq!(s.stage.state.session.as_ref().unwrap().detail_scroll.1, 1, "no further than the last column");
    s.stage.keys("x");
    assert_eq!(s.stage.state.session.as_ref().unwrap().detail_view, DetailView::Hex);
    assert!(s.stage.text().contains("00000000 "), "{}", s.stage.text());
    s.stage.keys("p \\");
    assert_eq!(s.stage.state.session.as_ref().unwrap().detail_view, DetailView::Raw);
    assert!(s.stage.state.session.as_ref().unwrap().maximised);
    s.stage.keys("p q tab tab");
    assert_eq!(pane(&s), Pane::Events);

    s.stage.keys("?");
    assert!(s.stage.text().contains(":next-step"), "{}", s.stage.text());
    s.stage.keys("j esc ctrl-p");
    s.stage.type_text("live");
    assert!(s.stage.text().contains("live-edge"));
    s.stage.keys("enter");
    assert_eq!(seq(&s), Some(8), "the palette gave the command");
    s.stage.keys(":");
    s.stage.type_text("idle");
    s.stage.keys("tab");
    let prompt = s.stage.state.prompt.clone().unwrap();
    assert_eq!((prompt.kind, prompt.text.as_str()), (PromptKind::Command, "idle-skip"));
    s.stage.keys("enter");
    assert!(!s.stage.state.session.as_ref().unwrap().player.skip_idle);
    s.stage.type_text(":fly");
    s.stage.keys("enter");
    assert!(s.stage.state.prompt.as_ref().unwrap().error.as_ref().unwrap().0.contains("no command 'fly'"));
    s.stage.keys("ctrl-c");
    assert!(s.stage.state.prompt.is_none() && !s.stage.state.quit);
    s.stage.state.now_ns = T0;
    s.stage.keys("ctrl-c ctrl-c");
    assert!(s.stage.state.quit);
}

#[test]
fn a_line_is_edited_by_characters_not_bytes() {
    let mut s = CompanyStage::new(SIZE);
    s.stage.keys("/");
    s.stage.type_text("äöü 漢字 x");
    s.stage.keys("left left backspace delete ctrl-a delete right");
    s.stage.type_text("é");
    let prompt = s.stage.state.prompt.clone().unwrap();
    assert_eq!((prompt.text.as_str(), prompt.cursor), ("öéü 漢x", 2));
    s.stage.keys("ctrl-e ctrl-w");
    assert_eq!(s.stage.state.prompt.as_ref().unwrap().text, "öéü ");
    s.stage.keys("ctrl-u backspace");
    assert!(s.stage.state.prompt.is_none(), "backspace in an empty line closes it");
}

#[test]
fn clicks_choose_rows_and_places_on_the_timeline() {
    let mut s = CompanyStage::new(SIZE);
    s.stage.tell(Msg::Click(10, 4));
    assert_eq!(s.stage.state.sessions.position.selected, 2);
    let bulk = s.company.bulk.session();
    s.stage.type_text(&format!(":open {bulk}"));
    s.stage.keys("enter");
    s.stage.tell(Msg::Click(119, 3));
    assert_eq!(seq(&s), Some(8));
    s.stage.tell(Msg::Click(0, 3));
    assert_eq!(seq(&s), Some(0));
    s.stage.tell(Msg::Click(5, 9));
    assert_eq!(seq(&s), Some(2));
    s.stage.tell(Msg::Wheel(3));
    assert_eq!(seq(&s), Some(5));
    s.stage.tell(Msg::Click(100, 20));
    assert_eq!(s.stage.state.session.as_ref().unwrap().pane, Pane::Detail);
}

#[test]
fn what_is_copied_is_what_is_chosen() {
    let mut s = CompanyStage::new(SIZE);
    let copied = |s: &mut CompanyStage, keys: &str| {
        s.stage.keys(keys);
        s.stage.state.copy.take()
    };
    let bulk = s.company.bulk.session();
    assert_eq!(copied(&mut s, "G y p").unwrap(), format!("bodycam://session/{bulk}"));
    assert!(copied(&mut s, "y y").unwrap().ends_with(&bulk.to_string()));
    assert_eq!(copied(&mut s, "enter y s"), None, "the opening has no statement");
    assert!(s.stage.state.status.as_ref().unwrap().text.as_str().contains("nothing of this kind"));
    assert_eq!(copied(&mut s, "} y p").unwrap(), format!("bodycam://session/{bulk}#3"));
    let statement = copied(&mut s, "y s").unwrap();
    assert!(statement.contains("region = $1←'EU'") && statement.contains('\n'), "{statement}");
    let event: serde_json::Value = serde_json::from_str(&copied(&mut s, "y j").unwrap()).unwrap();
    assert_eq!(event["seq"], 3);
    assert_eq!(event["findings"], serde_json::json!(["EXF-001"]));
    // A link leads back to where it was taken.
    s.stage.keys("g s :");
    s.stage.type_text(&format!("open bodycam://session/{bulk}#3"));
    s.stage.keys("enter");
    assert_eq!(seq(&s), Some(3));
}

#[test]
fn findings_stand_in_the_order_of_their_severity_or_of_their_time() {
    let mut s = CompanyStage::new(SIZE);
    s.stage.keys("g f");
    let order = |s: &CompanyStage| -> Vec<(String, i64)> {
        let list = &s.stage.state.findings;
        let row = |i: &usize| (list.all[*i].row.severity.clone(), list.all[*i].row.window_end_ns);
        list.shown.iter().map(row).collect()
    };
    let rank = |severity: &str| bodycam_record::rule::Severity::named(severity);
    let by_severity = order(&s);
    assert!(by_severity.is_sorted_by(|a, b| (rank(&a.0), a.1) >= (rank(&b.0), b.1)), "{by_severity:?}");
    assert!(by_severity[0].0 != by_severity.last().unwrap().0, "the fixture has several");
    let last = s.stage.state.findings.shown.len() - 1;
    s.stage.keys("G");
    let chosen = s.stage.state.selected_finding().unwrap().row.id;
    s.stage.keys("s");
    assert!(order(&s).is_sorted_by(|a, b| a.1 >= b.1));
    assert_eq!(s.stage.state.selected_finding().unwrap().row.id, chosen, "of {last}");
    s.stage.keys("s");
    assert_eq!(order(&s), by_severity);
}
