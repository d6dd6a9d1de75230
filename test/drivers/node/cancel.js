// Cancels a statement by node-postgres's own means, against PGHOST and PGPORT.
'use strict';

const assert = require('node:assert/strict');
const { Client, Query } = require('pg');

async function main() {
  const client = new Client();
  const observer = new Client();
  await client.connect();
  await observer.connect();
  const query = new Query('SELECT pg_sleep(3600)');
  const ended = new Promise((resolve, reject) => {
    query.on('error', resolve);
    query.on('end', () => reject(new Error('the statement was not cancelled')));
  });
  client.query(query);
  const sleeps = "SELECT count(*)::int AS n FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";
  while ((await observer.query(sleeps, [client.processID])).rows[0].n !== 1);
  new Client().cancel(client, query);
  assert.equal((await ended).code, '57014');
  assert.deepEqual((await client.query('SELECT 6 * 7 AS n')).rows, [{ n: 42 }]);
  await client.end();
  await observer.end();
}

main().catch((err) => {
  console.error(err);
  process.exit(1);
});
