//! Secrets in statements: what must never be content. Passwords of roles, user mappings and subscriptions,
//! connection strings, columns and settings that bear a secret's name.
//!
//! It works on tokens, so that it also works on what does not parse. Invariant: when in doubt more is
//! replaced, never less; a text without any of the words that mark a secret is not touched.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;

use super::lexer::{Kind, Lexer};

mod expressions;
mod names;
mod positions;
mod text;
mod values;

pub use names::{is_secret_name, may_hold_secret};
pub use values::is_secret_value;

use text::{Edit, REPLACED, Redaction};

/// The columns that relations of a name have, for an INSERT that lists none.
pub type ColumnsOf<'a> = &'a dyn Fn(&str) -> Vec<Vec<String>>;

/// A text without its secrets.
#[derive(Debug)]
pub struct Redacted<'a> {
    /// The text; borrowed when it holds none.
    pub text: Cow<'a, str>,
    /// Its parameters that stand where a secret does.
    pub parameters: SecretParameters,
}

/// Parameters whose values are secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SecretParameters {
    /// None of them.
    #[default]
    None,
    /// Those of these numbers, from 1.
    Some(BTreeSet<usize>),
    /// All, as far as anybody can tell.
    All,
}

impl SecretParameters {
    /// Whether parameter number `number`, from 1, is one.
    pub fn contains(&self, number: usize) -> bool {
        match self {
            Self::None => false,
            Self::Some(numbers) => numbers.contains(&number),
            Self::All => true,
        }
    }
}

/// `sql` with its secrets replaced. `parses` says that the server's grammar accepts it; a text that it does not
/// accept and that mentions a secret loses every literal.
pub fn redact_secrets<'a>(
    sql: &'a str,
    standard_strings: bool,
    parses: bool,
    columns_of: ColumnsOf<'_>,
) -> Redacted<'a> {
    let parameters = RefCell::default();
    let redaction = Redaction { standard_strings, parses, columns_of, parameters: &parameters };
    let text = redaction.of(sql, 0);
    Redacted { text, parameters: parameters.into_inner() }
}

