// What programs typically do with node-postgres, against PGHOST and PGPORT. Each
// function is one such program. It asserts what it gets; the output must be the
// same on every server.
'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { Readable } = require('node:stream');
const { pipeline } = require('node:stream/promises');
const { Client, Pool, types } = require('pg');
const Cursor = require('pg-cursor');
const QueryStream = require('pg-query-stream');
const copy = require('pg-copy-streams');

async function withClient(f, config) {
  const client = new Client(config);
  await client.connect();
  try {
    return await f(client);
  } finally {
    await client.end();
  }
}

async function rejects(promise, code) {
  await assert.rejects(promise, (err) => {
    assert.equal(err.code, code, err.message);
    return true;
  });
}

async function simpleQueries() {
  await withClient(async (c) => {
    const res = await c.query("SELECT 1 AS one, 'two' AS two, NULL AS nothing");
    assert.deepEqual(res.rows, [{ one: 1, two: 'two', nothing: null }]);
    assert.deepEqual(res.fields.map((f) => f.name), ['one', 'two', 'nothing']);
    const many = await c.query("SELECT 1 AS a; SELECT 'b' AS b");
    assert.deepEqual(many.map((r) => r.rows), [[{ a: 1 }], [{ b: 'b' }]]);
    assert.equal((await c.query('')).rows.length, 0);
    const pid = await c.query('SELECT pg_backend_pid() AS pid');
    assert.equal(pid.rows[0].pid, c.processID);
  });
}

async function parametersAndPrepared() {
  await withClient(async (c) => {
    const res = await c.query('SELECT $1::int + $2::int AS sum, $3::text AS t, $4::text AS n', [40, 2, 'é', null]);
    assert.deepEqual(res.rows, [{ sum: 42, t: 'é', n: null }]);
    for (let i = 0; i < 50; i++) {
      const named = { name: `by-name-${i % 5}`, text: `SELECT $1::int * ${i % 5} AS v`, values: [i], rowMode: 'array' };
      assert.deepEqual((await c.query(named)).rows, [[i * (i % 5)]]);
    }
    const big = 'x'.repeat(2_000_000);
    assert.equal((await c.query('SELECT length($1) AS n', [big])).rows[0].n, big.length);
    const binary = await c.query({ text: 'SELECT $1::int AS v', values: [7], binary: true });
    assert.equal(binary.rows[0].v, 7);
    // Queries are queued by the client, not awaited one by one.
    const all = await Promise.all(Array.from({ length: 200 }, (_, i) => c.query('SELECT $1::int AS i', [i])));
    assert.deepEqual(all.map((r) => r.rows[0].i), Array.from({ length: 200 }, (_, i) => i));
  });
}

async function transactions() {
  await withClient(async (c) => {
    await c.query('CREATE TABLE node_tx (id int PRIMARY KEY)');
    await c.query('BEGIN');
    assert.equal((await c.query('INSERT INTO node_tx VALUES (1), (2)')).rowCount, 2);
    await c.query('SAVEPOINT s');
    await rejects(c.query('INSERT INTO node_tx VALUES (1)'), '23505');
    await rejects(c.query('SELECT 1'), '25P02');
    await c.query('ROLLBACK TO s');
    await c.query('COMMIT');
    await c.query('BEGIN');
    await c.query('DELETE FROM node_tx');
    await c.query('ROLLBACK');
    assert.equal((await c.query('SELECT count(*)::int AS n FROM node_tx')).rows[0].n, 2);
    await c.query('BEGIN READ ONLY');
    assert.equal((await c.query('SELECT count(*)::int AS n FROM node_tx')).rows[0].n, 2);
    await rejects(c.query('DELETE FROM node_tx'), '25006');
    await c.query('ROLLBACK');
    await c.query('DROP TABLE node_tx');
  });
}

