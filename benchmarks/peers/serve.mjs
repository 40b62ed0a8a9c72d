// What pgconductor/bench/serve.py is for Python: the same commands and answers, as JSON lines.
// Called as `node serve.mjs CONTESTANT.mjs ENVIRONMENT`; the library comes from the environment.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const [contestantFile, environment] = process.argv.slice(2).map((one) => path.resolve(one));
const module = await import(pathToFileURL(contestantFile));
const find = createRequire(path.join(environment, "package.json"));
const loaded = await import(pathToFileURL(find.resolve(module.DISTRIBUTION)));
const library = { ...(loaded.default ?? {}), ...loaded };
console.log = console.info = console.error;

// The clock that Python's time.monotonic() shows too.
const now = () => Number(process.hrtime.bigint()) / 1e9;
const moments = [];
let waiter = null;
let contestant = null;

function note() {
  moments.push(now());
  if (waiter !== null) {
    waiter();
    waiter = null;
  }
}

const own = {
  async about() {
    const file = path.join(environment, "node_modules", module.DISTRIBUTION, "package.json");
    const { version } = JSON.parse(readFileSync(file, "utf8"));
    return { version, settings: module.SETTINGS };
  },
  async open({ url, options }) {
    contestant = new module.Contestant(url, note, library, options);
    await contestant.open();
  },
  async invoke_one({ count }) {
    const started = now();
    for (let number = 0; number < count; number++) await contestant.invoke();
    return now() - started;
  },
  async bulk({ calls, size }) {
    const started = now();
    for (let number = 0; number < calls; number++) await contestant.invoke_many({ count: size });
    return now() - started;
  },
  async pick_up({ count }) {
    const delays = [];
    for (let number = 0; number < count; number++) {
      await sleep(20 + Math.random() * 50);
      const told = new Promise((resolve, reject) => {
        waiter = resolve;
        setTimeout(() => reject(new Error("not picked up")), 30_000).unref();
      });
      const started = now();
      await contestant.invoke();
      await told;
      delays.push(moments.at(-1) - started);
    }
    return delays;
  },
  async work_idle() {
    await (contestant.work_idle ?? contestant.work).call(contestant);
  },
  async progress() {
    return { handled: moments.length, first: moments[0] ?? null };
  },
};

async function answer(line) {
  const { do: name, with: given } = JSON.parse(line);
  const act = own[name] ?? contestant?.[name]?.bind(contestant);
  if (act === undefined) return { missing: name };
  try {
    return { value: (await act(given)) ?? null };
  } catch (error) {
    console.error(error);
    return { error: String(error) };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await answer(line))}\n`);
}
process.exit(0);
