// class: timeout
export default (event: { data: { n: number; bad: boolean } }) => {
  while (event.data.bad) {}
  return event.data.n;
};
