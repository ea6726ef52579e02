//! The twins on a real lake.

use super::*;
use crate::fixture::{self, Company};
use crate::source::Source;
use crate::stage::{CompanyStage, is_clean, open, runtime};

fn list(filter: &str, format: Format) -> ListOptions {
    ListOptions { filter: filter.into(), limit: 100, format, now_ns: fixture::T0, ..ListOptions::default() }
}

fn printed(print: impl FnOnce(&mut dyn Write) -> Result<Outcome, ReplayError>) -> (String, u8) {
    let mut out = Vec::new();
    let result = print(&mut out);
    let code = exit_code(&result);
    if let Err(err) = result {
        out.extend(err.to_string().bytes());
    }
    (String::from_utf8(out).unwrap(), code)
}

#[test]
fn sessions_are_listed_in_every_format_with_totals() {
    let s = CompanyStage::new((80, 24));
    let source = s.stage.source.as_ref();
    let (table, code) = printed(|out| sessions(source, &list("", Format::Table), out));
    assert_eq!(code, 0);
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("SESSION ") && lines.len() == 5, "{table}");
    assert!(
        lines[4].contains("support-copilot") && lines[4].contains("48,201") && lines[4].contains("EXF-002")
    );

    let options = ListOptions { limit: 1, ..list("principal:copilot", Format::Json) };
    let (json, _) = printed(|out| sessions(source, &options, out));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["total"], &json["returned"], &json["truncated"]), (&json!(2), &json!(1), &json!(true)));
    assert_eq!(json["items"][0]["target"], "egress");
    assert_eq!(json["items"][0]["bytes_out"], 4096 * 2);

    let (csv, _) = printed(|out| sessions(source, &list("findings>0", Format::Csv), out));
    assert!(
        csv.contains("filter 'findings>0': there is no field 'findings'; did you mean 'finding'?"),
        "{csv}"
    );
    let (csv, _) = printed(|out| sessions(source, &list("has:finding target:customers", Format::Csv), out));
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(
        csv.lines().nth(1).unwrap().ends_with(",client,EXF-002;EXF-001;EXF-014") || csv.contains("EXF-001")
    );
    let (jsonl, code) = printed(|out| sessions(source, &list("target:nowhere", Format::Jsonl), out));
    assert_eq!((jsonl.as_str(), code), ("", 1));
    assert_eq!(printed(|out| sessions(source, &list("rows>", Format::Table), out)).1, 2);
}

