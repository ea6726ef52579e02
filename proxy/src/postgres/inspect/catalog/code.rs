//! What runs functions although no statement names them: triggers, rules, defaults, checks, policies, views, casts
//! and operators. Such a function can set anything, `search_path` first of all.
//!
//! Invariant: what the catalog does not show to be harmless is not: a function counts as harmless when it is the
//! server's own, or written in C or built in, which takes a superuser, and runs no SQL that it is given.

use std::collections::{HashMap, HashSet};

use tokio_postgres::Client;

use super::super::builtin;

/// What this needs of the functions: those that can do anything.
const CALLING: &str = "
    SELECT p.oid FROM pg_catalog.pg_proc p
    WHERE p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
      AND (p.prolang OPERATOR(pg_catalog.<>) ALL ('{12,13}'::pg_catalog.oid[])
           OR p.prokind OPERATOR(pg_catalog.=) 'a')
       OR p.proname::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.text[])";

/// Relations with triggers that call one of these ($1), and with rules of their own.
const FIRED: &str = "
    SELECT t.tgrelid FROM pg_catalog.pg_trigger t
    WHERE NOT t.tgisinternal AND t.tgenabled OPERATOR(pg_catalog.<>) 'D'
      AND t.tgfoid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])
    UNION
    SELECT r.ev_class FROM pg_catalog.pg_rewrite r
    WHERE r.ev_type OPERATOR(pg_catalog.<>) '1' AND r.ev_enabled OPERATOR(pg_catalog.<>) 'D'
      AND r.ev_class OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid";

/// Relations and types whose expressions call one of these ($1), and whether reading is enough. What is created later
/// than the server is in `pg_depend`; of the server's own functions ($2) only the tree of the expression tells.
const EXPRESSIONS: &str = "
    WITH trees(class, object, relation, type, reads, tree) AS (
        SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid, d.adrelid, 0::pg_catalog.oid, false, d.adbin::pg_catalog.text
        FROM pg_catalog.pg_attrdef d
        UNION ALL
        SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, c.oid, c.conrelid, c.contypid, false, c.conbin::pg_catalog.text
        FROM pg_catalog.pg_constraint c WHERE c.conbin IS NOT NULL
        UNION ALL
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid, i.indrelid, 0::pg_catalog.oid, false,
               pg_catalog.concat(i.indexprs, i.indpred)
        FROM pg_catalog.pg_index i WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
        UNION ALL
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, p.partrelid, p.partrelid, 0::pg_catalog.oid, false, p.partexprs::pg_catalog.text
        FROM pg_catalog.pg_partitioned_table p WHERE p.partexprs IS NOT NULL
        UNION ALL
        SELECT 'pg_catalog.pg_trigger'::pg_catalog.regclass, t.oid, t.tgrelid, 0::pg_catalog.oid, false, t.tgqual::pg_catalog.text
        FROM pg_catalog.pg_trigger t WHERE t.tgqual IS NOT NULL
        UNION ALL
        SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass, p.oid, p.polrelid, 0::pg_catalog.oid, true,
               pg_catalog.concat(p.polqual, p.polwithcheck)
        FROM pg_catalog.pg_policy p
        UNION ALL
        SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, r.oid, r.ev_class, 0::pg_catalog.oid, true, r.ev_action::pg_catalog.text
        FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) r.ev_class
        WHERE c.relkind OPERATOR(pg_catalog.=) 'v' AND c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
        UNION ALL
        SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, 0::pg_catalog.oid, t.oid, false, t.typdefaultbin::pg_catalog.text
        FROM pg_catalog.pg_type t WHERE t.typdefaultbin IS NOT NULL
    )
    SELECT DISTINCT t.relation, t.type, t.reads FROM trees t
    WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
                  LEFT JOIN pg_catalog.pg_operator o
                    ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass
                   AND o.oid OPERATOR(pg_catalog.=) d.refobjid
                  WHERE d.classid OPERATOR(pg_catalog.=) t.class AND d.objid OPERATOR(pg_catalog.=) t.object
                    AND (d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                         AND d.refobjid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])
                         OR o.oprcode::pg_catalog.oid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])))
       OR EXISTS (SELECT 1 FROM pg_catalog.unnest($2::pg_catalog.oid[]) own(oid)
                  WHERE pg_catalog.strpos(t.tree, pg_catalog.concat(':funcid ', own.oid, ' ')) OPERATOR(pg_catalog.>) 0)";

/// Types that a cast by one of these ($1) leads from or to.
const CASTS: &str = "
    SELECT c.castsource, c.casttarget FROM pg_catalog.pg_cast c
    WHERE c.castfunc OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])";

/// The types made of these ($1), themselves included, and the relations with columns of them.
const TYPES: &str = "
    WITH RECURSIVE made(type) AS (
        SELECT pg_catalog.unnest($1::pg_catalog.oid[])
        UNION
        SELECT t.oid FROM made m JOIN pg_catalog.pg_type t
          ON t.typbasetype OPERATOR(pg_catalog.=) m.type OR t.typelem OPERATOR(pg_catalog.=) m.type
          OR EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid OPERATOR(pg_catalog.=) t.typrelid AND a.atttypid OPERATOR(pg_catalog.=) m.type
                       AND NOT a.attisdropped)
    )
    SELECT t.typname::pg_catalog.text, t.typrelid
    FROM made m JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) m.type";

