// class: exception | result
export default (event: { data: { n: number; bad: boolean } }) => {
  if (!event.data.bad) {
    return event.data.n;
  }
  return {
    get toJSON() {
      throw new Error("not for you");
    },
  };
};