async function pools() {
  const pool = new Pool({ max: 10 });
  await pool.query('CREATE TABLE node_pool (id int, v int)');
  await Promise.all(Array.from({ length: 100 }, (_, i) => pool.query('INSERT INTO node_pool VALUES ($1, $2)', [i, i * i])));
  const clients = await Promise.all(Array.from({ length: 10 }, () => pool.connect()));
  for (const c of clients) {
    await c.query('UPDATE node_pool SET v = v + 1 WHERE id = 5');
    c.release();
  }
  const c = await pool.connect();
  await c.query('UPDATE node_pool SET v = v WHERE id = 5');
  assert.equal((await c.query('SELECT v FROM node_pool WHERE id = 5')).rows[0].v, 35);
  c.release();
  await pool.query('DROP TABLE node_pool');
  await pool.end();
}

async function cursorsAndStreams() {
  await withClient(async (c) => {
    const cursor = c.query(new Cursor('SELECT n FROM generate_series(1, $1) n', [1000]));
    let sum = 0;
    for (;;) {
      const rows = await cursor.read(77);
      if (rows.length === 0) break;
      for (const r of rows) sum += r.n;
    }
    await cursor.close();
    assert.equal(sum, 500500);
    const early = c.query(new Cursor('SELECT n FROM generate_series(1, 1000) n'));
    assert.equal((await early.read(10)).length, 10);
    await early.close();
    assert.equal((await c.query('SELECT 1 AS after')).rows[0].after, 1);
    const failing = c.query(new Cursor('SELECT 1 / (5 - n) FROM generate_series(1, 10) n'));
    assert.equal((await failing.read(2)).length, 2);
    await rejects(failing.read(100), '22012');
    let streamed = 0;
    for await (const row of c.query(new QueryStream('SELECT n FROM generate_series(1, 20000) n', [], { batchSize: 500 }))) {
      streamed += row.n;
    }
    assert.equal(streamed, 200010000);
  });
}

async function copyInAndOut() {
  await withClient(async (c) => {
    await c.query('CREATE TABLE node_copy (id int, v text)');
    const lines = Array.from({ length: 10000 }, (_, i) => `${i}\tline ${i}\n`);
    await pipeline(Readable.from(lines), c.query(copy.from('COPY node_copy FROM STDIN')));
    assert.equal((await c.query('SELECT count(*)::int AS n FROM node_copy')).rows[0].n, 10000);
    let text = '';
    for await (const chunk of c.query(copy.to('COPY (SELECT * FROM node_copy ORDER BY id) TO STDOUT'))) {
      text += chunk;
    }
    assert.equal(text, lines.join(''));
    await rejects(pipeline(Readable.from(['not a number\tx\n']), c.query(copy.from('COPY node_copy FROM STDIN'))), '22P02');
    assert.equal((await c.query('SELECT count(*)::int AS n FROM node_copy')).rows[0].n, 10000);
    await c.query('DROP TABLE node_copy');
  });
}

async function listenAndNotify() {
  await withClient(async (listener) => {
    await listener.query('LISTEN node_channel');
    await withClient(async (sender) => {
      for (const payload of ['one', 'two', '']) {
        const arrived = once(listener, 'notification');
        await sender.query('SELECT pg_notify($1, $2)', ['node_channel', payload]);
        const [msg] = await arrived;
        assert.deepEqual([msg.channel, msg.payload, msg.processId], ['node_channel', payload, sender.processID]);
      }
    });
    await listener.query('UNLISTEN *');
  });
}

