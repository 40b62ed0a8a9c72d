// pg-boss.

export const DISTRIBUTION = "pg-boss";
export const SETTINGS =
  "batches of 1,000 handled together, the next fetched at once while they are full, LISTEN/NOTIFY on";

const QUEUE = "noop";

export class Contestant {
  constructor(url, note, library) {
    this.note = note;
    this.boss = new library.PgBoss({ connectionString: url, useListenNotify: true });
    this.boss.on("error", console.error);
  }

  async open() {
    await this.boss.start();
  }

  async install() {
    await this.boss.createQueue(QUEUE, { notify: true });
  }

  async invoke() {
    await this.boss.send(QUEUE, { n: 1 });
  }

  async invoke_many({ count }) {
    await this.boss.insert(QUEUE, Array.from({ length: count }, () => ({ data: { n: 1 } })));
  }

  async work() {
    await this.boss.work(QUEUE, { batchSize: 1000, burstWhenBatchFull: true }, async (batch) => {
      for (const _ of batch) this.note();
    });
  }

  async unfinished() {
    return "SELECT EXISTS (SELECT FROM pgboss.job WHERE state < 'completed')";
  }

  async close() {
    await this.boss.stop({ timeout: 5000 });
  }
}
