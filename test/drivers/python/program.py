"""What programs typically do with psycopg, against PGHOST and PGPORT.

Each function is one such program. It asserts what it gets, and prints nothing
that depends on the server: the output must be the same on every server.
"""

import asyncio
import datetime
import decimal
import ipaddress
import threading
import uuid

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Json, Jsonb
from psycopg.types.range import Range


def connect(**kwargs):
    return psycopg.connect(autocommit=True, **kwargs)


def simple_queries():
    with connect() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
        cur = conn.execute("SELECT n, n * 2 FROM generate_series(1, 5) n")
        assert cur.fetchall() == [(n, n * 2) for n in range(1, 6)]
        assert cur.rowcount == 5
        assert [d.name for d in cur.description] == ["n", "?column?"]
        assert conn.info.transaction_status.name == "IDLE"
        assert conn.execute("SELECT pg_backend_pid()").fetchone()[0] == conn.info.backend_pid
        # Several statements, several results.
        cur = conn.execute("SELECT 1; SELECT 'two'; SELECT 3.0")
        results = [cur.fetchall()]
        while cur.nextset():
            results.append(cur.fetchall())
        assert results == [[(1,)], [("two",)], [(decimal.Decimal("3.0"),)]]


def parameters():
    with connect() as conn:
        row = conn.execute("SELECT %s::int + %s::int, %s, %s::text IS NULL", (40, 2, "text", None)).fetchone()
        assert row == (42, "text", True)
        row = conn.execute("SELECT %(a)s || %(b)s", {"a": "x", "b": "y"}).fetchone()
        assert row == ("xy",)
        assert conn.execute("SELECT %b", (b"\x00\xff",)).fetchone() == (b"\x00\xff",)
        big = "z" * 1_000_000
        assert conn.execute("SELECT %s", (big,)).fetchone() == (big,)
        cur = conn.cursor(row_factory=dict_row)
        assert cur.execute("SELECT 1 AS a, 'b' AS b").fetchone() == {"a": 1, "b": "b"}


def prepared_statements():
    with connect() as conn:
        # After five executions psycopg prepares by itself.
        for i in range(20):
            assert conn.execute("SELECT %s::int * 3", (i,)).fetchone() == (i * 3,)
        for i in range(5):
            assert conn.execute("SELECT %s::text", (str(i),), prepare=True).fetchone() == (str(i),)
        conn.prepared_max = 3  # the oldest are deallocated
        for i in range(10):
            query = sql.SQL("SELECT {} + %s::int").format(sql.Literal(i))
            for j in range(2):
                assert conn.execute(query, (j,), prepare=True).fetchone() == (i + j,)


def transactions():
    with connect() as conn:
        conn.execute("CREATE TABLE py_tx (id int PRIMARY KEY, v text)")
        with conn.transaction():
            conn.execute("INSERT INTO py_tx VALUES (1, 'a')")
            try:
                with conn.transaction():  # a savepoint
                    conn.execute("INSERT INTO py_tx VALUES (2, 'b')")
                    conn.execute("INSERT INTO py_tx VALUES (1, 'again')")
            except psycopg.errors.UniqueViolation as e:
                assert e.diag.constraint_name == "py_tx_pkey", e.diag.constraint_name
                assert e.diag.table_name == "py_tx"
                assert e.sqlstate == "23505"
            else:
                raise AssertionError("no error")
            conn.execute("INSERT INTO py_tx VALUES (3, 'c')")
        assert conn.execute("SELECT id FROM py_tx ORDER BY id").fetchall() == [(1,), (3,)]
    with psycopg.connect() as conn:  # psycopg begins, and commits at the end of the block
        conn.execute("UPDATE py_tx SET v = 'd' WHERE id = 3")
        assert conn.execute("SELECT v FROM py_tx WHERE id = 3").fetchone() == ("d",)
        conn.rollback()
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        assert conn.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
        conn.commit()
        conn.isolation_level = None
        conn.read_only = True
        assert conn.execute("SELECT count(*) FROM py_tx").fetchone() == (2,)
        conn.rollback()
        try:
            conn.execute("DELETE FROM py_tx")
        except psycopg.errors.ReadOnlySqlTransaction:
            conn.rollback()
        else:
            raise AssertionError("no error")
    with connect() as conn:
        assert conn.execute("SELECT v FROM py_tx WHERE id = 3").fetchone() == ("c",)
        conn.execute("DROP TABLE py_tx")


