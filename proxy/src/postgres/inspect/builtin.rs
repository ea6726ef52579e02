//! Names that every PostgreSQL server has, known without asking one.
//!
//! `builtin_names.txt` holds the keywords of PostgreSQL 15 to 18 and, from the catalog of a fresh cluster, functions,
//! types, system relations, their columns, and settings; one kind and its names a line.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

const NAMES: &str = include_str!("builtin_names.txt");

struct Builtin {
    keywords: HashSet<&'static str>,
    functions: HashSet<&'static str>,
    /// `pg_catalog` and `information_schema` relations by bare name, with their schema.
    relations: HashMap<&'static str, &'static str>,
    /// Every name that is not a keyword.
    names: HashSet<&'static str>,
}

static BUILTIN: LazyLock<Builtin> = LazyLock::new(|| {
    let mut all = Builtin {
        keywords: HashSet::new(),
        functions: HashSet::new(),
        relations: HashMap::new(),
        names: HashSet::from(["pg_catalog", "information_schema", "public"]),
    };
    for line in NAMES.lines() {
        let Some((kind, words)) = line.split_once(' ') else { continue };
        for word in words.split(' ') {
            match kind {
                "keyword" => {
                    all.keywords.insert(word);
                }
                // `int4(x)` and the like are casts in the form of a call.
                "function" | "type" => {
                    all.functions.insert(word);
                    all.names.insert(word);
                }
                "relation" => {
                    if let Some((schema, name)) = word.split_once('.') {
                        all.relations.insert(name, schema);
                        all.names.insert(name);
                    }
                }
                // Columns; settings, also with their prefix (`plpgsql.…`).
                _ => all.names.extend(word.split('.')),
            }
        }
    }
    all
});

/// SQL that is given to these as text runs, and no parser of ours sees it.
const RUN_SQL: &[&str] = &[
    "connectby",
    "crosstab",
    "crosstab2",
    "crosstab3",
    "crosstab4",
    "crosstabn",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "database_to_xmlschema",
    "dblink",
    "dblink_build_sql_delete",
    "dblink_build_sql_insert",
    "dblink_build_sql_update",
    "dblink_exec",
    "dblink_open",
    "dblink_send_query",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "schema_to_xmlschema",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "table_to_xmlschema",
    "ts_rewrite",
    "ts_stat",
    "xpath_table",
];

/// Whether the grammar has this keyword (lower case).
pub fn is_keyword(word: &str) -> bool {
    BUILTIN.keywords.contains(word)
}

/// Whether `pg_catalog` of every server has a function or type of this name.
pub fn is_function(name: &str) -> bool {
    BUILTIN.functions.contains(name)
}

/// The schema of a system relation.
pub fn schema_of_relation(name: &str) -> Option<&'static str> {
    BUILTIN.relations.get(name).copied()
}

/// Whether this name, not being a keyword, may stand in a literal-free text of any server.
pub fn is_name(name: &str) -> bool {
    BUILTIN.names.contains(name)
}

/// Names of the functions that run SQL that they are given as text, or read relations named in text.
pub fn run_sql() -> &'static [&'static str] {
    RUN_SQL
}

/// Whether a function of this name runs SQL that it is given as text, or reads relations named in text.
pub fn runs_sql(name: &str) -> bool {
    RUN_SQL.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_holds_what_statements_use_every_day() {
        for name in ["count", "lower", "pg_sleep", "int4", "jsonb", "now", "row_to_json", "query_to_xml"] {
            assert!(is_function(name), "{name}");
        }
        assert!(is_keyword("select") && is_keyword("merge") && !is_keyword("customers"));
        assert_eq!(schema_of_relation("pg_class"), Some("pg_catalog"));
        assert_eq!(schema_of_relation("columns"), Some("information_schema"));
        assert!(is_name("relname") && is_name("search_path") && !is_name("customers"));
    }

    #[test]
    fn the_list_of_functions_that_run_sql_is_sorted() {
        assert!(RUN_SQL.is_sorted());
        assert!(runs_sql("query_to_xml") && runs_sql("dblink") && !runs_sql("count"));
    }
}
