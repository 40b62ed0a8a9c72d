// graphile-worker; the drain as in its own performance test, waiting with its defaults.

export const DISTRIBUTION = "graphile-worker";
export const SETTINGS =
  "drain: 24 handlers, local queue of 500, refetch after 10 ms, completion batched without delay, " +
  "as its own performance test; idle: 24 handlers without a local queue, as its defaults are";

const CONCURRENCY = 24;
const quiet = () => () => {};

export class Contestant {
  constructor(url, note, library) {
    Object.assign(this, { url, note, library });
    this.logger = new library.Logger(quiet);
  }

  async open() {
    const { url: connectionString, logger } = this;
    this.utils = await this.library.makeWorkerUtils({ connectionString, logger });
  }

  async install() {
    await this.utils.migrate();
  }

  async invoke() {
    await this.utils.addJob("noop", { n: 1 });
  }

  async invoke_many({ count }) {
    await this.utils.addJobs(Array.from({ length: count }, () => ({ identifier: "noop", payload: { n: 1 } })));
  }

  async work() {
    await this.start({
      localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
    });
  }

  async work_idle() {
    await this.start({});
  }

  async start(batching) {
    this.runner = await this.library.run({
      preset: {
        worker: {
          connectionString: this.url,
          concurrentJobs: CONCURRENCY,
          maxPoolSize: CONCURRENCY + 1,
          logger: this.logger,
          ...batching,
        },
      },
      noHandleSignals: true,
      taskList: { noop: async () => this.note() },
    });
  }

  async unfinished() {
    return "SELECT EXISTS (SELECT FROM graphile_worker._private_jobs)";
  }

  async close() {
    await this.runner?.stop();
    await this.utils.release();
  }
}
