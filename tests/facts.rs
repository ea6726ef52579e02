//! Facts against a real server: its catalog, its own names, and its own idea of where columns come from.

use std::sync::Arc;
use std::time::Duration;

use bodycam_proxy::postgres::inspect::catalog::refresh::{Catalogs, refresh, tcp};
use bodycam_proxy::postgres::inspect::{
    CatalogSnapshot, InspectConfig, Inspector, Settings, SharedCatalog, builtin,
};
use bodycam_record::{Id16, TenantKey};
use tokio_postgres::{Client, Config, NoTls};

use crate::support::cluster::Cluster;

const SCHEMA: &str = "
    CREATE SCHEMA hr;
    CREATE TABLE customers (id int PRIMARY KEY, name text, email text, card text, gone int);
    ALTER TABLE customers DROP COLUMN gone;
    ALTER TABLE customers ADD COLUMN city text;
    CREATE TABLE orders (id int PRIMARY KEY, customer_id int, total numeric, note text);
    CREATE TABLE hr.salaries (person text, amount int);
    CREATE TABLE \"Odd Table\" (\"Odd Column\" int);
    CREATE TABLE events (at date, what text) PARTITION BY RANGE (at);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
    CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');
    CREATE VIEW spenders AS SELECT id, name FROM customers;
    CREATE FUNCTION card_of(int) RETURNS text LANGUAGE sql AS 'SELECT card FROM customers WHERE id = $1';
    INSERT INTO customers SELECT n, 'n' || n, 'e' || n, 'c' || n, 'x' FROM generate_series(1, 1000) n;
    INSERT INTO orders SELECT n, n % 1000, n, 'x' FROM generate_series(1, 5000) n;
    INSERT INTO events SELECT date '2026-01-01' + n, 'x' FROM generate_series(0, 299) n;
    ANALYZE customers; ANALYZE orders; ANALYZE events_1; ANALYZE events_2;";

/// Queries whose columns the server and the facts must trace alike.
const QUERIES: &[&str] = &[
    "select * from customers",
    "select id, name, card as harmless from customers",
    "select c.* from customers c join orders o on o.customer_id = c.id",
    "select * from customers c, orders o",
    "select total, email from customers c join orders o on o.customer_id = c.id",
    "select s.card, s.x from (select card, email as x, name || 'a' as y from customers) s",
    "select x, y from (select card, email from customers) s(x, y)",
    "select a, b, card from customers as c(a, b)",
    "with w as (select * from customers) select email, city from w",
    "with w(p, q) as materialized (select card, name from customers) select q, p from w",
    "select t.* from (select c.*, o.note from customers c join orders o on true) t",
    "select j.email, j.note from (customers c join orders o on o.customer_id = c.id) as j",
    "select (c).card from customers c",
    "select distinct on (city) city, card from customers",
    "select city, count(*), max(card) from customers group by city",
    "select card::varchar, lower(card), coalesce(card, ''), card collate \"C\" from customers",
    "select card from customers union select note from orders",
    "select card from customers union all select card from customers",
    "select (select card from customers limit 1), array(select card from customers)",
    "select * from spenders",
    "select s.name from spenders s",
    "select at, what from events",
    "select tableoid, ctid, id from customers",
    "table orders",
    "values (1, 'a')",
    "select * from generate_series(1, 3) g",
    "select * from hr.salaries",
    "select person from hr.salaries, orders",
    "select \"Odd Column\" from \"Odd Table\"",
    "select l.card from orders o, lateral (select card from customers c where c.id = o.customer_id) l",
    "select * from (select * from (select id, card from customers) a) b",
    "with recursive t as (select id, card from customers where id = 1 union all select c.id, c.card from customers c join t on t.id = c.id) select card from t",
    "insert into orders values (99999, 1, 1, 'x') returning id, note, total + 1",
    "update customers set name = 'y' where id = 1 returning *",
    "delete from orders o using customers c where c.id = o.customer_id and o.id = 1 returning o.id, c.card",
    "select relname, relkind from pg_class",
    "select table_name from information_schema.tables",
    "select c from customers c",
    "select * from customers natural join spenders",
    "select id from customers join spenders using (id, name)",
];

async fn connect(cluster: &Cluster) -> (Client, Config) {
    let mut config = Config::new();
    config.host("127.0.0.1").port(cluster.port()).user("postgres").password("pw").dbname("postgres");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    (client, config)
}

fn cluster() -> (tempfile::TempDir, Cluster) {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path(), "pw").unwrap();
    (dir, cluster)
}

#[tokio::test]
async fn facts_agree_with_the_server() {
    let (_dir, cluster) = cluster();
    let (client, config) = connect(&cluster).await;
    client.batch_execute(SCHEMA).await.unwrap();
    let snapshot = refresh(&client).await.unwrap();
    the_catalog_is_read_as_it_is(&client, &snapshot).await;
    every_name_of_the_list_is_the_servers(&client).await;
    columns_come_from_where_the_server_says(&client, snapshot).await;
    changes_are_seen_and_failures_survived(&client, config).await;
}

