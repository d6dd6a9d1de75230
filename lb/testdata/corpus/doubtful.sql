SELECT nextval('s');
--
SELECT setval('s', 1), setval('s', 1, false);
--
SELECT currval('s');
--
SELECT lastval();
--
SELECT random();
--
SELECT * FROM t ORDER BY random() LIMIT 1;
--
SELECT t.volatile_f FROM t;
--
SELECT (t).volatile_f FROM t;
--
SELECT (g(1)).volatile_f;
--
SELECT app.volatile_f(1);
--
SELECT "volatile_f"(1);
--
SELECT VOLATILE_F /* x */ (1);
--
SELECT * FROM volatile_f(1);
--
SELECT * FROM t, LATERAL volatile_f(t.a) AS x;
--
SELECT * FROM ROWS FROM (generate_series(1, 2), volatile_f(1)) x;
--
SELECT * FROM t WHERE a = (SELECT volatile_f(1));
--
SELECT * FROM t ORDER BY volatile_f(a);
--
SELECT * FROM t LIMIT volatile_f(1);
--
SELECT count(*) FILTER (WHERE volatile_f(1) = 1) FROM t;
--
SELECT sum(a) OVER (PARTITION BY volatile_f(1)) FROM t;
--
SELECT CASE WHEN true THEN volatile_f(1) END;
--
SELECT ARRAY[volatile_f(1)], ROW(volatile_f(1)), (volatile_f(1), 2);
--
SELECT a[volatile_f(1)], a[1:volatile_f(1)] FROM t;
--
SELECT DISTINCT ON (a) volatile_f(b) FROM t;
--
SELECT a OPERATOR(pg_catalog.+) volatile_f(b) FROM t;
--
SELECT x FROM t TABLESAMPLE BERNOULLI (volatile_f(1)) REPEATABLE (1);
--
SELECT set_config('search_path', 'x', false);
--
SELECT pg_sleep(1);
--
SELECT pg_advisory_lock(1);
--
SELECT lo_create(0);
--
SELECT gen_random_uuid();
--
SELECT clock_timestamp();
--
SELECT * FROM volatile_view;
--
SELECT * FROM app.volatile_view v;
--
TABLE volatile_view;
--
SELECT last_value FROM some_seq;
--
SELECT * FROM t JOIN remote_table USING (a);
--
SELECT * FROM pg_class;
--
SELECT * FROM pg_catalog.pg_stat_activity;
--
SELECT * FROM information_schema.tables;
--
COPY volatile_view TO STDOUT;
--
COPY (SELECT volatile_f(1)) TO STDOUT;
--
COPY remote_table TO STDOUT;
--
VALUES (volatile_f(1));
--
WITH x AS (SELECT nextval('s')) SELECT * FROM x;
--
SELECT * FROM t FOR UPDATE;
--
SELECT * FROM t FOR NO KEY UPDATE;
--
SELECT * FROM t FOR SHARE;
--
SELECT * FROM t FOR KEY SHARE;
--
SELECT * FROM t, u FOR UPDATE OF t NOWAIT;
--
SELECT * FROM t FOR SHARE OF t FOR UPDATE OF u SKIP LOCKED;
--
SELECT * FROM t FOR UPDATE LIMIT 5;
--
SELECT * FROM t LIMIT 5 FOR UPDATE;
--
SELECT * FROM t FOR READ ONLY;
--
SELECT * FROM (SELECT * FROM t FOR UPDATE) AS x;
--
WITH x AS (SELECT * FROM t FOR UPDATE) SELECT * FROM x;
--
SELECT ARRAY(SELECT a FROM t FOR SHARE);
--
(SELECT * FROM t) FOR UPDATE;
--
SELECT * INTO x FROM t;
--
SELECT a, b INTO TABLE x FROM t;
--
SELECT a INTO TEMP x FROM t;
--
SELECT a INTO TEMPORARY TABLE x FROM t;
--
SELECT a INTO LOCAL TEMP x FROM t;
--
SELECT a INTO UNLOGGED x FROM t;
--
SELECT 1 INTO x UNION SELECT 2;
--
WITH y AS (SELECT 1) SELECT * INTO x FROM y;
--
WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x;
--
WITH x AS (UPDATE t SET a = 1 RETURNING *) SELECT * FROM x;
--
WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x;
--
WITH x AS (DELETE FROM t) SELECT 1;
--
WITH x AS (SELECT 1), y AS MATERIALIZED (DELETE FROM t RETURNING a) TABLE y;
--
WITH RECURSIVE x AS (SELECT 1), y AS (INSERT INTO t SELECT * FROM x RETURNING *) VALUES (1);
--
WITH x AS (WITH y AS (DELETE FROM t RETURNING *) SELECT * FROM y) SELECT * FROM x;
--
COPY (WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x) TO STDOUT;
--
COPY (INSERT INTO t VALUES (1) RETURNING *) TO STDOUT;
--
COPY (UPDATE t SET a = 1 RETURNING *) TO STDOUT;
--
COPY (DELETE FROM t RETURNING *) TO STDOUT;
--
COPY (SELECT * FROM t FOR UPDATE) TO STDOUT;
--
COPY (SELECT 1) TO '/tmp/file';
--
COPY t TO '/tmp/file';
--
COPY t TO PROGRAM 'cat';
--
COPY t FROM STDIN;
--
COPY t (a, b) FROM STDIN WITH (FORMAT csv, NULL '');
--
COPY t FROM STDIN CSV HEADER;
--
COPY t FROM '/tmp/file' WHERE a > 1;
--
COPY t FROM PROGRAM 'cat';
--
COPY t FROM STDIN WITH (FREEZE);
--
