\set VERBOSITY verbose
\set SHOW_CONTEXT errors
\pset null '(null)'
SELECT 1 AS one, NULL AS nothing;
CREATE TABLE psql_t (id int PRIMARY KEY, v text);
\copy psql_t FROM PROGRAM 'printf "1\ta\n2\tb\n3\t\\\\N\n"'
\copy (SELECT * FROM psql_t ORDER BY id) TO STDOUT
COPY psql_t TO STDOUT;
COPY psql_t FROM STDIN;
4	by stdin
5	too
\.
\d psql_t
\dt psql_*
\df psql_*
\du app
\l app
\dn
\set QUIET off
INSERT INTO psql_t VALUES (6, 'f') RETURNING *;
UPDATE psql_t SET v = upper(v);
\set QUIET on
SELECT count(*) AS rows FROM psql_t \gset
\echo rows :rows
SELECT v FROM psql_t WHERE id = :rows;
SELECT format('SELECT %s AS generated', g) FROM generate_series(1, 3) g \gexec
SELECT id, v, length(v) FROM psql_t WHERE id < 3 \crosstabview id v length
SELECT id, v FROM psql_t ORDER BY id \gdesc
\x
SELECT * FROM psql_t WHERE id = 1;
\x
\set FETCH_COUNT 2
SELECT * FROM psql_t ORDER BY id;
\unset FETCH_COUNT
\set AUTOCOMMIT off
INSERT INTO psql_t VALUES (7, 'rolled back');
ROLLBACK;
\set AUTOCOMMIT on
\set ON_ERROR_ROLLBACK on
BEGIN;
INSERT INTO psql_t VALUES (8, 'kept');
INSERT INTO psql_t VALUES (8, 'duplicate');
COMMIT;
\unset ON_ERROR_ROLLBACK
SELECT count(*) FROM psql_t;
SELECT 1/0;
SELEC 1;
\errverbose
LISTEN psql_channel;
SELECT pg_notify('psql_channel', 'hello') \g /dev/null
UNLISTEN *;
PREPARE p (int) AS SELECT v FROM psql_t WHERE id = $1;
EXECUTE p (1);
DEALLOCATE p;
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM psql_t ORDER BY id;
FETCH 2 FROM c;
\echo :SERVER_VERSION_NUM :ENCODING :USER :DBNAME
END;
\encoding LATIN1
SELECT length('x');
\encoding UTF8
SET TimeZone = 'Asia/Tokyo';
SELECT '2024-01-01 00:00+00'::timestamptz;
\connect
SHOW TimeZone;
SELECT 'a' AS a \; SELECT 'b' AS b;
\lo_import /dev/null
\set oid :LASTOID
\lo_unlink :oid
\sf pg_catalog.lower(anyrange)
EXPLAIN (COSTS OFF) SELECT * FROM psql_t WHERE id = 1;
DO $$ BEGIN RAISE NOTICE 'noticed'; END $$;
DROP TABLE psql_t;
\echo the script has come to its end