def server_side_cursors():
    with psycopg.connect() as conn:
        with conn.cursor(name="named") as cur:
            cur.execute("SELECT n FROM generate_series(1, 10000) n")
            cur.itersize = 777
            assert sum(row[0] for row in cur) == 50005000
        with conn.cursor(name="scroll", scrollable=True) as cur:
            cur.execute("SELECT n FROM generate_series(1, 100) n")
            cur.scroll(50)
            assert cur.fetchone() == (51,)
            cur.scroll(10, mode="absolute")
            assert cur.fetchmany(3) == [(11,), (12,), (13,)]
        with conn.cursor(name="held", withhold=True) as cur:
            cur.execute("SELECT n FROM generate_series(1, 5) n")
            conn.commit()
            assert len(cur.fetchall()) == 5
    with connect() as conn:
        total = 0
        for row in conn.cursor().stream("SELECT n FROM generate_series(1, 2000) n"):
            total += row[0]
        assert total == 2001000


def copy_in_and_out():
    with connect() as conn:
        conn.execute("CREATE TABLE py_copy (id int, v text, at timestamptz)")
        with conn.cursor() as cur:
            with cur.copy("COPY py_copy FROM STDIN") as copy:
                for i in range(5000):
                    copy.write_row((i, f"line\t{i}\n", datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)))
            assert cur.rowcount == 5000
            with cur.copy("COPY (SELECT id, v FROM py_copy ORDER BY id LIMIT 3) TO STDOUT") as copy:
                assert list(copy.rows()) == [(str(i), f"line\t{i}\n") for i in range(3)]
            with cur.copy("COPY py_copy (id, v) TO STDOUT (FORMAT BINARY)") as copy:
                assert sum(len(block) for block in copy) > 5000 * 10
            with cur.copy("COPY py_copy (id, v) FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int4", "text"])
                copy.write_row((9999, "binary"))
        assert conn.execute("SELECT v FROM py_copy WHERE id = 9999").fetchone() == ("binary",)
        try:
            with conn.cursor().copy("COPY py_copy FROM STDIN") as copy:
                copy.write("not a number\n")
        except psycopg.errors.InvalidTextRepresentation as e:
            assert "COPY py_copy, line 1" in e.diag.context
        else:
            raise AssertionError("no error")
        try:
            with conn.cursor().copy("COPY py_copy FROM STDIN") as copy:
                copy.write_row((1, "x", None))
                raise KeyError("the program's own")
        except psycopg.errors.QueryCanceled as e:
            assert "the program's own" in str(e)
        else:
            raise AssertionError("no error")
        assert conn.execute("SELECT count(*) FROM py_copy").fetchone() == (5001,)
        conn.execute("DROP TABLE py_copy")


def listen_and_notify():
    with connect() as listener, connect() as sender:
        listener.execute("LISTEN py_channel")
        for i in range(3):
            sender.execute("SELECT pg_notify('py_channel', %s)", (f"message {i}",))
        got = []
        notifies = listener.notifies()
        for n in notifies:
            assert n.channel == "py_channel"
            assert n.pid == sender.info.backend_pid
            got.append(n.payload)
            if len(got) == 3:
                notifies.close()
                break
        assert got == ["message 0", "message 1", "message 2"]


def types():
    values = [
        True, -5, 2**40, 1.5, decimal.Decimal("123.450"), "ünïcödé €", b"\x00\x01\xfe",
        datetime.date(2024, 2, 29), datetime.time(23, 59, 59, 999999),
        datetime.datetime(2024, 1, 2, 3, 4, 5, 678), datetime.timedelta(days=3, seconds=5, microseconds=7),
        datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        uuid.UUID("00112233-4455-6677-8899-aabbccddeeff"), ipaddress.ip_network("10.0.0.0/8"),
        [1, None, 3],
    ]
    with connect() as conn:
        for binary in (False, True):
            cur = conn.cursor(binary=binary)
            for v in values:
                got = cur.execute("SELECT %s", (v,)).fetchone()[0]
                assert got == v, (binary, v, got)
            nested = [["a", None], ["c", 'd"e']]
            assert cur.execute("SELECT %s::text[]", (nested,)).fetchone()[0] == nested
            assert cur.execute("SELECT %s::int4range", (Range(1, 10),)).fetchone()[0] == Range(1, 10)
            doc = {"a": [1, None, {"b": "c"}]}
            assert cur.execute("SELECT %s::json", (Json(doc),)).fetchone()[0] == doc
            assert cur.execute("SELECT %s::jsonb", (Jsonb(doc),)).fetchone()[0] == doc
        conn.execute("SET TimeZone = 'Asia/Tokyo'")
        assert conn.info.timezone.key == "Asia/Tokyo"
        at = conn.execute("SELECT '2024-01-01 00:00:00+00'::timestamptz").fetchone()[0]
        assert at.hour == 9, at


