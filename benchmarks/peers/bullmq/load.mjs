// Drives BullMQ with its own client; speaks the lines of benchmarks/load/driver.py.
import { createInterface } from 'node:readline';
import { QUEUE, Queue, QueueEvents, REPLIES, connect, onList, recordKey } from './shared.mjs';

const WAIT_S = 15;
const PROBE = -1;
const say = (line) => process.stdout.write(`${line}\n`);
const now = () => performance.now() / 1000;

const queue = new Queue(QUEUE, { connection: connect() });
const events = onList ? null : new QueueEvents(QUEUE, { connection: connect() });
const replies = connect();
const add = (number) => ({ name: 'claim', data: { number } });

async function receive() {
  const [[, first], [, rest]] = await replies.pipeline().blpop(REPLIES, WAIT_S).lpop(REPLIES, 512).exec();
  const values = (first ? [first[1]] : []).concat(rest ?? []);
  if (!values.length) throw new Error('requests got no answer');
  return values.map((value) => value.split(':')).map(([number, won]) => [Number(number), won === '1']);
}

const send = (numbers) =>
  numbers.length === 1 ? queue.add('claim', { number: numbers[0] }) : queue.addBulk(numbers.map(add));

async function call(number) {
  const job = await queue.add('claim', { number });
  return (await job.waitUntilFinished(events, WAIT_S * 1000)) === 1;
}

class Tally {
  constructor(order) {
    Object.assign(this, { order, wins: 0, refused: 0, took: [], gap: 0, last: 0, closed: 0 });
  }
  open() {
    this.begin = now() + this.order.warm_s;
    this.end = Infinity;
  }
  going(at) {
    if (at < this.begin) return true;
    if (!this.last) {
      this.last = this.begin = at;
      this.end = at + this.order.window_s;
      say('begin');
    }
    if (at < this.end) return true;
    if (!this.closed) {
      this.closed = at;
      say('end');
    }
    return false;
  }
  note(sent, at, won) {
    if (won) this.wins += 1;
    else this.refused += 1;
    if (this.last && !this.closed) {
      this.took.push(at - sent);
      this.gap = Math.max(this.gap, at - this.last);
      this.last = at;
    }
  }
  told() {
    const took = Float64Array.from(this.took).sort();
    const at = (share) => Math.round(took[Math.min(took.length - 1, Math.floor(took.length * share))] * 1e7) / 10;
    return {
      count: took.length,
      seconds: this.closed - this.begin,
      wins: this.wins,
      refused: this.refused,
      longest_gap_ms: this.gap * 1000,
      quantiles_us: took.length ? Array.from({ length: 100 }, (_, number) => at(number / 100)) : [],
      p99_us: took.length ? at(0.99) : 0,
    };
  }
}

async function overList(order, tally) {
  const sent = new Map();
  let number = order.first;
  const put = async (count) => {
    const numbers = Array.from({ length: count }, () => number++);
    const at = now();
    for (const each of numbers) sent.set(each, at);
    await send(numbers);
  };
  tally.open();
  await put(order.outstanding);
  while (sent.size) {
    const answers = await receive();
    const at = now();
    let free = 0;
    for (const [each, won] of answers) {
      if (!sent.has(each)) continue;
      tally.note(sent.get(each), at, won);
      sent.delete(each);
      free += 1;
    }
    if (tally.going(at) && free) await put(free);
  }
}

async function overResults(order, tally) {
  let number = order.first;
  const oneAfterTheOther = async () => {
    while (tally.going(now())) {
      const sent = now();
      const won = await call(number++);
      tally.note(sent, now(), won);
    }
  };
  tally.open();
  await Promise.all(Array.from({ length: order.outstanding }, oneAfterTheOther));
}

if (events) await events.waitUntilReady();
if (process.env.BENCH_RECORD) {
  // For a recorder: as many requests, one after the other, that nobody answers.
  await send([PROBE]);
  await queue.getVersion(); // it waits for what a queue writes about itself as it is opened
  say('warm');
  await new Promise((resolve) => process.stdin.once('data', resolve));
  for (let number = 0; number < Number(process.env.BENCH_RECORD); number += 1) await send([number]);
  await new Promise((resolve) => setTimeout(resolve, 200));
  process.exit(0);
}
if (onList) {
  await send([PROBE]);
  await receive();
} else await call(PROBE);
await replies.del(recordKey(PROBE));
say('ready');
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  const tally = new Tally(order);
  await (onList ? overList : overResults)(order, tally);
  say(JSON.stringify(tally.told()));
}
process.exit(0);
