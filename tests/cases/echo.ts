// Returns which message it was, on which attempt, and when this isolate was started.
interface Numbered {
  key: string;
  seq: number;
}

const started_us = Math.round(performance.timeOrigin * 1000);

export default function (event: { data: Numbered; attempt: number }) {
  return { key: event.data.key, seq: event.data.seq, attempt: event.attempt, started_us };
}