async function dataTypes() {
  types.setTypeParser(types.builtins.INT8, BigInt);
  await withClient(async (c) => {
    const at = new Date('2024-02-29T12:34:56.789Z');
    const res = await c.query(
      `SELECT $1::timestamptz AS at, $2::jsonb AS doc, $3::int[] AS ints, $4::text[] AS texts, $5::bytea AS bytes,
              $6::numeric AS exact, $7::bool AS flag, 9007199254740993::int8 AS big, '1 day 02:03:04'::interval AS span`,
      [at, { a: [1, null, 'ü'] }, [1, 2, 3], ['a"b', 'c,d', null], Buffer.from([0, 1, 255]), '1.2300', true],
    );
    const row = res.rows[0];
    assert.equal(row.at.getTime(), at.getTime());
    assert.deepEqual(row.doc, { a: [1, null, 'ü'] });
    assert.deepEqual(row.ints, [1, 2, 3]);
    assert.deepEqual(row.texts, ['a"b', 'c,d', null]);
    assert.deepEqual([...row.bytes], [0, 1, 255]);
    assert.equal(row.exact, '1.2300');
    assert.equal(row.flag, true);
    assert.equal(row.big, 9007199254740993n);
    assert.deepEqual({ ...row.span }, { days: 1, hours: 2, minutes: 3, seconds: 4 });
  });
}

async function errors() {
  await withClient(async (c) => {
    const notices = [];
    c.on('notice', (n) => notices.push([n.severity, n.message]));
    await c.query("DO $$ BEGIN RAISE NOTICE 'noticed'; END $$");
    assert.deepEqual(notices, [['NOTICE', 'noticed']]);
    await assert.rejects(c.query('SELECT * FROM no_such_table'), { code: '42P01', position: '15', severity: 'ERROR' });
    await rejects(c.query('SELECT $1::int', ['x']), '22P02');
    await rejects(c.query('SELEC'), '42601');
    assert.equal((await c.query('SELECT 1 AS ok')).rows[0].ok, 1);
  });
  await rejects(withClient(() => {}, { password: 'wrong' }), '28P01');
  await rejects(withClient(() => {}, { database: 'no_such_database' }), '3D000');
  await withClient(async (c) => {
    await rejects(c.query('SELECT pg_sleep(3600)'), '57014');
    assert.equal((await c.query('SHOW application_name')).rows[0].application_name, 'a node program');
  }, { statement_timeout: 50, application_name: 'a node program' });
}

async function cancel() {
  await withClient(async (c) => {
    const sleeping = new (require('pg').Query)('SELECT pg_sleep(3600)');
    const failed = once(sleeping, 'error');
    c.query(sleeping);
    await withClient(async (observer) => {
      const active = "SELECT wait_event = 'PgSleep' AS sleeping FROM pg_stat_activity WHERE pid = $1";
      while (!(await observer.query(active, [c.processID])).rows[0].sleeping);
    });
    new Client().cancel(c, sleeping);
    const [err] = await failed;
    assert.equal(err.code, '57014');
    assert.equal((await c.query('SELECT 1 AS alive')).rows[0].alive, 1);
  });
  // By SQL from another session, by the process id that the driver knows.
  await withClient(async (c) => {
    const ended = once(c, 'error');
    const sleeping = c.query('SELECT pg_sleep(3600)');
    const rejected = rejects(sleeping, '57P01');
    await withClient(async (other) => {
      assert.equal((await other.query('SELECT pg_terminate_backend($1, 10000) AS done', [c.processID])).rows[0].done, true);
    });
    await rejected;
    await ended;
  });
}

async function readYourWrites() {
  await withClient(async (c) => {
    await c.query('CREATE TABLE node_ryw (n int)');
    await c.query('INSERT INTO node_ryw VALUES (0)');
    for (let i = 1; i < 300; i++) {
      await c.query('UPDATE node_ryw SET n = $1', [i]);
      assert.equal((await c.query('SELECT n FROM node_ryw')).rows[0].n, i);
    }
    await c.query('DROP TABLE node_ryw');
  });
}

async function main() {
  const programs = [
    simpleQueries, parametersAndPrepared, transactions, pools, cursorsAndStreams, copyInAndOut, listenAndNotify,
    dataTypes, errors, cancel, readYourWrites,
  ];
  for (const program of programs) {
    try {
      await program();
    } catch (err) {
      console.error(`${program.name}:`, err);
      process.exit(1);
    }
    console.log(program.name);
  }
}

main();
