// class: result
export default (event: { data: { n: number; bad: boolean } }) => {
  return event.data.bad ? { big: 1n } : event.data.n;
};
