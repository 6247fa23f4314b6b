// class: exit
import process from "node:process";

export default (event: { data: { n: number; bad: boolean } }) => {
  if (event.data.bad) {
    process.kill(process.pid, "SIGKILL");
  }
  return event.data.n;
};