#[test]
fn a_session_is_shown_with_the_state_of_its_chain() {
    let s = CompanyStage::new((80, 24));
    let source = s.stage.source.as_ref();
    let id = s.company.bulk.session().to_string();
    let (text, _) = printed(|out| show(source, &id, Format::Table, out));
    for part in [
        "support-copilot (agent, ",
        "customers-db (postgres, database shop)",
        "✔ 9/9 events verified",
        "EXF-002 (high)",
        "login        scram-sha-256, credential ",
        ", used from ",
        "connection   client ",
    ] {
        assert!(text.contains(part), "'{part}' is not in\n{text}");
    }
    let broken = s.company.broken.session().to_string();
    let (text, code) = printed(|out| show(source, &broken[..30], Format::Table, out));
    assert!(text.contains("BROKEN at #2: the hash does not follow from the columns: computed "), "{text}");
    assert_eq!(code, 0);
    let (json, _) = printed(|out| show(source, &broken, Format::Json, out));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["chain"]["fault"]["seq"], &json["chain"]["verified"]), (&json!(2), &json!(2)));
    for (name, said) in [
        ("", "'' does not name one session"),
        ("019", "'019' does not name one session; give more of its id"),
        (&id[..4], "does not name one session"),
        ("nonsense\x1b", "there is no session nonsense\\x1b in this lake"),
        ("00000000-0000-7000-8000-000000000000", "there is no session 00000000-0000-7000"),
    ] {
        let (text, code) = printed(|out| show(source, name, Format::Table, out));
        assert_eq!(code, 2, "{name}");
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn events_are_found_across_sessions_by_text_regex_and_filter() {
    let s = CompanyStage::new((80, 24));
    let source = s.stage.source.as_ref();
    let grep = |pattern: Option<&str>, regex: bool, filter: &str, session: Option<String>| {
        let options = EventsOptions {
            list: list(filter, Format::Jsonl),
            session,
            pattern: pattern.map(str::to_owned),
            regex,
        };
        let (text, code) = printed(|out| events(source, &options, out));
        let found = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap();
            (value["target"].as_str().unwrap().to_owned(), value["seq"].as_i64().unwrap())
        };
        match code {
            2 => panic!("{text}"),
            code => (text.lines().map(found).collect::<Vec<_>>(), code),
        }
    };
    let of = |target: &str, seqs: &[i64]| seqs.iter().map(|s| (target.to_owned(), *s)).collect::<Vec<_>>();
    assert_eq!(grep(Some("drop table"), false, "", None), (of("customers-db", &[6]), 0));
    assert_eq!(grep(Some("evil.example"), false, "verdict:deny", None), (of("egress", &[3]), 0));
    assert_eq!(grep(Some("^select \\* .*= [12]$"), true, "", None), (of("orders-db", &[3, 5]), 0));
    assert_eq!(grep(None, false, "rows>10k", None), (of("customers-db", &[4]), 0));
    assert_eq!(grep(None, false, "finding:EXF-002 severity=high", None), (of("customers-db", &[4]), 0));
    assert_eq!(grep(None, false, "bytes>1MiB host:files", None), (of("egress", &[5]), 0));
    assert_eq!(grep(None, false, "ip:203.0.113.0/24 method=post url:key", None), (of("egress", &[6]), 0));
    assert_eq!(
        grep(None, false, "table:customers +10:00..", Some(s.company.bulk.session().to_string())).0.len(),
        2
    );
    assert_eq!(grep(Some("nothing like it"), false, "", None), (vec![], 1));
    let bad = EventsOptions { pattern: Some("(".into()), regex: true, ..EventsOptions::default() };
    let (text, code) = printed(|out| events(source, &bad, out));
    assert!(code == 2 && text.contains("is not a regex"), "{text}");

    let options = EventsOptions {
        list: ListOptions { limit: 2, ..list("kind=sql.result", Format::Table) },
        ..EventsOptions::default()
    };
    let (text, _) = printed(|out| events(source, &options, out));
    assert!(text.ends_with("… 2 of 7 shown; raise --limit for more\n"), "{text}");
}

#[test]
fn findings_are_listed_with_their_evidence() {
    let s = CompanyStage::new((80, 24));
    let (text, code) = printed(|out| findings(s.stage.source.as_ref(), &list("rule:002", Format::Json), out));
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["total"]), (0, &json!(1)));
    assert_eq!(json["items"][0]["evidence"][0], format!("{}#4", s.company.bulk.session()));
    assert_eq!(json["items"][0]["principal"], "support-copilot");
    assert_eq!(
        printed(|out| findings(s.stage.source.as_ref(), &list("severity=low", Format::Table), out)).1,
        1
    );
}

#[test]
fn a_replay_tells_who_what_when_with_binds_rows_errors_and_idle_time() {
    let s = CompanyStage::new((80, 24));
    let options =
        ReplayText { session: s.company.bulk.session().to_string(), rows: 2, ..ReplayText::default() };
    let (text, code) = printed(|out| replay(s.stage.source.as_ref(), &options, out));
    assert_eq!(code, 0);
    for part in [
        "principal    support-copilot (agent, ",
        "chain        ✔ 9/9 events verified",
        "client_address: 10.0.0.7",
        "SELECT id, email, card",
        "WHERE region = $1←'EU'",
        "⋯ idle 10m 00s ⋯",
        "id  │ email",
        "1   │ person1@example.org   │ NULL",
        "(300 of 48,200 rows stored, truncated; 2 shown, raise --rows for more)",
        "!EXF-002 (high)",
        "DENY  select  public.customers",
        "ERROR error 42501: bodycam: refused by policy",
        "session closed (client)",
    ] {
        assert!(text.contains(part), "'{part}' is not in\n{text}");
    }
    assert!(!text.contains("person2@example.org"));
    assert!(!text.contains("DOES NOT FIT"));

    let part = |at: &str, to: &str| {
        let options = ReplayText {
            session: s.company.bulk.session().to_string(),
            at: Some(at.into()),
            to: Some(to.into()),
            format: ReplayFormat::Jsonl,
            ..ReplayText::default()
        };
        let (text, code) = printed(|out| replay(s.stage.source.as_ref(), &options, out));
        let seqs: Vec<i64> = text
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok())
            .map(|v| v["seq"].as_i64().unwrap())
            .collect();
        (seqs, code)
    };
    assert_eq!(part("#3", "#4"), (vec![3, 4], 0));
    assert_eq!(part("+1:00", "100%"), (vec![3, 4, 5, 6, 7, 8], 0));
    assert_eq!(part("10:05", "10:06"), (vec![], 1));
    assert_eq!(part("later", "100%").1, 2);
    assert_eq!(part("#99", "100%").1, 2);
    // The clock as the program itself prints it: without the fraction of the second.
    let (show, _) = printed(|out| show(s.stage.source.as_ref(), &options.session, Format::Table, out));
    let when = show.lines().find(|l| l.starts_with("when")).unwrap();
    let clock = when.split_whitespace().nth(2).unwrap();
    assert_eq!(part(clock, "100%"), ((0..9).collect(), 0), "{when}");
}

