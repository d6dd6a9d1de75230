SELECT set_config('a', 'b', true);
--
SELECT pg_catalog.set_config('app.tenant', $1, false) AS x;
--
SELECT set_config('a', $1::text, true), set_config('b'::text, 'c', false::bool) y;
--
SELECT set_config($1, $2, true);
--
SELECT set_config('a', 'b', $1);
--
SELECT set_config('a', 'b', true) FROM t;
--
SELECT set_config('a', 'b', 1 = 1);
--
SELECT set_config('a', upper('b'), true);
--
SELECT DISTINCT set_config('a', 'b', true);
--
SELECT ALL set_config('a', 'b', true);
--
SELECT set_config('a', 'b', true) LIMIT 1;
--
SELECT set_config('a', 'b', true) ORDER BY 1;
--
SELECT set_config('a', NULL, true);
--
SELECT set_config(name => 'a', value => 'b', is_local => true);
--
SELECT set_config('a', 'b', true) OVER (PARTITION BY 1);
--
SELECT set_config('a', 'b', true) FILTER (WHERE true);
--
SELECT (set_config('a', 'b', true));
--
SELECT set_config('a', 'b', true) COLLATE "C";
--
SELECT set_config('a', 'b', true) || 'x';
--
SELECT s.set_config('a', 'b', true);
--
SELECT set_config(VARIADIC ARRAY['a', 'b', 'true']);
--
SELECT currval('s'), lastval();
--
INSERT INTO t VALUES (currval('s'));
--
UPDATE t SET a = lastval();
--
SELECT pg_advisory_unlock(1);
--
SELECT pg_advisory_unlock_all();
--
SELECT pg_try_advisory_lock_shared(1, 2);
--
INSERT INTO t SELECT pg_advisory_lock(a) FROM t;
--
ROLLBACK WORK TO SAVEPOINT "A b";
--
RELEASE savepoint;
--
ROLLBACK TRANSACTION TO savepoint;
--
SAVEPOINT "größe";
--
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE, DEFERRABLE;
--
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE;
--
SET "Search_Path" = x;
--
SET "a.B" TO 1;
--
SET a.b.c TO DEFAULT;
--
SET LOCAL TIME ZONE DEFAULT;
--
SET LOCAL app.tenant = 'x';
--
RESET "App".tenant;
--
SET search_path FROM CURRENT;
--
DO $$ BEGIN NULL; END $$;
--
DO LANGUAGE plpgsql 'BEGIN END';
--
DO 'BEGIN END' LANGUAGE 'plpgsql';
--
CALL p();
--
CALL s.p(1, f(2));
--
DECLARE c CURSOR WITH HOLD FOR SELECT 1;
--
DECLARE c BINARY INSENSITIVE NO SCROLL CURSOR WITH HOLD FOR SELECT 1;
--
DECLARE c SCROLL CURSOR WITHOUT HOLD FOR SELECT 1;
--
CLOSE ALL;
--
SELECT 1 AS a INTO TEMP x;
--
SELECT 1 AS a INTO TEMPORARY TABLE x;
--
SELECT a INTO LOCAL TEMP x FROM t;
--
SELECT a INTO pg_temp.x FROM t;
--
WITH x AS (SELECT 1 AS a) SELECT a INTO TEMP y FROM x;
--
CREATE TEMP TABLE x (a int) ON COMMIT DROP;
--
CREATE GLOBAL TEMPORARY TABLE x (a int);
--
CREATE LOCAL TEMP SEQUENCE x;
--
CREATE OR REPLACE TEMP VIEW x AS SELECT 1;
--
CREATE OR REPLACE TEMP RECURSIVE VIEW x (n) AS SELECT 1;
--
CREATE TABLE pg_temp.y AS SELECT 1;
--
CREATE TEMP TABLE IF NOT EXISTS x AS TABLE t;
--
CREATE TEMP TABLE x AS EXECUTE p;
--
CREATE VIEW pg_temp.v AS SELECT 1;
--
CREATE TYPE pg_temp.e AS ENUM ('a');
--
DROP TABLE x;
--
DROP SCHEMA pg_temp CASCADE;
--
PREPARE TRANSACTION 'y';
--
ROLLBACK AND NO CHAIN;
--
EXPLAIN ANALYZE CREATE TEMP TABLE x AS SELECT 1;
--
EXPLAIN (ANALYZE) SELECT set_config('a', 'b', false);
--
ALTER ROLE r SET app.tenant = 'x';
--
ALTER DATABASE d RESET app.tenant;
--
CREATE FUNCTION f() RETURNS int LANGUAGE sql SET app.tenant = 'x' AS 'SELECT 1';
--
