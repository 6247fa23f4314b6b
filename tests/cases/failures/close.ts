// class: exit
export default (event: { data: { n: number; bad: boolean } }) => {
  if (event.data.bad) {
    globalThis.close();
  }
  return event.data.n;
};
