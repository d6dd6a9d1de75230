CREATE TABLE t (id int PRIMARY KEY, v text, at timestamptz DEFAULT now());
INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 100) g;
CREATE UNLOGGED TABLE unlogged (id int);
CREATE SEQUENCE s;
SELECT nextval('s');

CREATE FUNCTION stable_one() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
CREATE FUNCTION vol(t) RETURNS text LANGUAGE sql VOLATILE AS $$SELECT 'of ' || ($1).v$$;
CREATE FUNCTION vol2() RETURNS int LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN 2; END';
CREATE FUNCTION configures() RETURNS text LANGUAGE plpgsql VOLATILE AS $$BEGIN RETURN set_config('work_mem', '5MB', false); END$$;
CREATE PROCEDURE resets() LANGUAGE plpgsql AS 'BEGIN RESET work_mem; END';
CREATE FUNCTION vouched() RETURNS int LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN 3; END';
CREATE FUNCTION declared_wrongly() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN 4; END';
CREATE FUNCTION writes_secretly() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$BEGIN
	PERFORM nextval('s'); RETURN 5; END$$;

CREATE VIEW plain_view AS SELECT id, v FROM t;
CREATE VIEW volatile_view AS SELECT id, vol2() AS n FROM t;
CREATE VIEW random_view AS SELECT id, random() AS r FROM t;
CREATE VIEW outer_view AS SELECT id FROM volatile_view;
CREATE VIEW catalog_view AS SELECT relname, relpages FROM pg_class;
CREATE VIEW sequence_view AS SELECT last_value FROM s;
CREATE TABLE guarded (id int);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON guarded USING (vol2() = 2);
CREATE PROCEDURE proc() LANGUAGE sql AS 'SELECT 1';
CREATE TYPE pair AS (a int, b int);
