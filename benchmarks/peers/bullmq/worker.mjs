// A BullMQ worker: each job is one compare-and-set, answered on the list or by its return value.
import { CLAIM, QUEUE, REPLIES, Worker, connect, onList, recordKey } from './shared.mjs';

const redis = connect();
redis.defineCommand('claim', { lua: CLAIM });
const claim = (number) =>
  onList
    ? redis.claim(2, recordKey(number), REPLIES, '0', String(number))
    : redis.claim(1, recordKey(number), '0', String(number));

new Worker(QUEUE, async (job) => claim(job.data.number), {
  connection: connect(),
  concurrency: Number(process.env.BENCH_CONCURRENCY ?? 1),
  removeOnComplete: { count: onList ? 0 : 1000 },
});
