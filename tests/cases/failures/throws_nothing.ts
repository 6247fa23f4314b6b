// class: exception
export default (event: { data: { n: number; bad: boolean } }) => {
  if (event.data.bad) {
    throw { reason: "not even an error", code: 7 };
  }
  return event.data.n;
};
