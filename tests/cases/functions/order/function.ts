// The earlier a message, the longer it takes; the order holds all the same.
export default async (event: { data: number }) => {
  await new Promise((resolve) => setTimeout(resolve, 20 - event.data * 4));
  return event.data;
};
