package lb

// The two queries that fill a Catalog. Both run on PostgreSQL 13 to 18 as any role,
// read only what PUBLIC may read, take no parameters, and return each row once. They
// must be run with search_path = pg_catalog, so that no object of the database can
// stand in for one of the system's.

// FunctionsQuery returns the columns of FunctionRow. Left out is what SQL cannot call:
// procedures, trigger functions, and whatever takes or returns internal types.
//
// A function may change the session when it is volatile and written in C, when it is
// in a language other than SQL and PL/pgSQL, or when its source has a word that sets
// something (SET of an UPDATE excepted). The built-in ones that do are known by name,
// and the volatile ones of the listed extensions do not.
const FunctionsQuery = `
SELECT p.proname::text,
       bool_or(v.volatile),
       bool_or(v.volatile AND p.pronargs > 0),
       bool_or(CASE
           WHEN p.oid < 16384 OR p.prokind = 'a' THEN false
           WHEN l.lanname IN ('c', 'internal') THEN v.volatile AND NOT EXISTS (
               SELECT FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid
               WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
                 AND d.refclassid = 'pg_extension'::regclass
                 AND x.extname IN ('uuid-ossp', 'pgcrypto', 'hstore', 'ltree', 'citext', 'vector',
                                   'postgis', 'pg_stat_statements', 'pageinspect', 'pgstattuple'))
           WHEN l.lanname NOT IN ('sql', 'plpgsql') THEN true
           ELSE regexp_replace(
                    CASE WHEN p.prosrc <> '' THEN p.prosrc ELSE pg_get_functiondef(p.oid) END,
                    E'(^|[;(]|\\m(begin|then|else|loop|do)\\M)(\\s|--[^\\n]*\\n|/\\*([^*]|\\*+[^*/])*\\*+/)*'
                    'update\\s+((only\\s+)?[\\w.$"]+(\\s*\\*)?(\\s+(as\\s+)?\\w+)?\\s+)?set\\M',
                    E'\\1 ', 'gi')
                ~* E'\\m(set|set_config|setseed|reset|execute|call|listen|unlisten|load|discard|prepare|deallocate|temp|temporary)\\M|\\mdo\\s*[$'']|advisory|dblink|pg_temp|replication_origin'
       END)
FROM pg_proc p
JOIN pg_language l ON l.oid = p.prolang
LEFT JOIN pg_aggregate a ON a.aggfnoid = p.oid
CROSS JOIN LATERAL (
    SELECT p.provolatile = 'v' OR (p.prokind = 'a' AND EXISTS (
        SELECT FROM pg_proc s
        WHERE s.provolatile = 'v'
          AND s.oid IN (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn,
                        a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn))) AS volatile
) v
WHERE p.prokind <> 'p'
  AND NOT EXISTS (
      SELECT FROM pg_type t
      WHERE t.typtype = 'p'
        AND (t.oid = p.prorettype AND (t.typname IN ('trigger', 'event_trigger', 'internal') OR right(t.typname::text, 8) = '_handler')
             OR t.oid = ANY (p.proargtypes) AND t.typname = 'internal'))
GROUP BY 1`

// RelationsQuery returns the columns of RelationRow: sequences, foreign and unlogged
// tables and their parents, and of views and of tables with row-level security what
// their rules and policies call and read. These are taken from the stored trees: the
// dependencies that PostgreSQL records leave out everything built-in.
const RelationsQuery = `
WITH RECURSIVE rel AS (
    SELECT oid, relname, relkind, relpersistence, relrowsecurity
    FROM pg_class
    WHERE oid >= 16384 AND relpersistence <> 't' AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
), own AS (
    SELECT oid, CASE relkind WHEN 'S' THEN 'a sequence' WHEN 'f' THEN 'a foreign table' ELSE 'an unlogged table' END AS why
    FROM rel
    WHERE relkind IN ('S', 'f') OR relpersistence = 'u'
), parent (oid) AS (
    SELECT i.inhparent FROM pg_inherits i JOIN own o ON o.oid = i.inhrelid
    UNION
    SELECT i.inhparent FROM pg_inherits i JOIN parent p ON p.oid = i.inhrelid
), tree AS (
    SELECT r.ev_class AS oid, r.ev_action::text AS nodes
    FROM pg_rewrite r JOIN rel c ON c.oid = r.ev_class
    WHERE r.ev_type = '1' AND c.relkind = 'v'
    UNION ALL
    SELECT p.polrelid, p.polqual::text
    FROM pg_policy p JOIN rel c ON c.oid = p.polrelid
    WHERE c.relrowsecurity AND p.polcmd IN ('r', '*') AND p.polqual IS NOT NULL
), ref AS (
    SELECT DISTINCT t.oid, m[1] AS kind, m[2]::oid AS target
    FROM tree t, regexp_matches(t.nodes, ':(funcid|opfuncid|aggfnoid|winfnoid|relid) ([1-9][0-9]*)', 'g') m
    WHERE m[2]::oid <> t.oid -- a rule has its own view among its relations
), subject (oid) AS (
    SELECT oid FROM own UNION SELECT oid FROM parent UNION SELECT oid FROM tree
)
SELECT c.relname::text, 'primary', o.why
FROM own o JOIN rel c USING (oid)
UNION
SELECT c.relname::text, 'primary', 'it has a foreign or unlogged child'
FROM parent p JOIN rel c USING (oid)
UNION
SELECT c.relname::text, 'primary', 'it reads system catalogs'
FROM ref r JOIN rel c USING (oid) WHERE r.kind = 'relid' AND r.target < 16384
UNION
SELECT c.relname::text, 'relation', s.relname::text
FROM ref r JOIN rel c USING (oid)
     JOIN rel s ON s.oid = r.target JOIN subject t ON t.oid = s.oid
WHERE r.kind = 'relid'
UNION
SELECT c.relname::text, 'function', f.proname::text
FROM ref r JOIN rel c USING (oid) JOIN pg_proc f ON f.oid = r.target
WHERE r.kind <> 'relid' AND (f.provolatile <> 'i' OR f.oid >= 16384)`

// FingerprintQuery returns one text that changes whenever the answer of one of the
// two queries may have changed. It costs a few milliseconds where they may cost
// seconds (thousands of views), so that a periodic refresh need not run them.
const FingerprintQuery = `
SELECT concat_ws(' ',
    (SELECT concat_ws(':', count(*), sum(hashtextextended(concat_ws(',', oid, xmin), 0))) FROM pg_proc),
    (SELECT concat_ws(':', count(*), sum(hashtextextended(concat_ws(',', aggfnoid::oid, xmin), 0))) FROM pg_aggregate),
    (SELECT concat_ws(':', count(*), sum(hashtextextended(concat_ws(',', oid, xmin), 0))) FROM pg_extension),
    (SELECT concat_ws(':', count(*), sum(hashtextextended(concat_ws(',', oid, xmin), 0))) FROM pg_rewrite),
    (SELECT concat_ws(':', count(*), sum(hashtextextended(concat_ws(',', oid, xmin), 0))) FROM pg_policy),
    (SELECT concat_ws(':', count(*), sum(hashtextextended(concat_ws(',', inhrelid, inhparent, xmin), 0))) FROM pg_inherits),
    (SELECT concat_ws(':', count(*), sum(hashtextextended(concat_ws(',', oid, xmin), 0)))
     FROM pg_class
     WHERE oid >= 16384 AND relpersistence <> 't' AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')))`
