"""Cancels a statement by psycopg's own means, against PGHOST and PGPORT."""

import threading

import psycopg


def main():
    with psycopg.connect(autocommit=True) as conn, psycopg.connect(autocommit=True) as observer:
        pid = conn.execute("SELECT pg_backend_pid()").fetchone()[0]

        def cancel():
            sleeps = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
            while observer.execute(sleeps, (pid,)).fetchone() != (1,):
                pass
            conn.cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        try:
            conn.execute("SELECT pg_sleep(3600)")
        except psycopg.errors.QueryCanceled:
            pass
        else:
            raise AssertionError("the statement was not cancelled")
        thread.join()
        assert conn.execute("SELECT 6 * 7").fetchone() == (42,)


main()
