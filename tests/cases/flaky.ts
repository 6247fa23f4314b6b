// As echo.ts, but one attempt in a hundred fails.
const started_us = Math.round(performance.timeOrigin * 1000);

export default function (event: { data: { key: string; seq: number }; attempt: number }) {
  if (Math.random() < 0.01) {
    throw new Error("out of luck");
  }
  return { key: event.data.key, seq: event.data.seq, attempt: event.attempt, started_us };
}
