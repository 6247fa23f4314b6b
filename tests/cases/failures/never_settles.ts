// class: timeout
export default async (event: { data: { n: number; bad: boolean } }) => {
  if (event.data.bad) {
    await new Promise(() => {});
  }
  return event.data.n;
};
