SELECT 1;
--
SELECT;
--
SELECT 1, 'a', NULL, true, 1.5e3, .5, $1, B'101', X'1F', N'n', E'a\tb\'c', U&'d\0061t\+000061', $$q'uote$$, $tag$ $$ ; $tag$;
--
SELECT 'it''s; -- no comment /* either */';
--
SELECT abalance FROM pgbench_accounts WHERE aid = 5;
--
SELECT * FROM users WHERE id = $1;
--
SELECT u.* FROM users AS u;
--
SELECT id, name AS "Full Name" FROM app.users ORDER BY name DESC NULLS LAST LIMIT 10 OFFSET 20;
--
SELECT DISTINCT city FROM users;
--
SELECT DISTINCT ON (city) city, lower(name) FROM users ORDER BY city, age DESC;
--
SELECT ALL name FROM users;
--
SELECT count(*), sum(total), avg(total)::numeric(10, 2) FROM orders;
--
SELECT city, count(*) FROM users GROUP BY city HAVING count(*) > 3;
--
SELECT city, country, count(*) FROM users GROUP BY ROLLUP (country, city);
--
SELECT city, country, count(*) FROM users GROUP BY CUBE (country, city);
--
SELECT city, country, count(*) FROM users GROUP BY GROUPING SETS ((country, city), (country), ());
--
SELECT grouping(city), count(*) FROM users GROUP BY DISTINCT ROLLUP (city);
--
SELECT count(*) FILTER (WHERE age > 18), count(DISTINCT city) FROM users;
--
SELECT string_agg(name, ', ' ORDER BY name) FROM users;
--
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY age) FROM users;
--
SELECT mode() WITHIN GROUP (ORDER BY city) FROM users;
--
SELECT row_number() OVER (PARTITION BY city ORDER BY age) FROM users;
--
SELECT rank() OVER w, lag(age, 1) OVER w FROM users WINDOW w AS (PARTITION BY city ORDER BY age);
--
SELECT sum(age) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM users;
--
SELECT sum(age) OVER (ORDER BY id RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING EXCLUDE TIES) FROM users;
--
SELECT sum(age) OVER (ORDER BY id GROUPS 2 PRECEDING) FROM users;
--
SELECT first_value(age) OVER (w ROWS 3 PRECEDING) FROM users WINDOW w AS (ORDER BY id);
--
SELECT * FROM users u JOIN orders o ON o.user_id = u.id;
--
SELECT * FROM users u LEFT OUTER JOIN orders o USING (id);
--
SELECT * FROM users u RIGHT JOIN orders o ON (o.user_id = u.id);
--
SELECT * FROM users u FULL JOIN orders o ON u.id = o.user_id;
--
SELECT * FROM users CROSS JOIN orders;
--
SELECT * FROM users NATURAL INNER JOIN orders;
--
SELECT * FROM users JOIN orders USING (id) AS j;
--
SELECT * FROM (users CROSS JOIN orders) AS x;
--
SELECT * FROM users, LATERAL (SELECT * FROM orders WHERE user_id = users.id) AS o;
--
SELECT * FROM users u LEFT JOIN LATERAL (SELECT max(total) FROM orders) o (m) ON true;
--
SELECT * FROM ONLY users;
--
SELECT * FROM users *;
--
SELECT * FROM ONLY (users);
--
SELECT * FROM generate_series(1, 10);
--
SELECT * FROM generate_series(1, 10) AS g;
--
SELECT * FROM generate_series(1, 10) g(i);
--
SELECT * FROM generate_series(1, 10) WITH ORDINALITY AS g(i, n);
--
SELECT * FROM unnest(ARRAY[1, 2]) WITH ORDINALITY u(a, b);
--
SELECT * FROM ROWS FROM (generate_series(1, 2), unnest(ARRAY[1])) AS t(a, b);
--
SELECT * FROM json_to_record('{"a":1}') AS x(a int, b text);
--
SELECT * FROM json_each('{"a":1}') e;
--
SELECT * FROM users TABLESAMPLE BERNOULLI (10) REPEATABLE (5);
--
SELECT * FROM users TABLESAMPLE SYSTEM (10);
--
SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS v(id, name);
--
SELECT * FROM (VALUES (1)) v (id);
--
SELECT * FROM (SELECT 1 AS a UNION SELECT 2) AS x;
--
SELECT (SELECT max(age) FROM users), ARRAY(SELECT id FROM users);
--
SELECT * FROM users WHERE id IN (1, 2, 3);
--
SELECT * FROM users WHERE id NOT IN (SELECT user_id FROM orders);
--
SELECT * FROM users WHERE id = ANY ($1::int[]);
--
SELECT * FROM users WHERE id = ANY (SELECT user_id FROM orders);
--
SELECT * FROM users WHERE id > ALL (ARRAY[1, 2]);
--
SELECT * FROM users WHERE id = SOME (ARRAY[1, 2]);
--
SELECT * FROM users WHERE (id, name) IN ((1, 'a'), (2, 'b'));
--
SELECT * FROM users WHERE ROW(id, name) = ROW(1, 'a');
--
SELECT * FROM users WHERE (id, age) OVERLAPS (1, 2);
--
SELECT * FROM users WHERE EXISTS (SELECT 1 FROM orders);
--
SELECT * FROM users WHERE NOT EXISTS (SELECT FROM orders);
--
SELECT * FROM users WHERE name LIKE 'a%' ESCAPE '!';
--
SELECT * FROM users WHERE name NOT ILIKE ('a%');
--
SELECT * FROM users WHERE name SIMILAR TO '(a|b)%';
--
SELECT * FROM users WHERE name ~* '^a' AND name !~ 'b$';
--
SELECT * FROM users WHERE age BETWEEN 1 AND 10;
--
SELECT * FROM users WHERE age NOT BETWEEN SYMMETRIC 10 AND 1;
--
SELECT * FROM users WHERE name IS NULL OR name IS NOT NULL OR name ISNULL OR name NOTNULL;
--
SELECT * FROM users WHERE active IS TRUE AND active IS NOT FALSE AND active IS NOT UNKNOWN;
--
SELECT * FROM users WHERE a IS DISTINCT FROM b AND a IS NOT DISTINCT FROM c;
--
SELECT * FROM users WHERE doc IS DOCUMENT;
--
SELECT * FROM users WHERE name IS NFC NORMALIZED;
--
SELECT CASE WHEN age > 1 THEN 'a' ELSE 'b' END FROM users;
--
SELECT CASE age WHEN 1 THEN (2) WHEN 3 THEN lower('x') END FROM users;
--
SELECT coalesce(a, b, 1), nullif(a, 2), greatest(1, 2), least(1, 2) FROM t;
--
SELECT CAST(a AS varchar(10)), a::text, a::int[], int '5', date '2020-01-01' FROM t;
--
SELECT a::timestamp(3) with time zone, time '10:00', timestamp with time zone '2020-01-01' FROM t;
--
SELECT interval '1' year, interval '1 day', interval(3) '1 second', INTERVAL '1' DAY TO SECOND;
--
SELECT a AT TIME ZONE 'UTC', a AT TIME ZONE (b), a AT TIME ZONE INTERVAL '1' HOUR FROM t;
--
SELECT extract(year FROM a), extract('month' FROM a), date_part('year', a) FROM t;
--
SELECT position('a' IN b), substring(b FROM 1 FOR 2), substring(b FOR 2), substring(b, 1, 2), overlay(b PLACING 'x' FROM 1 FOR 2) FROM t;
--
SELECT substring(b SIMILAR 'a#"b#"c' ESCAPE '#') FROM t;
--
SELECT trim(b), trim(BOTH 'x' FROM b), trim(LEADING FROM b), trim(TRAILING 'x' FROM b), btrim(b) FROM t;
--
SELECT normalize(b, NFC), b IS NORMALIZED FROM t;
--
SELECT collation for (b), b COLLATE "C" FROM t;
--
SELECT current_date, current_time, current_time(2), current_timestamp, current_timestamp(3), localtime, localtimestamp(1), now();
--
SELECT current_user, session_user, user, current_role, current_catalog, current_schema, current_database();
--
SELECT current_schema(), current_schemas(true);
--
SELECT a[1], a[1:2], a[:], a[2:], (a).b, (a).b.c, (a[1]).b, (f(x)).* FROM t;
--
SELECT a -> 'b' ->> 'c', a #> '{x}', a @> '{}', a ? 'b', a ?| ARRAY['b'], a || b FROM t;
--
SELECT a @? '$.x', a @@ '$.y > 1' FROM t;
--
SELECT -a, +b, @c, |/ 4, ||/ 8, ~d, a ^ 2, a % 3, a << 1, a >> 2, a & b | c # d FROM t;
--
SELECT a <> b, a != b, a <= b, a >= b, NOT a, a AND b OR c FROM t;
--
SELECT a OPERATOR(pg_catalog.+) b, OPERATOR(pg_catalog.-) c FROM t;
--
SELECT a*/* comment */b FROM t;
--
SELECT 1 -- comment
;
--
SELECT /* /* nested */ comment */ 1;
--
SELECT $1::int + $2::int;
--
SELECT row(1, 2), (1, 2), ARRAY[[1, 2], [3, 4]], '{1,2}'::int[];
--
SELECT t FROM t;
--
SELECT t.* FROM t;
--
SELECT "select", "From", "a""b", "ü" FROM "Order by";
--
SELECT größe FROM maße;
--
SELECT a AS select, b AS from FROM t;
--
SELECT a "label", b label FROM t;
--
SELECT xmlelement(name foo, xmlattributes(a AS b), 'c'), xmlforest(a, b AS c), xmlconcat(a, b) FROM t;
--
SELECT xmlparse(DOCUMENT a), xmlparse(CONTENT '<a/>' PRESERVE WHITESPACE), xmlpi(name php, 'x'), xmlroot(a, VERSION '1.0', STANDALONE yes) FROM t;
--
SELECT xmlserialize(CONTENT a AS text), xmlexists('//a' PASSING BY REF b), xmlagg(a) FROM t;
--
SELECT * FROM xmltable('//row' PASSING doc COLUMNS id int PATH '@id', n FOR ORDINALITY, name text PATH 'name' DEFAULT 'x' NOT NULL);
--
SELECT * FROM xmltable(XMLNAMESPACES('http://x' AS x), '//x:row' PASSING doc COLUMNS id int) AS x;
--
SELECT json_build_object('a', 1), jsonb_path_query(a, '$.b'), json_agg(t) FROM t;
--
SELECT to_tsvector('english', a) @@ to_tsquery('a & b'), ts_rank(b, c), ts_headline(a, b) FROM t;
--
SELECT a <-> b AS distance FROM t ORDER BY a <-> point '(1,2)' LIMIT 5;
--
SELECT int4range(1, 10) && int4range(5, 15), lower(r), upper(r) FROM t;
--
SELECT regexp_matches(a, 'x', 'g'), regexp_replace(a, 'x', 'y'), split_part(a, ',', 1) FROM t;
--
SELECT left(a, 2), right(a, 2), repeat(a, 2), replace(a, 'x', 'y'), format('%s', a), concat(a, b) FROM t;
--
SELECT to_char(now(), 'YYYY'), to_date('2020', 'YYYY'), to_timestamp(0), age(now(), b), date_trunc('day', b) FROM t;
--
SELECT make_interval(days => 10), f(a := 1, b => 2), g(VARIADIC ARRAY[1, 2]) FROM t;
--
SELECT abs(-1), round(1.5), ceil(1.2), floor(1.2), mod(5, 3), power(2, 3), sqrt(2), ln(2), width_bucket(5, 1, 10, 3);
--
SELECT md5('a'), sha256('a'), encode('a', 'hex'), decode('61', 'hex'), convert_from('a', 'UTF8');
--
SELECT array_agg(a ORDER BY b DESC), array_length(c, 1), array_to_string(d, ','), cardinality(e) FROM t GROUP BY f;
--
SELECT bool_and(a), every(b), bit_or(c), max(d), min(e), stddev(f), corr(g, h), regr_slope(i, j) FROM t;
--
SELECT has_table_privilege('t', 'select'), format_type(1, 2), obj_description(1, 'x'), to_regclass('t');
--
SELECT pg_typeof(1), pg_catalog.lower('X'), pg_size_pretty(1000::bigint);
--
SELECT app.f(1), app."F"(2), "f"(3), f (4);
--
SELECT a FROM t UNION SELECT b FROM u;
--
SELECT a FROM t UNION ALL SELECT b FROM u INTERSECT SELECT c FROM v EXCEPT ALL SELECT d FROM w;
--
(SELECT a FROM t) UNION (SELECT b FROM u) ORDER BY 1;
--
(SELECT a FROM t ORDER BY a LIMIT 1) UNION ALL (SELECT b FROM u LIMIT 1);
--
((SELECT 1));
--
(VALUES (1)) ORDER BY 1;
--
(TABLE t);
--
(WITH x AS (SELECT 1) SELECT * FROM x);
--
SELECT a FROM t ORDER BY a USING <;
--
SELECT a FROM t ORDER BY a ASC NULLS FIRST FETCH FIRST 5 ROWS ONLY;
--
SELECT a FROM t OFFSET 5 ROWS FETCH NEXT ROW ONLY;
--
SELECT a FROM t ORDER BY a FETCH FIRST 3 ROWS WITH TIES;
--
SELECT a FROM t LIMIT ALL OFFSET 1;
--
SELECT a FROM t LIMIT (SELECT 1);
--
VALUES (1);
--
VALUES (1, 'a'), (2, 'b'), (3, NULL) ORDER BY 1 LIMIT 2;
--
TABLE users;
--
TABLE ONLY app.users;
--
TABLE users ORDER BY id LIMIT 1;
--
WITH x AS (SELECT 1) SELECT * FROM x;
--
WITH x (a, b) AS (SELECT 1, 2), y AS (SELECT a FROM x) SELECT * FROM y;
--
WITH x AS MATERIALIZED (SELECT 1) TABLE x;
--
WITH x AS NOT MATERIALIZED (SELECT 1) SELECT * FROM x, x AS y;
--
WITH x AS (VALUES (1)) VALUES (2);
--
WITH x AS (TABLE t) SELECT count(*) FROM x;
--
WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 100) SELECT sum(n) FROM t;
--
WITH RECURSIVE tree AS (SELECT id, parent FROM nodes WHERE id = $1 UNION SELECT n.id, n.parent FROM nodes n JOIN tree ON n.parent = tree.id) SELECT * FROM tree;
--
WITH RECURSIVE s(l, r) AS (SELECT 1, 2 UNION ALL SELECT l, r FROM s) SEARCH DEPTH FIRST BY l, r SET seq SELECT * FROM s ORDER BY seq;
--
WITH RECURSIVE s(l, r) AS (SELECT 1, 2 UNION ALL SELECT l, r FROM s) CYCLE l, r SET is_cycle TO 'Y' DEFAULT 'N' USING path SELECT * FROM s;
--
WITH a AS (WITH b AS (SELECT 1) SELECT * FROM b) SELECT * FROM a;
--
SELECT * FROM (WITH x AS (SELECT 1) SELECT * FROM x) AS y;
--
SELECT 1 WHERE 1 = 1 GROUP BY () HAVING true;
--
SELECT a$1, b$c$d FROM t;
--
SELECT 1e5, 1.e3, 1., 100_000, 0xFF, 0o17, 0b101;
--
COPY users TO STDOUT;
--
COPY app.users (id, name) TO STDOUT;
--
COPY users TO STDOUT WITH (FORMAT csv, HEADER, DELIMITER ';', FORCE_QUOTE (name, city));
--
COPY users TO STDOUT WITH CSV HEADER;
--
COPY BINARY users TO STDOUT;
--
COPY (SELECT * FROM users WHERE id > 5) TO STDOUT;
--
COPY (VALUES (1), (2)) TO STDOUT (FORMAT binary);
--
COPY (WITH x AS (SELECT 1) TABLE x) TO STDOUT;
--
COPY (TABLE users) TO STDOUT WITH BINARY;
--
SELECT id FROM orders WHERE created_at >= now() - interval '7 days' AND status IN ('new', 'paid') ORDER BY created_at DESC LIMIT 50;
--
SELECT c.name, sum(o.total) AS revenue FROM customers c INNER JOIN orders o ON o.customer_id = c.id WHERE o.created_at BETWEEN $1 AND $2 GROUP BY c.name ORDER BY revenue DESC NULLS LAST;
--
SELECT s_quantity, s_data, s_dist_01 FROM stock WHERE s_i_id = 5 AND s_w_id = 1;
--
SELECT count(DISTINCT (s_i_id)) FROM order_line, stock WHERE ol_w_id = 1 AND ol_d_id = 2 AND s_quantity < 10;
--
SELECT "users"."id", "users"."email" FROM "users" WHERE "users"."deleted_at" IS NULL ORDER BY "users"."id" ASC LIMIT $1;
--
SELECT t0."id", t0."name" FROM "Product" AS t0 LEFT JOIN (SELECT t1."id" FROM "Tag" AS t1) AS t2 ON t0."id" = t2."id";
--
SELECT l_returnflag, sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS sum_charge FROM lineitem WHERE l_shipdate <= date '1998-12-01' - interval '90' day GROUP BY l_returnflag;
--
