// class: timeout
export default async (event: { data: { n: number; bad: boolean } }) => {
  while (event.data.bad) {
    await undefined;
  }
  return event.data.n;
};
