interface Context {
  requestId: string;
  function: string;
  trigger: string;
  attempt: number;
  env: Record<string, string>;
  signal: AbortSignal;
  remainingTime(): number;
}

// What a handler is told beside the event; the first attempt fails so that the second shows.
export default (event: { attempt: number }, ctx: Context) => {
  if (ctx.attempt === 1) {
    throw new Error("once more");
  }
  const { requestId, function: name, trigger, attempt, env } = ctx;
  const left = ctx.remainingTime();
  return {
    requestId, name, trigger, attempt, env,
    same: attempt === event.attempt,
    aborted: ctx.signal.aborted,
    left: left > 0 && left <= 30_000,
    frozen: Object.isFrozen(env),
  };
};