async fn the_catalog_is_read_as_it_is(client: &Client, snapshot: &CatalogSnapshot) {
    client.batch_execute("CREATE TEMP TABLE \"my secret 4111\" (x int)").await.unwrap();
    let again = refresh(client).await.unwrap();
    let secret = client.query_one("SELECT '\"my secret 4111\"'::regclass::oid", &[]).await.unwrap();
    assert!(again.relation(secret.get(0)).is_none());
    let oid = |name: &'static str| async move {
        let row = client.query_one("SELECT $1::text::regclass::oid", &[&name]).await.unwrap();
        row.get::<_, u32>(0)
    };
    let customers = snapshot.relation(oid("customers").await).unwrap();
    assert_eq!((customers.label().as_str(), customers.est_rows), ("public.customers", Some(1000)));
    assert_eq!(
        (customers.column(4), customers.column(5), customers.column(6)),
        (Some("card"), None, Some("city"))
    );
    let events = snapshot.relation(oid("events").await).unwrap();
    assert_eq!((events.kind, events.est_rows), ('p', Some(300)), "the sum of its partitions");
    assert_eq!(snapshot.relation(oid("hr.salaries").await).unwrap().est_rows, None, "never analysed");
    assert_eq!(snapshot.relation(oid("spenders").await).unwrap().est_rows, None, "a view");
}

async fn every_name_of_the_list_is_the_servers(client: &Client) {
    let rows = client
        .query(
            "SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace",
            &[],
        )
        .await
        .unwrap();
    let unknown: Vec<String> =
        rows.iter().map(|r| r.get(0)).filter(|name: &String| !builtin::is_function(name)).collect();
    // Those that only pg_upgrade may call come and go with minor versions.
    let unknown: Vec<_> = unknown.iter().filter(|name| !name.starts_with("binary_upgrade_")).collect();
    assert!(unknown.is_empty(), "builtin_names.txt lacks {unknown:?}");
    let rows = client.query("SELECT word::text FROM pg_get_keywords()", &[]).await.unwrap();
    for row in rows {
        let word: String = row.get(0);
        assert!(builtin::is_keyword(&word), "{word}");
    }
}

async fn columns_come_from_where_the_server_says(client: &Client, snapshot: CatalogSnapshot) {
    let inspector = Inspector::new(InspectConfig::default(), TenantKey::new([7; 32])).unwrap();
    let settings = Settings::initial("postgres");
    let catalog = Arc::new(snapshot);
    let mut plain = 0;
    for sql in QUERIES {
        let facts = inspector.analyse(sql, &settings, &catalog, Id16::ZERO).await;
        let mut ours = Vec::new();
        for label in &facts.output_columns {
            match label.strip_suffix(".*") {
                None => ours.push(label.clone()),
                Some(whole) => ours.extend(all_columns(client, whole).await),
            }
        }
        let prepared = client.prepare(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let whole_row = sql.starts_with("select c from");
        let merged = sql.contains("natural");
        if whole_row || merged {
            // One column for all of a row; or two columns that the server shows as one.
            assert!(facts.output_columns.iter().all(|c| c.ends_with(".*")), "{sql}");
            continue;
        }
        assert_eq!(ours.len(), prepared.columns().len(), "{sql}: {ours:?}");
        for (ours, theirs) in ours.iter().zip(prepared.columns()) {
            let origin = theirs.table_oid().and_then(|oid| {
                let relation = catalog.relation(oid)?;
                let number = theirs.column_id()?;
                let system = (number < 0).then(|| theirs.name());
                Some(format!("{}.{}", relation.label(), relation.column(number).or(system)?))
            });
            plain += usize::from(origin.is_some());
            // A union and a recursion keep no origin at the server; facts name it where all arms agree.
            let traced_further = origin.is_none() && (sql.contains(" union "));
            assert!(
                traced_further || origin.as_deref().unwrap_or("?") == ours,
                "{sql}: {ours}, server {origin:?}"
            );
        }
    }
    assert!(plain > 50, "{plain}");
}

async fn all_columns(client: &Client, relation: &str) -> Vec<String> {
    let rows = client
        .query(
            "SELECT a.attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
             JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname || '.' || c.relname = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            &[&relation],
        )
        .await
        .unwrap();
    match rows.as_slice() {
        [] => vec!["?".to_owned()],
        rows => rows.iter().map(|r| format!("{relation}.{}", r.get::<_, String>(0))).collect(),
    }
}

async fn changes_are_seen_and_failures_survived(client: &Client, config: Config) {
    let catalogs = Catalogs::new(Duration::from_millis(100));
    let connector = || tcp(config.clone());
    let catalog: SharedCatalog = catalogs.of("shop", "postgres", connector);
    catalog.first_reading(Duration::from_secs(10)).await;
    let first = catalog.current();
    assert!(first.generation() > 0);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(catalog.current().generation(), first.generation(), "nothing changed");
    client.batch_execute("CREATE TABLE loot (x int)").await.unwrap();
    let oid = client.query_one("SELECT 'loot'::regclass::oid", &[]).await.unwrap().get::<_, u32>(0);
    until(|| catalog.current().relation(oid).is_some()).await;
    // The side connection is cut: the next reading makes a new one.
    client
        .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'postgres'")
        .await
        .unwrap();
    client.batch_execute("DROP TABLE loot").await.unwrap();
    until(|| catalog.current().relation(oid).is_none()).await;
    drop(catalog);
    until(|| catalogs.databases() == 0).await;
}

async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..200 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within 10 s");
}
