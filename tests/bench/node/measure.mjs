// What both Node programs share: the handler, commits on a tick, and the figures at the end.
//
// The clock starts when the group has given out its partitions, and stops when the commit that covers the last message is
// acknowledged, as it does for every program measured here.

const COMMIT_INTERVAL_MS = 100;

/** The settings that `kafka.sh` passes. */
export const settings = {
  brokers: [required("KAFKA_BROKERS")].flatMap((brokers) => brokers.split(",")),
  topic: required("BENCH_TOPIC"),
  group: required("BENCH_GROUP"),
  messages: Number(required("BENCH_COUNT")),
};

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; start this through kafka.sh`);
  return value;
}

let sum = 0;

/** The function under measurement: the same text runs in Lagless. */
export async function handler(e) {
  sum += e.data.amount + e.data.seq;
}

/** Knows what has been handled, and commits it by and by. */
export class Progress {
  #commit;
  #finished;
  #handled = 0;
  #offsets = new Map();
  #committing = false;
  #started;
  #cpu;

  /** `commit` is given pairs of a partition and the last offset handled; `finished` is called once, at the end. */
  constructor(commit, finished) {
    this.#commit = commit;
    this.#finished = finished;
    const tick = setInterval(() => this.#tick(tick), COMMIT_INTERVAL_MS);
  }

  /** Called when the partitions are there, before anything is fetched. */
  start() {
    this.#started ??= performance.now();
    this.#cpu ??= process.cpuUsage();
  }

  handled(partition, offset) {
    this.#handled += 1;
    this.#offsets.set(partition, offset);
  }

  async #tick(tick) {
    if (this.#committing || this.#offsets.size === 0) return;
    this.#committing = true;
    const covered = this.#handled;
    const offsets = [...this.#offsets];
    this.#offsets.clear();
    await this.#commit(offsets);
    this.#committing = false;
    if (covered >= settings.messages) {
      clearInterval(tick);
      this.#report();
      this.#finished();
    }
  }

  #report() {
    const seconds = (performance.now() - this.#started) / 1000;
    const { user, system } = process.cpuUsage(this.#cpu);
    if (!(sum > 0)) throw new Error("the handler has not run");
    console.log(JSON.stringify({
      messages: this.#handled,
      seconds,
      cpu_seconds: (user + system) / 1e6,
      resident_bytes: process.resourceUsage().maxRSS * 1024,
    }));
  }
}
