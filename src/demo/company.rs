//! The sample company: Nordlicht Outdoor, a mail-order shop. Every name in it is invented.

/// Customers.
pub const CUSTOMERS: u32 = 24_000;

/// Roles, schema and data, for the superuser in database `postgres`.
pub const DATABASE: &str = "CREATE DATABASE shop";

/// The role that the gateway uses at the target.
pub fn role(password: &str) -> String {
    format!("CREATE ROLE shop_app LOGIN PASSWORD '{password}'")
}

/// Tables and rows, in database `shop`.
pub fn schema() -> String {
    format!(
        r"
CREATE SCHEMA hr;
CREATE TABLE customers (
    id int PRIMARY KEY, name text NOT NULL, email text NOT NULL, phone text, city text, country char(2),
    card_last4 char(4), joined date);
CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL, price numeric(8,2) NOT NULL, stock int NOT NULL);
CREATE TABLE orders (
    id int PRIMARY KEY, customer_id int NOT NULL REFERENCES customers, product_id int NOT NULL REFERENCES products,
    quantity int NOT NULL, state text NOT NULL, placed timestamptz NOT NULL);
CREATE TABLE tickets (id int PRIMARY KEY, customer_id int NOT NULL REFERENCES customers, subject text, state text);
CREATE TABLE hr.salaries (employee text PRIMARY KEY, title text, salary numeric(10,2));

INSERT INTO customers
SELECT i, f || ' ' || l, lower(f) || '.' || lower(l) || i || '@mail.example', '+49 30 ' || lpad((i * 7919 % 10000000)::text, 7, '0'),
       (ARRAY['Berlin','Hamburg','Oslo','Malmö','Tromsø','Aarhus','Turku','Bergen'])[1 + i * 5 % 8],
       (ARRAY['DE','DE','NO','SE','NO','DK','FI','NO'])[1 + i * 5 % 8], lpad((i * 6151 % 10000)::text, 4, '0'),
       date '2019-01-01' + i % 2300
FROM (SELECT i, (ARRAY['Ada','Bo','Carla','Dag','Elin','Finn','Greta','Henrik','Ida','Jonas','Karin','Lars','Mira','Nils','Oda','Per'])[1 + i * 11 % 16] AS f,
             (ARRAY['Aasen','Berg','Clausen','Dahl','Ek','Falk','Grahn','Holm','Iversen','Juhl','Krog','Lind','Moe','Nygaard','Olsen','Paulsen','Quist','Ravn','Solberg'])[1 + i * 13 % 19] AS l
      FROM generate_series(1, {CUSTOMERS}) AS i) AS people;
INSERT INTO products
SELECT i, (ARRAY['tent','stove','lamp','rope','jacket','boots','pack','bottle','compass','hammock'])[1 + i % 10] || ' ' ||
          (ARRAY['Fjell','Vidda','Kyst','Skog','Bre'])[1 + i / 10 % 5], 9.90 + i * 37 % 400, i * 17 % 300
FROM generate_series(1, 200) AS i;
INSERT INTO orders
SELECT i, 1 + i * 31 % {CUSTOMERS}, 1 + i * 7 % 200, 1 + i % 4, (ARRAY['placed','packed','sent','delivered','returned'])[1 + i * 3 % 5],
       now() - (i % 400) * interval '1 hour'
FROM generate_series(1, 60000) AS i;
INSERT INTO tickets
SELECT i, 1 + i * 97 % {CUSTOMERS}, (ARRAY['where is my order','wrong size','broken zip','invoice please','refund'])[1 + i % 5],
       (ARRAY['open','waiting','closed'])[1 + i % 3]
FROM generate_series(1, 3000) AS i;
INSERT INTO hr.salaries
SELECT 'employee ' || i, (ARRAY['clerk','buyer','developer','packer','manager'])[1 + i % 5], 31000 + i * 613 % 60000
FROM generate_series(1, 120) AS i;
CREATE INDEX ON orders (customer_id);
GRANT USAGE ON SCHEMA hr TO shop_app;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public, hr TO shop_app;
ANALYZE;
"
    )
}

/// What a support agent asks in an ordinary session: a few rows each time.
pub fn ordinary_work(seed: u32) -> Vec<String> {
    let customer = 1 + seed * 7919 % CUSTOMERS;
    let limit = 10 + seed % 31;
    vec![
        format!("SELECT id, subject, state FROM tickets WHERE state = 'open' ORDER BY id DESC LIMIT {limit}"),
        format!("SELECT id, name, email, city FROM customers WHERE id = {customer}"),
        format!(
            "SELECT o.id, p.name, o.quantity, o.state FROM orders o JOIN products p ON p.id = o.product_id WHERE o.customer_id = {customer} ORDER BY o.id"
        ),
        format!("SELECT name, stock FROM products WHERE stock < {} ORDER BY stock", 5 + seed % 12),
        format!("UPDATE tickets SET state = 'waiting' WHERE id = {}", 1 + seed * 13 % 3000),
        format!(
            "SELECT count(*) FROM orders WHERE state = 'placed' AND placed > now() - interval '{} hours'",
            1 + seed % 24
        ),
    ]
}
