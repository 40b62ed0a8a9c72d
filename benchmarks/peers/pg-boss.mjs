// pg-boss.

export const DISTRIBUTION = "pg-boss";
export const SETTINGS =
  "batches of 1,000 handled together, polled each 0.5 s when idle, which is the least it takes";

const QUEUE = "noop";

export class Contestant {
  constructor(url, note, library) {
    const PgBoss = library.PgBoss ?? library.default ?? library;
    this.note = note;
    this.boss = new PgBoss({ connectionString: url, supervise: false, schedule: false });
    this.boss.on("error", console.error);
    this.working = false;
  }

  async open() {
    await this.boss.start();
  }

  async install() {
    await this.boss.createQueue(QUEUE);
  }

  async invoke() {
    await this.boss.send(QUEUE, { n: 1 });
  }

  async invoke_many({ count }) {
    const many = Array.from({ length: count }, () => ({ name: QUEUE, data: { n: 1 } }));
    // Before version 11 the queue is named in each, since then it comes first.
    await (this.boss.insert.length > 1 ? this.boss.insert(QUEUE, many) : this.boss.insert(many));
  }

  async work() {
    this.working = true;
    await this.boss.work(QUEUE, { batchSize: 1000, pollingIntervalSeconds: 0.5 }, async (batch) => {
      for (const _ of batch) this.note();
    });
  }

  async unfinished() {
    return "SELECT EXISTS (SELECT FROM pgboss.job WHERE state < 'completed')";
  }

  async close() {
    await this.boss.stop({ graceful: true, timeout: 5000, wait: false });
  }
}