#[test]
fn events_are_found_by_their_binds_as_they_are_shown() {
    let s = CompanyStage::new((80, 24));
    let source = s.stage.source.as_ref();
    let session = Some(s.company.bulk.session().to_string());
    let found = |pattern: Option<&str>, regex: bool, filter: &str| {
        let options = EventsOptions {
            list: list(filter, Format::Jsonl),
            session: session.clone(),
            pattern: pattern.map(str::to_owned),
            regex,
        };
        let (text, _) = printed(|out| events(source, &options, out));
        let seq = |line: &str| serde_json::from_str::<Value>(line).unwrap()["seq"].as_i64().unwrap();
        text.lines().map(seq).collect::<Vec<_>>()
    };
    assert_eq!(found(Some("$1←'eu'"), false, ""), [3]);
    assert_eq!(found(Some("^\\$1←'EU'$"), true, ""), [3]);
    assert_eq!(found(None, false, "\"'EU'\""), [3]);
    assert_eq!(found(Some("$2←"), false, ""), [0; 0]);
}

#[test]
fn a_replay_as_lines_of_json_holds_everything_that_was_recorded() {
    let s = CompanyStage::new((80, 24));
    let options = ReplayText {
        session: s.company.bulk.session().to_string(),
        format: ReplayFormat::Jsonl,
        ..ReplayText::default()
    };
    let (text, _) = printed(|out| replay(s.stage.source.as_ref(), &options, out));
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 9);
    assert_eq!(
        lines[3]["content"]["sql_text"],
        "SELECT id, email, card FROM customers WHERE region = $1 ORDER BY id"
    );
    assert_eq!(lines[3]["content"]["binds"], json!(["'EU'"]));
    assert_eq!(lines[4]["content"]["columns"], json!(["id", "email", "card"]));
    assert_eq!(lines[4]["content"]["rows"].as_array().unwrap().len(), 300);
    assert_eq!(lines[4]["content"]["rows"][7], json!(["7", "person7@example.org", null]));
    assert_eq!(lines[4]["body"]["rows"], 48_200);
    assert_eq!(lines[7]["content"]["error"]["M"], "bodycam: refused by policy");
    assert!(lines.iter().all(|l| l["content"].get("fits_commitment").is_none_or(|f| f == &json!(true))));
}

#[test]
fn without_the_tenant_key_names_are_pseudonyms_and_statements_their_templates() {
    let s = CompanyStage::new((80, 24));
    let source = crate::source::LakeSource::open(s.dir.path().to_str().unwrap(), None).unwrap();
    let (table, _) = printed(|out| sessions(&source, &list("", Format::Table), out));
    assert!(!table.contains("support-copilot") && table.contains(" ~"), "{table}");
    let options = ReplayText { session: s.company.bulk.session().to_string(), ..ReplayText::default() };
    let (text, _) = printed(|out| replay(&source, &options, out));
    assert!(
        text.contains("template of 2") && text.contains("content not opened: no tenant key was given"),
        "{text}"
    );
    assert!(!text.contains("'EU'") && !text.contains("@example.org"));
    let wrong = bodycam_record::TenantKey::new([9; 32]);
    let source = crate::source::LakeSource::open(s.dir.path().to_str().unwrap(), Some(wrong)).unwrap();
    let (text, _) = printed(|out| replay(&source, &options, out));
    assert!(text.contains("the tenant key does not open this session's key"), "{text}");
}

