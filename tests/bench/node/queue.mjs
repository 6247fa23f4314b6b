// What the Node programs on a queue share: the handler, the count, and the figures at the end.
//
// The clock starts when the consumer is asked for, and stops when the server has answered a question that was asked on
// the same channel after the last acknowledgement.

/** Messages that the server hands out ahead of their acknowledgements. */
export const PREFETCH = 1000;

/** The settings that `amqp.sh` passes. */
export const settings = {
  url: required("AMQP_URL"),
  queue: required("BENCH_QUEUE"),
  messages: Number(required("BENCH_COUNT")),
};

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; start this through amqp.sh`);
  return value;
}

let sum = 0;

/** The function under measurement: the same text runs in Lagless. */
export async function handler(e) {
  sum += e.data.amount + e.data.seq;
}

/** Starts the clock; what it returns stops it and prints the figures. */
export function start() {
  const started = performance.now();
  const cpu = process.cpuUsage();
  return (left) => {
    const seconds = (performance.now() - started) / 1000;
    const { user, system } = process.cpuUsage(cpu);
    if (!(sum > 0)) throw new Error("the handler has not run");
    if (left !== 0) throw new Error(`${left} messages are left`);
    console.log(JSON.stringify({
      messages: settings.messages,
      seconds,
      cpu_seconds: (user + system) / 1e6,
      resident_bytes: process.resourceUsage().maxRSS * 1024,
    }));
  };
}
