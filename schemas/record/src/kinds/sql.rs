//! Kinds of the SQL family.

use super::kind;
use crate::digest::Digest;
use crate::ids::Id16;

kind! {
    /// A statement was received, judged, and is about to leave for the target.
    SqlStatement = 10 "sql.statement" v 1 in Sql {
        /// Number of the statement in its session, from 1.
        statement_no: i64,
        /// How it came: `simple`, `extended` (Parse and Bind), `parse` (a Parse that left before any Bind of it; it has a result only if it failed), `function-call`.
        form: String,
        /// What it is: `select`, `insert`, `update`, `delete`, `merge`, `copy`, `ddl`, `dcl`, `transaction`, `set`, `show`, `explain`, `call`, `do`, `prepare`, `execute`, `deallocate`, `cursor`, `listen`, `notify`, `lock`, `maintenance`, `function-call`, `empty`, `multi`, `other`, `unparsed`.
        statement_kind: String,
        /// `allow` or `deny`.
        verdict: String,
        /// Keyed digest of the literal-free text; absent when it could not be parsed.
        fingerprint: Option<Id16>,
        /// Relation with the largest row estimate among those read or written, as the catalog spells it.
        main_relation: Option<String>,
        /// Relations read, `schema.name` as the catalog spells them; `?` and 16 hex digits for names it does not know.
        relations_read: Vec<String>,
        /// Relations written, likewise.
        relations_written: Vec<String>,
        /// Columns in the output where they are plain: `schema.name.column`; `*` for all of a relation; `?` for expressions.
        output_columns: Vec<String>,
        /// Functions called that the catalog knows; `?` and 16 hex digits for others.
        functions: Vec<String>,
        /// Whether every read, update or delete of a relation is narrowed by WHERE, a join condition or HAVING.
        has_predicate: bool,
        /// Constant LIMIT or FETCH FIRST of the outermost query.
        limit_rows: Option<i64>,
        /// Constant OFFSET of the outermost query.
        offset_rows: Option<i64>,
        /// Statements in the text.
        statement_count: i64,
        /// Why the statement's effect is not fully known: `do`, `call`, `execute-unknown`, `unknown-function`, `unparsed`, `too-large`, `too-deep`, `function-call`, `copy-program`, `copy-file`, `dynamic-sql`, `no-catalog` (no catalog of the database was at hand).
        opaque: Vec<String>,
        /// Rows in the main relation by the target's own estimate.
        est_rows: Option<i64>,
        /// Bytes of statement text.
        statement_bytes: i64,
        /// Keyed digest (session key) of the statement text.
        statement_digest: Digest,
        /// Number of bind parameters.
        bind_count: i64,
        /// Bytes of bind parameters.
        bind_bytes: i64,
        /// Keyed digest (session key) of the bind parameters; absent when there are none.
        binds_digest: Option<Digest>,
        /// Keyed digest (session key, 16 bytes) of the portal's name; absent for the unnamed portal and simple queries.
        portal: Option<Id16>,
        /// Whether content holds only a prefix of the text or the binds.
        content_cut: bool,
        /// Correlation id under the tenant key.
        correlation: Option<Id16>,
    }
}

kind! {
    /// The target finished (or suspended) the execution of a statement. `parent_seq` names the statement.
    SqlResult = 11 "sql.result" v 1 in Sql {
        /// Number of the statement in its session.
        statement_no: i64,
        /// Number of this result within its statement, from 0 (a simple query can have several).
        result_no: i64,
        /// Kind of the statement.
        statement_kind: String,
        /// Verdict of the statement.
        verdict: String,
        /// Fingerprint of the statement.
        fingerprint: Option<Id16>,
        /// Main relation of the statement.
        main_relation: Option<String>,
        /// Relations that the target says the columns come from although the statement's own lists do not name them, `schema.name` as the catalog spells them: the statement meant something else than its text told.
        relations_seen: Vec<String>,
        /// How it ended: `complete`, `error`, `suspended`, `empty`, `skipped` (the target never ran it), `cut` (the portal or the session ended first), `rolled-back` (after `complete`: the commit at Sync failed).
        outcome: String,
        /// SQLSTATE of the error.
        sqlstate: Option<String>,
        /// Command tag as the server gave it, e.g. `SELECT 3`.
        tag: String,
        /// Rows sent to the client, by COPY as well.
        rows: i64,
        /// Bytes of the row messages sent to the client, or of the COPY data.
        bytes: i64,
        /// Table OID of each column, 0 for expressions; empty when no description was seen.
        column_tables: Vec<i64>,
        /// Attribute number of each column, 0 for expressions.
        column_attributes: Vec<i64>,
        /// Type OID of each column.
        column_types: Vec<i64>,
        /// Format of each column: 0 text, 1 binary.
        column_formats: Vec<i64>,
        /// Keyed digest (session key) of the row messages as sent; absent when there were no rows.
        rows_digest: Option<Digest>,
        /// Rows held in content.
        rows_stored: i64,
        /// Whether content stops before the last row.
        rows_cut: bool,
        /// Microseconds from forwarding the statement to this end.
        duration_us: i64,
        /// Correlation id of the statement, under the tenant key.
        correlation: Option<Id16>,
    }
}

kind! {
    /// A COPY stream ended. `parent_seq` names the statement.
    SqlCopy = 12 "sql.copy" v 1 in Sql {
        /// Number of the statement in its session.
        statement_no: i64,
        /// `in` (from the client) or `out` (to the client).
        direction: String,
        /// Overall format: 0 text, 1 binary.
        format: i64,
        /// Data messages.
        messages: i64,
        /// Bytes of data.
        bytes: i64,
        /// How it ended: `done`, `failed`, `cut`.
        outcome: String,
        /// Keyed digest (session key) of the data as sent.
        data_digest: Option<Digest>,
        /// Bytes of data held in content.
        bytes_stored: i64,
        /// Main relation of the statement.
        main_relation: Option<String>,
        /// Fingerprint of the statement.
        fingerprint: Option<Id16>,
        /// Microseconds from start to end.
        duration_us: i64,
    }
}

kind! {
    /// A message beside results reached the client.
    SqlMessage = 13 "sql.message" v 1 in Sql {
        /// What it is: `notice`, `notification`, `parameter`, `error` (outside any statement), `progress` (a running digest of a long result or COPY, every 16 MiB that content does not hold).
        message: String,
        /// SQLSTATE of a notice or error.
        sqlstate: Option<String>,
        /// Name of a server parameter, for `parameter`, as the server spells it.
        parameter: Option<String>,
        /// Bytes of the message body; for `progress` the bytes so far.
        bytes: i64,
        /// Keyed digest (session key) of the message body.
        digest: Digest,
    }
}
