// Boxes of images from the server: cached for thumbnails, with few requests at a time.
import { get } from "./api.js";

const KEPT = 600;
const MAX_PARALLEL = 4;
const kept = new Map();
const waiting = [];
let running = 0;

async function run(job) {
  running += 1;
  try {
    const answer = await get(job.path, job.parameters, job.signal);
    if (kept.size >= KEPT) kept.delete(kept.keys().next().value);
    kept.set(job.key, answer);
    job.resolve(answer);
  } catch (error) {
    job.reject(error);
  } finally {
    running -= 1;
    next();
  }
}

function next() {
  while (running < MAX_PARALLEL && waiting.length) {
    const job = waiting.pop(); // newest first, since it is visible now
    if (job.signal?.aborted) job.reject(new DOMException("", "AbortError"));
    else run(job);
  }
}

/** The response of `api/images/ID`, which may be cached. */
export function detail(id, parameters, signal) {
  const key = JSON.stringify([String(id), parameters]);
  const found = kept.get(key);
  if (found) return Promise.resolve(found);
  return new Promise((resolve, reject) => {
    waiting.push({ key, path: `images/${id}`, parameters, signal, resolve, reject });
    next();
  });
}

/** Remove a changed image from the cache. */
export function forget(id) {
  for (const key of kept.keys()) if (JSON.parse(key)[0] === String(id)) kept.delete(key);
}