/// `sql` without any literal: what EXECUTE hands to a statement whose parameters are secrets.
pub fn without_literals(sql: &str, standard_strings: bool) -> String {
    let mut edit = Edit::of(sql);
    for token in Lexer::new(sql, standard_strings) {
        if token.kind.is_literal() || token.kind == Kind::Comment {
            edit.replace(&token, if token.kind == Kind::Comment { "" } else { REPLACED });
        }
    }
    edit.finish().into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(sql: &str) -> String {
        redact(sql, true, pg_query::parse(sql, 0).is_ok()).into_owned()
    }

    fn redact(sql: &str, standard: bool, parses: bool) -> Cow<'_, str> {
        let columns_of = |name: &str| match name {
            "people" => vec![vec!["id".to_owned(), "password".to_owned()]],
            _ => Vec::new(),
        };
        redact_secrets(sql, standard, parses, &columns_of).text
    }

    #[test]
    fn no_form_of_a_statement_keeps_its_secret() {
        for sql in [
            "UPDATE people SET (id, password) = (1, 's3cret') WHERE id = 1",
            "UPDATE people SET id = 2, (id, password) = ROW('x', 's3cret')",
            "INSERT INTO people VALUES (1, 's3cret')",
            "INSERT INTO public.people AS p VALUES (1, 'a' || 's3cret') ON CONFLICT DO NOTHING",
            "INSERT INTO people AS c (id, password) OVERRIDING SYSTEM VALUE VALUES (900001, 's3cret')",
            "INSERT INTO people (id, password) SELECT 3, x FROM (VALUES ('s3cret')) v(x)",
            "INSERT INTO people SELECT 3, 's3cret'",
            "MERGE INTO people c USING (VALUES (1, 's3cret')) v(i, p) ON c.id = v.i WHEN MATCHED THEN UPDATE SET password = v.p",
            "SELECT 1 FROM people WHERE password = any(array['a', 's3cret'])",
            "SELECT 1 FROM people WHERE password IN ('a', 'b', 's3cret')",
            "SELECT 1 FROM people WHERE lower(password) = 's3cret'",
            "SELECT 1 FROM people WHERE 's3cret' = password",
            "SELECT 1 FROM people p WHERE 's3cret' = p.password::text",
            "SELECT 1 FROM people WHERE password::text = 's3cret'",
            "SELECT dblink_connect('h', 'host=a pass'||'word=s3cret')",
            "SELECT set_config('my.auth', 'Authorization: Bearer s3cret', false)",
            "SELECT 'Server=a;User=b;pass=s3cret'",
            "SELECT '-----BEGIN PRIVATE KEY-----s3cret'",
            "SELECT hmac('a', 'private_key=s3cret', 'sha256')",
            "COPY people FROM PROGRAM 'curl -s -u bob:s3cret http://127.0.0.1:1/'",
            "SELECT length('x') -- postgres://u:s3cret@h/db",
            "SELECT /* postgres://u:s3cret@h/db */ 1",
            "SELECT jsonb_build_object('password', 's3cret')",
            "SELECT 1 FROM people WHERE data @? '$.password ? (@ == \"s3cret\")'",
            "SELECT $x$user=bob password=s3cret$x$",
            "SELECT crypt('s3cret', gen_salt('bf'))",
            "SELECT public . \"crypt\" ( lower('s3cret') , 'x' )",
            "SELECT pgp_sym_encrypt('x', 's3cret')",
            "UPDATE people SET id = 1 WHERE pgp_sym_decrypt(card, 's3cret', 'cipher-algo=aes256') = 'x'",
            "SELECT encode(hmac('x', 's3cret', 'sha256'), 'hex'), encrypt('x', 's3cret', 'aes')",
            "DO $$ BEGIN PERFORM crypt('s3cret', gen_salt('bf')); END $$",
            "SELECT 'bcam_abcdefghij234567_s3cret'",
            "SET application_name = bcam_abcdefghij234567_s3cret",
            "SELECT 1 AS U&\"bcam_abcdefghij234567_s3cret\"",
            "SELECT 1 AS \"bcam_abcdefghij234567_s3cret\" -- bcam_abcdefghij234567_s3cret",
        ] {
            assert!(pg_query::parse(sql, 0).is_ok(), "{sql}");
            assert!(!of(sql).contains("s3cret"), "{sql}: {}", of(sql));
        }
    }

    #[test]
    fn parameters_that_stand_where_a_secret_does_are_known() {
        let some = |numbers: &[usize]| SecretParameters::Some(numbers.iter().copied().collect());
        for (sql, expected) in [
            ("SELECT set_config('my.password', $1, false)", some(&[1])),
            ("UPDATE people SET name = $2, password = $1 WHERE id = $3", some(&[1])),
            ("INSERT INTO t (id, password) VALUES ($1, $2), ($3, $4)", some(&[2, 4])),
            ("INSERT INTO people VALUES ($1, $2)", some(&[2])),
            ("SELECT 1 FROM people WHERE id = $1 AND password = crypt($2, password)", some(&[2])),
            ("SELECT 1 FROM people WHERE id = $1 AND $2 = password", some(&[2])),
            ("SELECT crypt($1, gen_salt('bf')) WHERE $2", some(&[1])),
            ("SELECT pgp_sym_encrypt($1, $2), $3", some(&[1, 2])),
            ("SELECT password FROM people WHERE id = $1", SecretParameters::None),
            ("SELECT $1::text", SecretParameters::None),
        ] {
            let columns_of = |name: &str| match name {
                "people" => vec![vec!["id".to_owned(), "password".to_owned()]],
                _ => Vec::new(),
            };
            assert_eq!(redact_secrets(sql, true, true, &columns_of).parameters, expected, "{sql}");
        }
    }

    #[test]
    fn the_secret_is_gone_and_the_rest_stays() {
        let rows = [
            ("ALTER ROLE bob PASSWORD 's3cret'", "ALTER ROLE bob PASSWORD '***'"),
            (
                "create user bob with encrypted password E's3\\'cret' login",
                "create user bob with encrypted password '***' login",
            ),
            (
                "ALTER USER bob PASSWORD $x$s3cret$x$ VALID UNTIL '2030-01-01'",
                "ALTER USER bob PASSWORD '***' VALID UNTIL '2030-01-01'",
            ),
            ("ALTER ROLE bob PASSWORD /* x */ 's3cret'\n 'more'", "ALTER ROLE bob PASSWORD /* x */ '***'"),
            (
                "CREATE USER MAPPING FOR bob SERVER s OPTIONS (user 'bob', password 's3cret')",
                "CREATE USER MAPPING FOR bob SERVER s OPTIONS (user 'bob', password '***')",
            ),
            (
                "ALTER USER MAPPING FOR bob SERVER s OPTIONS (SET \"password\" 's3cret')",
                "ALTER USER MAPPING FOR bob SERVER s OPTIONS (SET \"password\" '***')",
            ),
            (
                "CREATE SUBSCRIPTION s CONNECTION 'host=a password=s3cret dbname=d' PUBLICATION p",
                "CREATE SUBSCRIPTION s CONNECTION 'host=a password=*** dbname=d' PUBLICATION p",
            ),
            (
                "CREATE SUBSCRIPTION s CONNECTION 'password = s3cret host=a' PUBLICATION p",
                "CREATE SUBSCRIPTION s CONNECTION '***' PUBLICATION p",
            ),
            ("SELECT dblink('password=''s3 cret'' host=a', 'select 1')", "SELECT dblink('***', 'select 1')"),
            (
                "SELECT dblink_connect('postgresql://bob:s3cret@h/d?sslmode=require')",
                "SELECT dblink_connect('postgresql://:***@h/d?sslmode=require')",
            ),
            ("SET my.password = 's3cret'", "SET my.password = '***'"),
            ("SET my.api_token TO 's3cret'", "SET my.api_token TO '***'"),
            (
                "SELECT set_config('my.password', 's3cret', false)",
                "SELECT set_config('my.password', '***', false)",
            ),
            (
                "UPDATE users SET password = 's3cret' WHERE id = 1",
                "UPDATE users SET password = '***' WHERE id = 1",
            ),
            (
                "SELECT 1 FROM users WHERE password = crypt('s3cret', password)",
                "SELECT 1 FROM users WHERE password = crypt('***', password)",
            ),
            (
                "INSERT INTO users (name, password) VALUES ('ann', 's3cret'), ('bob', lower('s3cret'))",
                "INSERT INTO users (name, password) VALUES ('ann', '***'), ('bob', lower('***'))",
            ),
            (
                "DO $$ BEGIN EXECUTE 'ALTER ROLE bob PASSWORD ' || quote_literal('s3cret'); END $$",
                "DO $$ BEGIN EXECUTE 'ALTER ROLE bob PASSWORD ' || quote_literal('***'); END $$",
            ),
            (
                "DO $$ BEGIN ALTER ROLE bob PASSWORD 's3cret'; END $$",
                "DO $$ BEGIN ALTER ROLE bob PASSWORD '***'; END $$",
            ),
            ("DO 'BEGIN ALTER ROLE bob PASSWORD ''s3cret''; END'", "DO '***'"),
            (
                "SELECT format('ALTER ROLE %I PASSWORD %L', 'bob', 's3cret')",
                "SELECT format('ALTER ROLE %I PASSWORD %L', '***', '***')",
            ),
            ("INSERT INTO config VALUES ('{\"password\": \"s3cret\"}')", "INSERT INTO config VALUES ('***')"),
            (
                "ALTER ROLE bob PASSWORD U&'s3cr!0065t' UESCAPE '!'",
                "ALTER ROLE bob PASSWORD '***' UESCAPE '!'",
            ),
            (
                "CREATE USER MAPPING FOR b SERVER s OPTIONS (U&\"p\\0061ssword\" 's3cret')",
                "CREATE USER MAPPING FOR b SERVER s OPTIONS (U&\"p\\0061ssword\" '***')",
            ),
        ];
        for (sql, expected) in rows {
            assert_eq!(of(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_statement_that_does_not_parse_and_mentions_a_password_loses_all_its_literals() {
        let rows = [
            "ALTER ROLE bob PASSWORD IS 's3cret'",
            "ALTER ROLE bob PASWORD 'x' PASSWORD 's3cret",
            "ALTER USER bob PASSWORD hunter2",
            "ALTER USER bob PASSWORD \"hunter2\"",
            "CREATE ROLE x WITH LOGIN 's3cret' PASSWORD",
        ];
        for sql in rows {
            let safe = of(sql);
            assert!(!safe.contains("s3cret") && !safe.contains("hunter2"), "{safe}");
        }
    }

    #[test]
    fn ordinary_statements_are_not_touched() {
        for sql in [
            "SELECT * FROM orders WHERE note = 'hello' AND url = 'https://example.com/a?b=c'",
            "SELECT 1; -- user 'x'",
            "ALTER ROLE bob PASSWORD NULL",
            "SELECT password FROM users WHERE name = 'ann'",
        ] {
            assert!(matches!(redact(sql, true, true), Cow::Borrowed(_)), "{sql}");
        }
    }

    #[test]
    fn without_standard_strings_a_backslash_hides_no_quote() {
        let sql = "SELECT 'a\\' PASSWORD '; ALTER ROLE bob PASSWORD 's3cret'";
        assert!(!redact(sql, false, true).contains("s3cret"));
    }

    proptest! {
        #[test]
        fn no_role_password_survives(
            secret in "Zq[a-zA-Z0-9 $%{}:;,.-]{4,20}", gap in "( |\n|\t|/\\* x \\*/|-- '\n){1,3}", form in 0usize..4,
            before in "[a-z' ;]{0,10}", standard in any::<bool>()
        ) {
            let literal = match form {
                0 => format!("'{secret}'"),
                1 => format!("E'{secret}'"),
                2 => format!("$q_q${secret}$q_q$"),
                _ => format!("U&'{secret}'"),
            };
            let clean = format!("ALTER ROLE bob PASSWORD{gap}{literal}");
            prop_assert!(!redact(&clean, standard, true).contains(&secret));
            let broken = format!("{before} ALTER ROLE bob PASSWORD{gap}{literal}");
            prop_assert!(before.contains('\'') || !redact(&broken, standard, false).contains(&secret));
        }

        #[test]
        fn any_text_can_be_redacted(sql in "\\PC{0,200}", standard in any::<bool>(), parses in any::<bool>()) {
            redact(&sql, standard, parses);
        }
    }
}
