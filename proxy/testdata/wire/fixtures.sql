-- What the scripts share. It is made once, before all runs: object ids are part
-- of the answers, so that nothing that a script describes may be made anew.
SET ROLE app;
SET client_min_messages = warning;

CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE point3 AS (x int, y int, z int);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);

CREATE TABLE items (
    id      int PRIMARY KEY,
    name    text NOT NULL UNIQUE,
    price   numeric(10, 2) CHECK (price >= 0),
    tags    text[],
    created timestamptz NOT NULL DEFAULT '2020-02-29 12:00:00+00'
);
INSERT INTO items VALUES
    (1, 'anvil', 99.50, '{heavy,iron}'),
    (2, 'balloon', 0.25, '{}'),
    (3, 'candle', 1.00, NULL),
    (4, 'drum', NULL, '{loud,"with \"quotes\""}'),
    (5, 'élan', 12345678.90, '{ünï,"çöde"}');

CREATE TABLE numbers (n int PRIMARY KEY);
INSERT INTO numbers SELECT generate_series(1, 1000);

CREATE TABLE typed (
    a smallint, b int, c bigint, d real, e double precision, f numeric, g boolean, h char(5), i varchar(10),
    j bytea, k date, l time, m timetz, n timestamp, o timestamptz, p interval, q uuid, r json, s jsonb, t inet,
    u int[], v text[][], w mood, x point3, y int4range, z bit(4), aa xml, ab tsvector, ac money, ad positive
);
INSERT INTO typed VALUES (
    -1, 2147483647, -9223372036854775808, 1.5, 'NaN', 123456789.123456789, true, 'ab', 'vc',
    '\x00ff10', '2024-02-29', '23:59:59.999999', '12:00:00+05:30', '2024-01-01 00:00:00', '2024-01-01 00:00:00+00',
    '1 year 2 mons 3 days 04:05:06.789', '00112233-4455-6677-8899-aabbccddeeff', '{"a": [1, null]}', '{"b": {"c": 2}}',
    '192.168.1.0/24', '{1,NULL,3}', '{{a,b},{c,d}}', 'happy', '(1,2,3)', '[1,10)', B'1010', '<a/>', 'fat cat', 12.34, 7
);
INSERT INTO typed (a) VALUES (NULL);

CREATE TABLE notes (id int PRIMARY KEY, body text);     -- scripts write here; setup empties it
CREATE TABLE child (
    id   int PRIMARY KEY,
    item int NOT NULL REFERENCES items,
    amount positive,
    CONSTRAINT child_small CHECK (amount < 100)
);
CREATE TABLE changing (a int);                          -- scripts alter it; cleanup restores it
CREATE SEQUENCE counter;

CREATE VIEW item_names AS SELECT id, upper(name) AS name FROM items;
CREATE VIEW counted AS SELECT nextval('counter') AS value;

CREATE FUNCTION add(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + b';
CREATE FUNCTION put_note(id int, body text) RETURNS int LANGUAGE sql AS
    'INSERT INTO notes VALUES (id, body) RETURNING id';
CREATE FUNCTION raise_all() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    RAISE DEBUG 'a debug message';
    RAISE LOG 'a log message';
    RAISE INFO 'an info message';
    RAISE NOTICE 'a notice: %', 42 USING HINT = 'a hint', DETAIL = 'a detail';
    RAISE WARNING 'a warning' USING ERRCODE = '01007';
    RETURN 1;
END $$;
CREATE FUNCTION fail_with_everything() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the message' USING ERRCODE = 'XY001', DETAIL = 'the detail', HINT = 'the hint',
        COLUMN = 'the column', CONSTRAINT = 'the constraint', DATATYPE = 'the type', TABLE = 'the table', SCHEMA = 'the schema';
END $$;
CREATE PROCEDURE put_two(a int, b int) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO notes VALUES (a, 'first');
    COMMIT;
    INSERT INTO notes VALUES (b, 'second');
    ROLLBACK;
END $$;
CREATE PROCEDURE doubled(INOUT a int) LANGUAGE sql AS 'SELECT a * 2';

CREATE TABLE watched (id int);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'trigger % on row %', TG_OP, NEW.id;
    RETURN NEW;
END $$;
CREATE TRIGGER watch BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION watch();

RESET ROLE;
CREATE ROLE nologin NOLOGIN PASSWORD 'nologin-password';
CREATE ROLE reader LOGIN PASSWORD 'reader-password';
GRANT SELECT ON items TO reader;
ANALYZE;
RESET ALL;
