'use strict';
// The clients of node-postgres. The argument is the share of the run in JSON, the
// server comes from the environment, the end of standard input ends everything.
const { Client } = require('pg');

const share = JSON.parse(process.argv[2]);
const lost = '40001';
const idsEach = 1000000;
const reconnectPause = 50;
const answerTimeout = 40000;
let stopping = false;

const say = (event) => process.stdout.write(JSON.stringify(event) + '\n');
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

class Connection {
  constructor() {
    this.client = new Client({ connectionTimeoutMillis: 3000 });
    this.open = true;
    // An error outside of a query: a FATAL that nobody waited for, or the end.
    this.client.on('error', (err) => { this.open = false; this.err ||= err; });
    this.ended = new Promise((done) => { this.client.on('end', () => { this.open = false; done(); }); });
  }

  query(text, values) { return this.client.query(text, values); }

  // prepared runs a statement by a name, under which it is prepared the first time.
  prepared(name, text, values) { return this.client.query({ name, text, values }); }

  async close() { try { await this.client.end(); } catch { /* it is gone */ } }
}

class Worker {
  constructor(behaviour, number) {
    this.behaviour = behaviour;
    this.name = `${share.kind}-${behaviour}-${number}`;
    this.next = number * idsEach + 1;
  }

  tell(op, id, started, err) {
    const now = Date.now();
    say({
      at: now / 1000, seconds: (now - started) / 1000, client: this.name, op, id, failed: !!err,
      state: err?.code?.length === 5 ? err.code : '', dropped: !!err && !!this.conn && !this.conn.open,
      text: err ? `${err.severity || err.name}: ${err.message}` : '',
    });
  }

  // attempt returns the error of the work, when the end of the connection that may
  // belong to it has arrived. Without an answer it gives the connection up.
  async attempt(work) {
    const { conn } = this;
    let timer;
    const late = new Promise((done, fail) => {
      timer = setTimeout(() => {
        conn.open = false;
        conn.client.connection.stream.destroy();
        fail(new Error('no answer'));
      }, answerTimeout);
    });
    try {
      await Promise.race([work(), late]);
      return null;
    } catch (err) {
      if (err.severity === 'FATAL' || !err.severity) await Promise.race([this.conn.ended, pause(500)]);
      return err;
    } finally {
      clearTimeout(timer);
    }
  }

  async run() {
    await pause(Math.random() * share.pace * 1000);
    while (!stopping) {
      if (!this.conn) {
        if (!await this.connect()) { await pause(reconnectPause); continue; }
      }
      await this[this.behaviour]();
      if (this.conn.open) { await pause(share.pace * 1000); continue; }
      await this.conn.close();
      this.conn = null;
      await pause(reconnectPause);
    }
    await this.conn?.close();
  }

  async connect() {
    const started = Date.now();
    const conn = new Connection();
    try {
      await conn.client.connect();
    } catch (err) {
      this.tell('connect', 0, started, err);
      return false;
    }
    this.conn = conn;
    this.tell('connect', 0, started);
    return true;
  }

  async item(id) {
    const { rows } = await this.conn.prepared('item', 'SELECT v FROM items WHERE id = $1', [id]);
    if (rows[0].v !== String(id * 7)) throw new Error(`item ${id} is ${rows[0].v}`);
  }

  insert(part) {
    return this.conn.prepared('insert', 'INSERT INTO log (id, part, client) VALUES ($1, $2, $3)', [this.next, part, this.name]);
  }

  async read() {
    const id = 1 + Math.floor(Math.random() * 1000);
    const started = Date.now();
    this.tell('read', id, started, await this.attempt(() => this.item(id)));
  }

  async write() {
    const started = Date.now();
    const err = await this.attempt(() => this.insert(1));
    this.tell('write', this.next, started, err);
    if (err?.code !== lost) this.next++;
  }

  async transaction() {
    let started = Date.now();
    const id = this.next;
    const err = await this.attempt(async () => {
      await this.conn.query('BEGIN');
      await this.insert(1);
      await this.conn.query('INSERT INTO tallies (client, n) VALUES ($1, 1) ON CONFLICT (client) DO UPDATE SET n = tallies.n + 1', [this.name]);
      await this.item(id % 1000 + 1);
      await this.insert(2);
      const { command } = await this.conn.query('COMMIT');
      if (command !== 'COMMIT') throw new Error(`COMMIT was answered by ${command}`);
    });
    this.tell('transaction', id, started, err);
    if (err?.code !== lost) this.next++;
    if (!err || !this.conn.open) return;
    started = Date.now();
    this.tell('rollback', id, started, await this.attempt(() => this.conn.query('ROLLBACK')));
  }

  async listen() {
    const { conn } = this;
    const started = Date.now();
    conn.client.on('notification', (n) => this.tell('notified', Number(n.payload), Date.now()));
    let err = await this.attempt(() => conn.client.query('LISTEN clients'));
    if (!err) {
      this.tell('listen', 0, started);
      await Promise.race([conn.ended, stopped]);
      if (stopping) return;
      err = conn.err || new Error('the connection has ended');
    }
    this.tell('listen', 0, started, err);
  }
}

const stopped = new Promise((done) => {
  process.stdin.on('end', () => { stopping = true; done(); }).resume();
});

const workers = [];
let number = share.first;
for (const [behaviour, count] of [['read', share.reads], ['write', share.writes], ['transaction', share.transactions], ['listen', share.listeners]]) {
  for (let i = 0; i < count; i++) workers.push(new Worker(behaviour, number++));
}
Promise.all(workers.map((w) => w.run())).catch((err) => { console.error(err); process.exitCode = 1; });