def errors():
    with connect() as conn:
        for query, error in [
            ("SELEC 1", psycopg.errors.SyntaxError),
            ("SELECT 1/0", psycopg.errors.DivisionByZero),
            ("SELECT * FROM no_such_table", psycopg.errors.UndefinedTable),
            ("SELECT 'x'::int", psycopg.errors.InvalidTextRepresentation),
            ("SELECT * FROM pg_authid", psycopg.errors.InsufficientPrivilege),
        ]:
            try:
                conn.execute(query)
            except error:
                pass
            else:
                raise AssertionError(query)
        notices = []
        conn.add_notice_handler(lambda d: notices.append((d.severity, d.message_primary, d.message_hint)))
        conn.execute("DO $$ BEGIN RAISE WARNING 'careful' USING HINT = 'really'; END $$")
        assert notices == [("WARNING", "careful", "really")]
    try:
        connect(password="wrong")
    except psycopg.OperationalError as e:
        assert "password authentication failed" in str(e)
    else:
        raise AssertionError("no error")
    try:
        connect(dbname="no_such_database")
    except psycopg.OperationalError as e:
        assert 'database "no_such_database" does not exist' in str(e)
    else:
        raise AssertionError("no error")


def cancel():
    with connect() as conn, connect() as observer:
        caught = []

        def sleep():
            try:
                conn.execute("SELECT pg_sleep(3600)")
            except psycopg.errors.QueryCanceled as e:
                caught.append(e.sqlstate)

        thread = threading.Thread(target=sleep)
        thread.start()
        active = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s"
        while observer.execute(active, (conn.info.backend_pid,)).fetchone() != (True,):
            pass
        conn.cancel()
        thread.join()
        assert caught == ["57014"]
        assert conn.execute("SELECT 'alive'").fetchone() == ("alive",)


def pipelines():
    with connect() as conn:
        conn.execute("CREATE TABLE py_pipe (id int PRIMARY KEY)")
        with conn.pipeline() as pipeline:
            cursors = [conn.execute("SELECT %s::int + 1", (i,)) for i in range(300)]
            conn.execute("INSERT INTO py_pipe VALUES (1)")
            count = conn.execute("SELECT count(*) FROM py_pipe")
            pipeline.sync()
            assert [c.fetchone()[0] for c in cursors] == list(range(1, 301))
            assert count.fetchone() == (1,)
        try:
            with conn.pipeline():
                conn.execute("INSERT INTO py_pipe VALUES (2)")
                conn.execute("SELECT 1/0")
        except psycopg.errors.DivisionByZero:
            pass
        else:
            raise AssertionError("no error")
        assert conn.execute("SELECT count(*) FROM py_pipe").fetchone() == (1,)
        with conn.pipeline():
            with conn.transaction():
                conn.execute("INSERT INTO py_pipe VALUES (3)")
                conn.execute("INSERT INTO py_pipe VALUES (4)")
            total = conn.execute("SELECT count(*) FROM py_pipe")
        assert total.fetchone() == (3,)
        cur = conn.cursor()
        cur.executemany("INSERT INTO py_pipe VALUES (%s) RETURNING id", [(i,) for i in range(10, 20)], returning=True)
        ids = []
        while True:
            ids.append(cur.fetchone()[0])
            if not cur.nextset():
                break
        assert ids == list(range(10, 20))
        conn.execute("DROP TABLE py_pipe")


def two_phase():
    with psycopg.connect() as conn:
        conn.execute("CREATE TABLE py_tpc (id int)")
        conn.commit()
        xid = conn.xid(42, "global", "branch")
        conn.tpc_begin(xid)
        conn.execute("INSERT INTO py_tpc VALUES (1)")
        conn.tpc_prepare()
        conn.tpc_commit()
        assert conn.execute("SELECT count(*) FROM py_tpc").fetchone() == (1,)
        conn.execute("DROP TABLE py_tpc")


def read_your_writes():
    with connect() as conn:
        conn.execute("CREATE TABLE py_ryw (n int)")
        conn.execute("INSERT INTO py_ryw VALUES (0)")
        for i in range(1, 300):
            conn.execute("UPDATE py_ryw SET n = %s", (i,))
            assert conn.execute("SELECT n FROM py_ryw").fetchone() == (i,), i
        conn.execute("DROP TABLE py_ryw")


async def many_async():
    async def one(i):
        async with await psycopg.AsyncConnection.connect(autocommit=True) as conn:
            for j in range(10):
                cur = await conn.execute("SELECT %s::int, %s::int", (i, j))
                assert await cur.fetchone() == (i, j)

    await asyncio.gather(*(one(i) for i in range(20)))


def async_connections():
    asyncio.run(many_async())


for program in [
    simple_queries, parameters, prepared_statements, transactions, server_side_cursors, copy_in_and_out,
    listen_and_notify, types, errors, cancel, pipelines, two_phase, read_your_writes, async_connections,
]:
    program()
    print(program.__name__, flush=True)