#[test]
fn no_hostile_byte_comes_out_of_any_twin_or_error() {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let hostile = runtime.block_on(Company::record_hostile(dir.path()));
    let source = open(dir.path());
    let source: &dyn Source = source.as_ref();
    let evil = String::from_utf8_lossy(fixture::HOSTILE).into_owned();
    let session = hostile.session().to_string();
    let mut outputs = Vec::new();
    for format in [Format::Table, Format::Json, Format::Jsonl, Format::Csv] {
        outputs.push(printed(|out| sessions(source, &list("", format), out)));
        outputs.push(printed(|out| show(source, &session, format, out)));
        outputs.push(printed(|out| findings(source, &list("", format), out)));
        let options = EventsOptions { list: list("", format), ..EventsOptions::default() };
        outputs.push(printed(|out| events(source, &options, out)));
    }
    for format in [ReplayFormat::Text, ReplayFormat::Jsonl] {
        for ascii in [false, true] {
            let options =
                ReplayText { session: session.clone(), rows: 50, format, ascii, ..ReplayText::default() };
            outputs.push(printed(|out| replay(source, &options, out)));
        }
    }
    for (i, (text, code)) in outputs.iter().enumerate() {
        assert_eq!(*code, 0, "{i}: {text}");
        assert!(is_clean(text), "{i}: {:?}", text.chars().find(|c| *c != '\n' && !is_clean(&c.to_string())));
        assert!(text.contains("x1b") || text.contains("u001b"), "{i} shows the escape: {text}");
    }
    let errors = [
        printed(|out| show(source, &evil, Format::Table, out)),
        printed(|out| sessions(source, &list(&format!("principal>{evil}"), Format::Table), out)),
        printed(|out| sessions(source, &list(&format!("@{evil}"), Format::Table), out)),
        printed(|out| {
            let options =
                EventsOptions { pattern: Some(format!("({evil}")), regex: true, ..EventsOptions::default() };
            events(source, &options, out)
        }),
        printed(|out| {
            let options =
                ReplayText { session: session.clone(), at: Some(evil.clone()), ..ReplayText::default() };
            replay(source, &options, out)
        }),
        printed(|out| {
            let source = crate::source::LakeSource::open(&format!("/nowhere/{evil}"), None).map(drop);
            source.map(|()| Outcome::Match).inspect(|_| drop(out.flush()))
        }),
    ];
    for (i, (text, code)) in errors.iter().enumerate() {
        assert_eq!(*code, 2, "{i}: {text}");
        assert!(is_clean(text), "{i}: {text:?}");
    }
}

#[test]
fn json_strings_mean_what_was_recorded_though_their_bytes_are_harmless() {
    let evil = "a\u{1b}\u{9b}\u{202e}\u{e0041}\"\\é漢";
    let mut out = Vec::new();
    json_line(&mut out, &json!({ "x": evil })).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(is_clean(&text));
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["x"], evil);
}

struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let s = CompanyStage::new((80, 24));
    assert_eq!(exit_code(&sessions(s.stage.source.as_ref(), &list("", Format::Table), &mut Gone)), 0);
    let options = ReplayText { session: s.company.bulk.session().to_string(), ..ReplayText::default() };
    assert_eq!(exit_code(&replay(s.stage.source.as_ref(), &options, &mut Gone)), 0);
}

#[test]
fn the_registry_is_printed() {
    let (text, _) = printed(|out| keys(Format::Table, out));
    assert!(text.contains("next-step") && text.contains("ctrl-p"), "{text}");
    assert!(crate::commands::docs_table().lines().count() > 60);
}

#[test]
fn one_frame_is_printed_as_the_terminal_would_show_it() {
    let s = CompanyStage::new((80, 24));
    let options = Screen {
        session: Some(s.company.bulk.session().to_string()),
        at: Some("#4".into()),
        size: (120, 30),
        ..Screen::default()
    };
    let (text, code) = printed(|out| screen(&s.stage.source, &options, out));
    assert_eq!((text.lines().count(), code), (30, 0));
    for part in ["support-copilot → customers-db/shop", "chain ✔ 9/9", "event 5/9", "person0@example.org"]
    {
        assert!(text.contains(part), "'{part}' is not in\n{text}");
    }
    let list = Screen { size: (100, 20), ..Screen::default() };
    let (text, _) = printed(|out| screen(&s.stage.source, &list, out));
    assert!(text.contains("4 sessions") && text.contains("!EXF-002"), "{text}");
    let lost = Screen { at: Some("nowhere".into()), ..options };
    assert_eq!(printed(|out| screen(&s.stage.source, &lost, out)).1, 2);
}