/// Operators that one of these ($1) stands behind.
const OPERATORS: &str = "
    SELECT DISTINCT o.oprname::pg_catalog.text FROM pg_catalog.pg_operator o
    WHERE o.oprcode::pg_catalog.oid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])";

/// A write of the first relation can become one of the second: foreign keys that cascade, inheritance, either way.
const PASSED_ON: &str = "
    SELECT c.confrelid, c.conrelid FROM pg_catalog.pg_constraint c
    WHERE c.contype OPERATOR(pg_catalog.=) 'f'
      AND (c.confdeltype OPERATOR(pg_catalog.=) ANY ('{c,n,d}'::pg_catalog.\"char\"[])
           OR c.confupdtype OPERATOR(pg_catalog.=) ANY ('{c,n,d}'::pg_catalog.\"char\"[]))
    UNION SELECT i.inhparent, i.inhrelid FROM pg_catalog.pg_inherits i
    UNION SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits i";

/// Whether changes of the catalog run one of these ($1).
const EVENT_TRIGGERS: &str = "
    SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_event_trigger e
                   WHERE e.evtenabled OPERATOR(pg_catalog.<>) 'D'
                     AND e.evtfoid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[]))";

/// The OIDs below this are the server's own (`FirstNormalObjectId`).
const FIRST_OWN: u32 = 16_384;

/// What of a database runs functions unseen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HiddenCode {
    /// OIDs of relations a write of which does.
    pub written: HashSet<u32>,
    /// OIDs of relations a read of which does.
    pub read: HashSet<u32>,
    /// Names of types a cast from or to which does.
    pub types: HashSet<Box<str>>,
    /// Names of operators that do.
    pub operators: HashSet<Box<str>>,
    /// Whether any change of the catalog does.
    pub ddl: bool,
}

impl HiddenCode {
    /// Reads it.
    pub async fn read(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let mut names: Vec<&str> = builtin::run_sql().to_vec();
        names.push("set_config");
        let calling: Vec<u32> = first_column(client.query(CALLING, &[&names]).await?)?;
        let own: Vec<u32> = calling.iter().copied().filter(|oid| *oid < FIRST_OWN).collect();
        let mut code = Self::default();
        code.written.extend(first_column::<u32>(client.query(FIRED, &[&calling]).await?)?);
        let mut types = Vec::new();
        for row in client.query(EXPRESSIONS, &[&calling, &own]).await? {
            let (relation, of_type, reads): (u32, u32, bool) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            if of_type != 0 {
                types.push(of_type);
            }
            if relation != 0 {
                code.written.insert(relation);
            }
            if relation != 0 && reads {
                code.read.insert(relation);
            }
        }
        for row in client.query(CASTS, &[&calling]).await? {
            let ends: [u32; 2] = [row.try_get(0)?, row.try_get(1)?];
            types.extend(ends.into_iter().filter(|oid| *oid >= FIRST_OWN));
        }
        if !types.is_empty() {
            for row in client.query(TYPES, &[&types]).await? {
                code.types.insert(row.try_get::<_, String>(0)?.into());
                let relation: u32 = row.try_get(1)?;
                if relation != 0 {
                    code.written.insert(relation);
                    code.read.insert(relation);
                }
            }
        }
        let operators: Vec<String> = first_column(client.query(OPERATORS, &[&calling]).await?)?;
        code.operators.extend(operators.into_iter().map(Into::into));
        code.ddl = client.query_one(EVENT_TRIGGERS, &[&calling]).await?.try_get(0)?;
        if !code.written.is_empty() {
            let mut passed_on = Vec::new();
            for row in client.query(PASSED_ON, &[]).await? {
                passed_on.push((row.try_get(0)?, row.try_get(1)?));
            }
            code.pass_on(&passed_on);
        }
        Ok(code)
    }

    /// Adds the relations a write of which can become a write of one that is listed.
    fn pass_on(&mut self, passed_on: &[(u32, u32)]) {
        let mut from: HashMap<u32, Vec<u32>> = HashMap::new();
        for (first, second) in passed_on {
            from.entry(*second).or_default().push(*first);
        }
        let mut next: Vec<u32> = self.written.iter().copied().collect();
        while let Some(relation) = next.pop() {
            let firsts = from.get(&relation).into_iter().flatten();
            next.extend(firsts.filter(|first| self.written.insert(**first)));
        }
    }
}

fn first_column<T: for<'a> tokio_postgres::types::FromSql<'a>>(
    rows: Vec<tokio_postgres::Row>,
) -> Result<Vec<T>, tokio_postgres::Error> {
    rows.iter().map(|row| row.try_get(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_cascades_runs_what_the_last_relation_runs() {
        let mut code = HiddenCode { written: HashSet::from([3, 9]), ..HiddenCode::default() };
        code.pass_on(&[(1, 2), (2, 3), (3, 1), (4, 5)]);
        assert_eq!(code.written, HashSet::from([1, 2, 3, 9]));
    }
}
