// What `make bench-queue` measures of BullMQ. Prints one JSON object. Needs NODE_PATH with bullmq and ioredis.
//
//   node load.js rates PORT BULK SINGLE   adds and processes that many no-op jobs, in bulk and one by one
//   node load.js fill PORT COUNT          adds jobs and leaves them waiting
'use strict';
const { Queue, Worker } = require('bullmq');
const { Redis } = require('ioredis');

const BATCH = 1000;
const IN_FLIGHT = 100;
const BATCHES_IN_FLIGHT = 4;
const [what, port, ...counts] = process.argv.slice(2);
const connect = () => new Redis({ port: Number(port), host: '127.0.0.1', maxRetriesPerRequest: null });
const opts = { removeOnComplete: true };
const control = connect();
let queues = 0;

// The object of a backup, 200 bytes as JSON.
function data(n) {
  const spec = { location: 'uploads', bucket: 'user-uploads', version: n.toString(16).padStart(32, '0'), key: '' };
  spec.key = `photos/${String(n).padStart(12, '0')}/original.jpeg`;
  spec.key = spec.key.padStart(spec.key.length + 200 - JSON.stringify(spec).length, 'p');
  return spec;
}
async function perSecond(count, work) {
  const begin = process.hrtime.bigint();
  await work();
  return count / (Number(process.hrtime.bigint() - begin) / 1e9);
}
function share(callers, job) {
  return Promise.all(Array.from({ length: callers }, job));
}
async function addBulk(queue, count) {
  let next = 0;
  await share(BATCHES_IN_FLIGHT, async () => {
    while (next < count) {
      const first = next;
      next = Math.min(count, first + BATCH);
      await queue.addBulk(Array.from({ length: next - first }, (_, i) => ({ name: 'x', data: data(first + i), opts })));
    }
  });
}
async function addSingle(queue, count) {
  let next = 0;
  await share(IN_FLIGHT, async () => {
    while (next < count) await queue.add('x', data(next++), opts);
  });
}
function processed(queue, count) {
  return new Promise((resolve, reject) => {
    let done = 0;
    const worker = new Worker(queue.name, async () => {}, { connection: connect(), concurrency: 100 });
    worker.on('completed', () => {
      if (++done === count) worker.close().then(resolve, reject);
    });
    worker.on('error', reject);
  });
}
// User and system time of the server.
async function cpuSeconds() {
  const info = await control.info('cpu');
  return ['used_cpu_user', 'used_cpu_sys'].reduce((sum, key) => sum + Number(info.match(`${key}:([0-9.]+)`)[1]), 0);
}
const fresh = () => new Queue(`bench-${queues++}`, { connection: connect() });

async function rates(bulk, single) {
  const figures = {};
  let queue = fresh();
  figures.submit_batched_per_s = await perSecond(bulk, () => addBulk(queue, bulk));
  figures.process_per_s = await perSecond(bulk, () => processed(queue, bulk));
  figures.add_then_process_per_s = 1 / (1 / figures.submit_batched_per_s + 1 / figures.process_per_s);
  queue = fresh();
  const before = await cpuSeconds();
  figures.add_while_processing_per_s = await perSecond(bulk, () =>
    Promise.all([processed(queue, bulk), addBulk(queue, bulk)]));
  figures.redis_cpu_us_per_task = (await cpuSeconds() - before) * 1e6 / bulk;
  figures.end_to_end_batched_per_s = Math.max(figures.add_then_process_per_s, figures.add_while_processing_per_s);
  queue = fresh();
  figures.submit_per_s = await perSecond(single, () => addSingle(queue, single));
  await processed(queue, single);
  queue = fresh();
  figures.end_to_end_per_s = await perSecond(single, () =>
    Promise.all([processed(queue, single), addSingle(queue, single)]));
  return figures;
}

(async () => {
  const figures = what === 'rates' ? await rates(Number(counts[0]), Number(counts[1])) : {};
  if (what === 'fill') await addBulk(fresh(), Number(counts[0]));
  console.log(JSON.stringify(figures));
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
