#!/bin/bash
# A database to try it with: what the gateway logs in as, and a table worth watching.
set -euo pipefail
psql -v ON_ERROR_STOP=1 -v password="$(cat /run/secrets/target.password)" --dbname=shop <<'SQL'
CREATE ROLE app LOGIN PASSWORD :'password';
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, email text NOT NULL);
INSERT INTO customers SELECT n, 'name ' || n, 'customer' || n || '@example.com' FROM generate_series(1, 10000) AS n;
GRANT SELECT ON customers TO app;
SQL
