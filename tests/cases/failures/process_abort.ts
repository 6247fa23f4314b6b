// class: exit
import process from "node:process";

export default (event: { data: { n: number; bad: boolean } }) => {
  if (event.data.bad) {
    process.abort();
  }
  return event.data.n;
};
