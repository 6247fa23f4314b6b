// As echo.ts, but each event takes WAIT_MS, so that a backlog stays.
const started_us = Math.round(performance.timeOrigin * 1000);

export default async function (
  event: { data: { key: string; seq: number }; attempt: number },
  ctx: { env: { WAIT_MS: string } },
) {
  await new Promise((resolve) => setTimeout(resolve, Number(ctx.env.WAIT_MS)));
  return { key: event.data.key, seq: event.data.seq, attempt: event.attempt, started_us };
}
