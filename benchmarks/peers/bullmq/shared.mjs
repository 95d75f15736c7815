// What worker and driver share: the server, the modules of the peer's own folder, and the work.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const require = createRequire(`${process.env.BENCH_MODULES}/`);
export const { Queue, QueueEvents, Worker } = require('bullmq');
const Redis = require('ioredis').default ?? require('ioredis');

export const onList = (process.env.BENCH_ANSWERS ?? 'list') === 'list';
export const QUEUE = 'bench';
export const REPLIES = 'bench:replies';

const url = new URL(process.env.BENCH_REDIS_URL);
export const connect = () => new Redis({ host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null });

// The same Lua as every other peer runs: it stands once, in the Python file.
const source = readFileSync(new URL('../../load/record.py', import.meta.url), 'utf8');
export const CLAIM = source.match(/CLAIM = """\n([\s\S]*?)"""/)[1];
export const recordKey = (number) => `bench:record:${number}`;
