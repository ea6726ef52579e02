use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn text(field: Field, value: &str) -> Expr {
    Expr::Test(field, Test::Has(Value::Text(value.into())), Span::default())
}

fn parsed(source: &str) -> Expr {
    Filter::parse(source).unwrap_or_else(|e| panic!("{}\n{e}", e.picture(source))).expr.unwrap()
}

#[test]
fn the_examples_of_the_documentation_mean_what_they_say() {
    let test = |field, test| Expr::Test(field, test, Span::default());
    let hours = |h: i64| h * 3_600_000_000_000;
    assert_eq!(
        parsed("actor:etl verdict:deny -2h.."),
        Expr::And(vec![
            text(Field::Principal, "etl"),
            text(Field::Verdict, "deny"),
            test(Field::At, Test::Range(Some(Value::Time(Time::Ago(hours(2)))), None)),
        ])
    );
    assert_eq!(
        parsed("rows>10k or bytes>=5MiB and not principal:*"),
        Expr::Or(vec![
            test(Field::Rows, Test::Compare(Comparison::Greater, Value::Number(10_000))),
            Expr::And(vec![
                test(Field::Bytes, Test::Compare(Comparison::GreaterOrEqual, Value::Number(5 << 20))),
                Expr::Not(Box::new(test(Field::Principal, Test::Exists))),
            ]),
        ])
    );
    assert_eq!(parsed(r#"cmd~"curl .*\|\s*sh""#), test(Field::Sql, Test::Matches(r"curl .*\|\s*sh".into())));
    assert_eq!(
        parsed("ip in (10.0.0.0/8, ::1)"),
        test(
            Field::Address,
            Test::In(vec![
                Value::Network("10.0.0.0".parse::<IpAddr>().unwrap(), 8),
                Value::Network("::1".parse::<IpAddr>().unwrap(), 128),
            ])
        )
    );
    assert_eq!(parsed("has:finding"), test(Field::Finding, Test::Exists));
    assert_eq!(parsed("@bulk !(a or \"b c\")"), {
        let inner = Expr::Or(vec![Expr::Text("a".into()), Expr::Text("b c".into())]);
        Expr::And(vec![Expr::Saved("bulk".into(), Span::default()), Expr::Not(Box::new(inner))])
    });
    assert_eq!(Filter::parse("  ").unwrap(), Filter::default());
}

#[test]
fn times_are_days_minutes_seconds_and_offsets() {
    let bounds = |source: &str| match parsed(source) {
        Expr::Test(Field::At, Test::Range(from, to), _) => {
            let edge = |v: Option<Value>| match v {
                Some(Value::Time(t)) => Some(t.bounds(1_000, 500)),
                _ => None,
            };
            (edge(from).map(|b| b.0), edge(to).map(|b| b.1))
        }
        other => panic!("{other:?}"),
    };
    let day = 86_400_000_000_000;
    assert_eq!(bounds("1970-01-02..01-03"), (Some(day), Some(3 * day)));
    assert_eq!(bounds("at:1970-01-02T00:01..00:02"), {
        let minute = 60_000_000_000;
        (Some(day + minute), Some(day + 3 * minute))
    });
    assert_eq!(bounds("+00:01.5..+1m"), (Some(500 + 1_500_000_000), Some(501 + 60_000_000_000)));
    assert_eq!(bounds("..-1us"), (None, Some(1)));
    for bad in ["at:2026-02-30", "at:2026-13-01", "at:24:00", "at:2026-01-01T24:00", "at>-2"] {
        assert!(Filter::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn errors_point_at_the_place_and_say_what_would_be_right() {
    for (source, column, says) in [
        ("rows>ten", 5, "a number, e.g. 10k"),
        ("verdct:deny", 0, "did you mean 'verdict'?"),
        ("a (b or c", 2, "'(' is not closed"),
        ("a b)", 3, "closes nothing"),
        ("sql:count(*)", 9, "quotes"),
        ("sql>5", 4, "needs a number"),
        ("rows~5", 5, "for text"),
        ("é rows:", 7, "value is missing"),
        ("a or", 4, "condition is missing"),
        ("not", 3, "condition is missing"),
        ("principal in (a b)", 13, "list is not closed"),
        ("\"abc", 0, "quote is not closed"),
        ("session:xyz", 8, "hex digits"),
        ("ip:10.0.0.0/33", 3, "network"),
        ("@", 0, "saved filter"),
        ("\"\"", 0, "empty phrase"),
    ] {
        let error = Filter::parse(source).expect_err(source);
        assert_eq!(error.column, column, "{source}: {error}");
        assert!(error.message.contains(says), "{source}: {error}");
        assert!(error.picture(source).lines().nth(1).unwrap().trim_start().starts_with('^'));
    }
    let deep = "(".repeat(200) + "a" + &")".repeat(200);
    assert!(Filter::parse(&deep).unwrap_err().message.contains("deeper"));
    assert!(Filter::parse(&"a ".repeat(9000)).unwrap_err().message.contains("at most"));
}

#[test]
fn an_error_about_hostile_text_is_safe_to_show() {
    let source = "\u{1b}[31m\u{202e}x:y rows>\u{9b}";
    let error = Filter::parse(source).unwrap_err();
    assert!(!error.picture(source).chars().any(|c| c != '\n' && crate::shown::is_hostile(c)));
    assert!(!error.to_string().chars().any(crate::shown::is_hostile));
}

fn value(field: Field) -> BoxedStrategy<Value> {
    let ns = 0..i64::MAX;
    match field.ty() {
        FieldType::Text => "\\PC{0,8}|[ -~]{0,8}".prop_map(Value::Text).boxed(),
        FieldType::Id => "[0-9a-f-]{1,36}".prop_map(Value::Text).boxed(),
        FieldType::Count | FieldType::Size => ns.prop_map(Value::Number).boxed(),
        FieldType::Duration => ns.prop_map(Value::Duration).boxed(),
        FieldType::Time => prop_oneof![
            ns.clone().prop_map(Time::Ago),
            ns.prop_map(Time::Offset),
            (-25_567i64..100_000).prop_map(|d| Time::At(d * 86_400_000_000_000, Precision::Day)),
            (0i64..100_000_000).prop_map(|m| Time::At(m * 60_000_000_000, Precision::Minute)),
            (0i64..4_000_000_000).prop_map(|s| Time::At(s * 1_000_000_000, Precision::Second)),
        ]
        .prop_map(Value::Time)
        .boxed(),
        FieldType::Address => prop_oneof![
            (any::<[u8; 4]>(), 0u8..=32).prop_map(|(a, p)| Value::Network(a.into(), p)),
            (any::<[u8; 16]>(), 0u8..=128).prop_map(|(a, p)| Value::Network(a.into(), p)),
        ]
        .boxed(),
    }
}

fn test_of(field: Field) -> BoxedStrategy<Test> {
    let v = value(field);
    let equality = prop_oneof![Just(Comparison::Equal), Just(Comparison::NotEqual)];
    let ordered = prop_oneof![
        Just(Comparison::Less),
        Just(Comparison::LessOrEqual),
        Just(Comparison::Greater),
        Just(Comparison::GreaterOrEqual)
    ];
    let common = prop_oneof![
        Just(Test::Exists),
        v.clone().prop_map(Test::Has),
        (equality, v.clone()).prop_map(|(op, v)| Test::Compare(op, v)),
        proptest::collection::vec(v.clone(), 1..4).prop_map(Test::In),
    ];
    match field.ty() {
        FieldType::Text => {
            let regex = "[ -~]{1,12}".prop_map(Test::Matches);
            prop_oneof![common, regex].boxed()
        }
        FieldType::Id | FieldType::Address => common.boxed(),
        _ => {
            let ends = (proptest::option::of(v.clone()), v.clone(), any::<bool>());
            let range = ends.prop_map(|(a, b, swap)| match swap {
                true => Test::Range(Some(b), a),
                false => Test::Range(a, Some(b)),
            });
            prop_oneof![common, range, (ordered, v).prop_map(|(op, v)| Test::Compare(op, v))].boxed()
        }
    }
}

fn expr() -> BoxedStrategy<Expr> {
    let fields: Vec<Field> = FIELDS.iter().map(|f| f.field).collect();
    let leaf = prop_oneof![
        proptest::sample::select(fields).prop_flat_map(|f| test_of(f).prop_map(move |t| Expr::Test(
            f,
            t,
            Span::default()
        ))),
        "\\PC{1,8}|[ -~]{1,8}|and|or|not|in|has".prop_map(Expr::Text),
        "[a-z][a-z0-9_]{0,6}".prop_map(|n| Expr::Saved(n, Span::default())),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            proptest::collection::vec(inner.clone(), 2..4).prop_map(Expr::Or),
            inner.prop_map(|e| match e {
                Expr::Not(e) => *e,
                e => Expr::Not(Box::new(e)),
            }),
        ]
    })
    .boxed()
}

proptest! {
    #[test]
    fn what_a_filter_prints_parses_to_the_same_filter(expr in expr()) {
        let filter = Filter { expr: Some(expr) };
        let printed = filter.to_string();
        prop_assert_eq!(Filter::parse(&printed).map_err(|e| format!("{printed}\n{e}")), Ok(filter));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,40}|[ -~]{0,60}|[()\"@!:<>=~., a-z0-9+-]{0,60}") {
        if let Err(error) = Filter::parse(&text) {
            error.picture(&text);
        }
    }
}
