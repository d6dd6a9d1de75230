"""The clients of psycopg. The argument is the share of the run in JSON, the server
comes from the environment, the end of standard input ends everything."""

import asyncio
import json
import random
import sys
import time

import psycopg

share = json.loads(sys.argv[1])
LOST = "40001"
IDS_EACH = 1_000_000
RECONNECT_PAUSE = 0.05
ANSWER_TIMEOUT = 40
INSERT = "INSERT INTO log (id, part, client) VALUES (%s, %s, %s)"
TALLY = "INSERT INTO tallies (client, n) VALUES (%s, 1) ON CONFLICT (client) DO UPDATE SET n = tallies.n + 1"


class Worker:
    def __init__(self, behaviour, number, stopped):
        self.behaviour = behaviour
        self.name = f"{share['kind']}-{behaviour}-{number}"
        self.next = number * IDS_EACH + 1
        self.stopped = stopped
        self.conn = None

    def tell(self, op, id, started, err=None):
        now = time.time()
        event = {
            "at": now, "seconds": now - started, "client": self.name, "op": op, "id": id, "failed": err is not None,
            "state": getattr(err, "sqlstate", None) or "", "dropped": err is not None and self.conn is not None and self.conn.closed,
            "text": f"{type(err).__name__}: {err}".split("\n")[0] if err else "",
        }
        print(json.dumps(event), flush=True)

    async def pause(self, seconds):
        try:
            await asyncio.wait_for(self.stopped.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    async def run(self):
        await self.pause(random.random() * share["pace"])
        while not self.stopped.is_set():
            if self.conn is None and not await self.connect():
                await self.pause(RECONNECT_PAUSE)
                continue
            await getattr(self, self.behaviour)()
            if self.conn.closed:
                self.conn = None
                await self.pause(RECONNECT_PAUSE)
            else:
                await self.pause(share["pace"])
        if self.conn is not None:
            await self.conn.close()

    async def connect(self):
        started = time.time()
        try:
            self.conn = await psycopg.AsyncConnection.connect(autocommit=True, connect_timeout=3)
        except (psycopg.Error, OSError) as err:
            self.tell("connect", 0, started, err)
            return False
        self.tell("connect", 0, started)
        return True

    async def attempt(self, work, timeout=ANSWER_TIMEOUT):
        """Returns the error of the work. Without an answer it gives the connection up."""
        task = asyncio.ensure_future(work)
        done, _ = await asyncio.wait({task}, timeout=timeout)
        if not done:
            # The task waits for a descriptor that another connection may get next.
            loop, fd = asyncio.get_running_loop(), self.conn.fileno()
            loop.remove_reader(fd)
            loop.remove_writer(fd)
            await self.conn.close()
            task.add_done_callback(lambda t: t.cancelled() or t.exception())
            return TimeoutError("no answer")
        try:
            task.result()
        except (psycopg.Error, OSError, ValueError) as err:
            return err
        return None

    async def item(self, id):
        cursor = await self.conn.execute("SELECT v FROM items WHERE id = %s", (id,))
        (v,) = await cursor.fetchone()
        if v != id * 7:
            raise ValueError(f"item {id} is {v}")

    async def insert(self, part):
        await self.conn.execute(INSERT, (self.next, part, self.name))

    async def read(self):
        id = random.randint(1, 1000)
        started = time.time()
        self.tell("read", id, started, await self.attempt(self.item(id)))

    async def write(self):
        started = time.time()
        err = await self.attempt(self.insert(1))
        self.tell("write", self.next, started, err)
        self.after(err)

    def after(self, err):
        if getattr(err, "sqlstate", None) != LOST:
            self.next += 1

    async def statements(self):
        await self.conn.execute("BEGIN")
        await self.insert(1)
        await self.conn.execute(TALLY, (self.name,))
        await self.item(self.next % 1000 + 1)
        await self.insert(2)
        cursor = await self.conn.execute("COMMIT")
        if cursor.statusmessage != "COMMIT":
            raise ValueError(f"COMMIT was answered by {cursor.statusmessage}")

    async def transaction(self):
        started, id = time.time(), self.next
        err = await self.attempt(self.statements())
        self.tell("transaction", id, started, err)
        self.after(err)
        if err is None or self.conn.closed:
            return
        started = time.time()
        self.tell("rollback", id, started, await self.attempt(self.conn.execute("ROLLBACK")))

    async def receive(self):
        await self.conn.execute("LISTEN clients")
        self.tell("listen", 0, time.time())
        async for n in self.conn.notifies():
            self.tell("notified", int(n.payload), time.time())

    async def listen(self):
        started = time.time()
        receiving = asyncio.ensure_future(self.attempt(self.receive(), None))
        stopping = asyncio.ensure_future(self.stopped.wait())
        await asyncio.wait([receiving, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not receiving.done():
            receiving.cancel()
            return
        err = receiving.result() or ConnectionError("the connection has ended")
        await self.conn.close()
        self.tell("listen", 0, started, err)


async def main():
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, lambda: (sys.stdin.read(), loop.call_soon_threadsafe(stopped.set)))
    workers, number = [], share["first"]
    for behaviour, count in (("read", share["reads"]), ("write", share["writes"]),
                             ("transaction", share["transactions"]), ("listen", share["listeners"])):
        for _ in range(count):
            workers.append(Worker(behaviour, number, stopped))
            number += 1
    await asyncio.gather(*(w.run() for w in workers))


asyncio.run(main())
