/** Plain JavaScript with a named handler; it may be async. */
export async function greet(event, ctx) {
  ctx.log.info(`${event.type} from ${event.source}`);
  const name = typeof event.data === "string" ? event.data : event.data?.name;
  return { id: event.id, greeting: `Hello, ${name ?? "stranger"}` };
}
