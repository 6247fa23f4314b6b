// A payload stays data: it reaches neither into the event nor into any prototype.
export default (event: { data: Record<string, unknown>; topic: string }) => {
  const copy = { ...event.data };
  return {
    own: Object.keys(copy),
    polluted: ({} as Record<string, unknown>).polluted ?? null,
    topic: event.topic,
  };
};
