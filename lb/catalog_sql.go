package lb

// The two queries that fill a Catalog. Both run on PostgreSQL 13 to 18 as any role,
// read only what PUBLIC may read, take no parameters, and return each row once. They
// must be run with search_path = pg_catalog, so that no object of the database can
// stand in for one of the system's.

// FunctionsQuery returns the columns of FunctionRow. Left out is what takes or returns
// internal types.
//
// The source of what users wrote in SQL and PL/pgSQL is returned (of an aggregate the
// names of its functions), but for one that is longer than 256 kB or comes behind the
// first 32 MB. That is opaque, and so is what is written in another language. What
// belongs to an extension is believed to leave the session alone, but for extensions
// that are known not to and those that bring a language.
const FunctionsQuery = `
WITH proc AS (
    SELECT p.oid, p.proname, p.pronargs,
           CASE WHEN p.prokind = 'p' THEN 'procedure' WHEN t.typname = 'trigger' THEN 'trigger' ELSE 'function' END AS kind,
           p.provolatile = 'v' OR coalesce(g.volatile, false) AS volatile,
           CASE WHEN p.oid < 16384 THEN 'known'
                WHEN x.extname ~ '^(dblink|postgres_fdw|pg_background|pg_cron|pg_variables|pgtt|orafce|set_user|age|pglogical|bdr|session_variables?|pl.*)$' THEN 'opaque'
                WHEN x.extname IS NOT NULL THEN 'known'
                WHEN p.prokind = 'a' THEN 'aggregate'
                WHEN l.lanname NOT IN ('sql', 'plpgsql') THEN 'opaque'
                WHEN p.prosrc = '' THEN 'standard'
                ELSE 'source'
           END AS sort,
           p.prosrc, g.calls
    FROM pg_proc p
    JOIN pg_language l ON l.oid = p.prolang
    JOIN pg_type t ON t.oid = p.prorettype
    LEFT JOIN (
        SELECT a.aggfnoid::oid AS oid, bool_or(s.provolatile = 'v') AS volatile, string_agg(format('%I()', s.proname), ' ') AS calls
        FROM pg_aggregate a
        JOIN pg_proc s ON s.oid IN (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn,
                                    a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)
        GROUP BY 1
    ) g ON g.oid = p.oid
    LEFT JOIN (
        SELECT d.objid, e.extname
        FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
    ) x ON x.objid = p.oid
    WHERE NOT (t.typtype = 'p' AND (t.typname IN ('event_trigger', 'internal') OR right(t.typname::text, 8) = '_handler'))
      AND NOT EXISTS (SELECT FROM pg_type i WHERE i.typname = 'internal' AND i.typtype = 'p' AND i.oid = ANY (p.proargtypes))
      AND (t.typname <> 'trigger' OR p.oid >= 16384)
), source AS (
    SELECT p.*, CASE p.sort
        WHEN 'source' THEN p.prosrc
        WHEN 'standard' THEN pg_get_functiondef(p.oid)
        WHEN 'aggregate' THEN p.calls
    END AS body
    FROM proc p
), measured AS (
    SELECT s.*, octet_length(s.body) > 262144 OR sum(octet_length(s.body)) OVER (ORDER BY s.oid) > 33554432 AS large
    FROM source s
)
SELECT proname::text, kind, bool_or(volatile), bool_or(volatile AND pronargs > 0),
       bool_or(sort = 'opaque' OR coalesce(large, false)),
       array_agg(body ORDER BY oid) FILTER (WHERE body IS NOT NULL AND NOT large)
FROM measured
GROUP BY 1, 2`

// RelationsQuery returns the columns of RelationRow: sequences, foreign and unlogged
// tables and their parents, and of views and of tables with row-level security what
// their rules and policies call and read. These are taken from the stored trees: the
// dependencies that PostgreSQL records leave out everything built-in. What writing a
// table calls are the functions of users in triggers, defaults, rules and policies, its
// partitions' too.
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
), written (oid, function) AS (
    SELECT t.tgrelid, t.tgfoid FROM pg_trigger t WHERE NOT t.tgisinternal
    UNION
    SELECT d.adrelid, m[1]::oid
    FROM pg_attrdef d, regexp_matches(d.adbin::text, ':funcid ([1-9][0-9]*)', 'g') m
    UNION
    SELECT r.ev_class, m[1]::oid
    FROM pg_rewrite r, regexp_matches(r.ev_action::text, ':(?:funcid|opfuncid) ([1-9][0-9]*)', 'g') m
    WHERE r.ev_type <> '1'
    UNION
    SELECT p.polrelid, m[1]::oid
    FROM pg_policy p, regexp_matches(concat(p.polqual::text, p.polwithcheck::text), ':(?:funcid|opfuncid) ([1-9][0-9]*)', 'g') m
    WHERE p.polcmd <> 'r'
), writes (oid, function) AS (
    SELECT oid, function FROM written WHERE function >= 16384
    UNION
    SELECT i.inhparent, w.function FROM pg_inherits i JOIN writes w ON w.oid = i.inhrelid
), subject (oid) AS (
    SELECT oid FROM own UNION SELECT oid FROM parent UNION SELECT oid FROM tree UNION SELECT oid FROM writes
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
WHERE r.kind <> 'relid' AND (f.provolatile <> 'i' OR f.oid >= 16384)
UNION
SELECT c.relname::text, 'write', f.proname::text
FROM writes w JOIN rel c USING (oid) JOIN pg_proc f ON f.oid = w.function`

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
    (SELECT concat_ws(':', count(*), sum(hashtextextended(concat_ws(',', oid, xmin), 0))) FROM pg_trigger),
    (SELECT concat_ws(':', count(*), sum(hashtextextended(concat_ws(',', oid, xmin), 0))) FROM pg_attrdef),
    (SELECT concat_ws(':', count(*), sum(hashtextextended(concat_ws(',', inhrelid, inhparent, xmin), 0))) FROM pg_inherits),
    (SELECT concat_ws(':', count(*), sum(hashtextextended(concat_ws(',', oid, xmin), 0)))
     FROM pg_class
     WHERE oid >= 16384 AND relpersistence <> 't' AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')))`
