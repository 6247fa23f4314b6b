// class: timeout | memory | runner_lost
export default (event: { data: { n: number; bad: boolean } }) => {
  if (event.data.bad) {
    new Array(1e9).fill(0);
  }
  return event.data.n;
};
