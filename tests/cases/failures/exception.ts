// class: exception
export default (event: { data: { n: number; bad: boolean } }) => {
  if (event.data.bad) {
    throw new TypeError("this order cannot be");
  }
  return event.data.n;
};
